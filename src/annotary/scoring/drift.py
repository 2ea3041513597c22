"""How far a batch is from the cells that its model was trained on."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from annotary.models.bundle import Bundle
from annotary.scoring.tally import N_BINS, Tally

Level = Literal["ok", "warn", "alert", "unknown"]

LABELS_JS, LABELS_PSI = "label_shares_jensen_shannon", "label_shares_psi"
CONFIDENCE_KS = "confidence_ks"
GENES_MISSING, POOR_CELLS = "panel_genes_missing", "poor_cells"

_TITLES = {
    LABELS_JS: "Shares of labels: Jensen-Shannon distance",
    LABELS_PSI: "Shares of labels: population stability index",
    CONFIDENCE_KS: "Confidence: Kolmogorov-Smirnov distance",
    GENES_MISSING: "Panel genes that are missing",
    POOR_CELLS: "Cells of low information",
}
LIMITS = {
    LABELS_JS: (0.2, 0.4),
    LABELS_PSI: (0.2, 0.5),
    CONFIDENCE_KS: (0.2, 0.4),
    GENES_MISSING: (0.1, 0.3),
    POOR_CELLS: (0.05, 0.2),
}
"""From where on a figure is worth a warning, and an alert.

A PSI of 0.1 to 0.25 is what credit scoring calls a moderate shift, above it a large one. The limits of the
others are conventions of this project: tissues differ in their cells without anything being wrong.
"""

_FLOOR = 1e-4
_ORDER: tuple[Level, ...] = ("unknown", "ok", "warn", "alert")


@dataclass(frozen=True)
class Reference:
    """What is known of the training cells; None where the model does not tell.

    Attributes
    ----------
    label_shares
        Share of each label, ``(n_classes,)``.
    confidence
        Share of held-out cells in each bin of confidence, ``(N_BINS,)``.
    """

    label_shares: np.ndarray | None = None
    confidence: np.ndarray | None = None

    @classmethod
    def of(cls, bundle: Bundle) -> "Reference":
        """Take what a model tells."""
        counts = getattr(bundle, "label_counts", None)
        bins = getattr(bundle, "confidence_bins", None)
        return cls(
            label_shares=None if counts is None else _to_shares(counts),
            confidence=None if bins is None or len(bins) != N_BINS else _to_shares(bins),
        )


@dataclass(frozen=True)
class DriftFigure:
    """One comparison.

    Attributes
    ----------
    name
        What was compared.
    value
        The figure, 0 for no difference; None where there is nothing to compare with.
    warn, alert
        Its limits.
    """

    name: str
    value: float | None
    warn: float
    alert: float

    @property
    def title(self) -> str:
        """What was compared, for people."""
        return _TITLES.get(self.name, self.name)

    @property
    def level(self) -> Level:
        """How bad it is."""
        if self.value is None:
            return "unknown"
        if self.value >= self.alert:
            return "alert"
        return "warn" if self.value >= self.warn else "ok"


def measure_drift(tally: Tally, reference: Reference, *, overlap: float) -> list[DriftFigure]:
    """Compare a batch with the training cells.

    Parameters
    ----------
    tally
        The batch.
    reference
        What is known of the training cells.
    overlap
        Smallest share of the panel that a file has, 0 to 1.
    """
    shares, bins = _to_shares(tally.label_counts), _to_shares(tally.confidence)
    values: dict[str, float | None] = {
        LABELS_JS: None,
        LABELS_PSI: None,
        CONFIDENCE_KS: None,
        GENES_MISSING: 1.0 - overlap,
        POOR_CELLS: tally.n_low_information / max(tally.n_cells, 1),
    }
    if reference.label_shares is not None:
        values[LABELS_JS] = compute_js_distance(shares, reference.label_shares)
        values[LABELS_PSI] = compute_psi(shares, reference.label_shares)
    if reference.confidence is not None:
        values[CONFIDENCE_KS] = compute_ks(bins, reference.confidence)
    return [DriftFigure(name, value, *LIMITS[name]) for name, value in values.items()]


def judge(figures: list[DriftFigure]) -> Level:
    """Give the level of the worst figure; ``unknown`` where nothing could be compared."""
    return max((figure.level for figure in figures), key=_ORDER.index, default="unknown")


def compute_js_distance(one: np.ndarray, other: np.ndarray) -> float:
    """Compute the Jensen-Shannon distance of two distributions, 0 to 1 (base 2)."""
    middle = (one + other) / 2
    divergence = sum(
        float(np.sum(part[part > 0] * np.log2(part[part > 0] / middle[part > 0]))) for part in (one, other)
    )
    return float(np.sqrt(max(divergence / 2, 0.0)))


def compute_psi(found: np.ndarray, expected: np.ndarray) -> float:
    """Compute the population stability index; shares below 0.0001 count as that."""
    found, expected = np.maximum(found, _FLOOR), np.maximum(expected, _FLOOR)
    return float(np.sum((found - expected) * np.log(found / expected)))


def compute_ks(one: np.ndarray, other: np.ndarray) -> float:
    """Compute the Kolmogorov-Smirnov distance of two histograms with the same bins, 0 to 1."""
    return float(np.abs(np.cumsum(one) - np.cumsum(other)).max())


def _to_shares(counts: object) -> np.ndarray:
    """Make shares of counts."""
    values = np.asarray(counts, dtype=np.float64)
    return values / max(values.sum(), 1.0)
