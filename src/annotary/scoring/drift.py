"""How far a batch is from the cells that its model was trained on."""

from dataclasses import dataclass
from typing import Literal, Self

import numpy as np

from annotary.models.bundle import Bundle
from annotary.scoring.detection import GeneShift, compare_detection
from annotary.scoring.survey import Survey
from annotary.scoring.tally import Tally

Level = Literal["ok", "warn", "alert", "unknown"]

LABELS_JS, LABELS_PSI = "label_shares_jensen_shannon", "label_shares_psi"
CONFIDENCE_KS = "confidence_ks"
GENES_MISSING, GENES_SHIFTED = "panel_genes_missing", "panel_genes_shifted"
POOR_CELLS, OOD_CELLS = "poor_cells", "ood_cells"

_TITLES = {
    LABELS_JS: "Shares of labels: Jensen-Shannon distance",
    LABELS_PSI: "Shares of labels: population stability index",
    CONFIDENCE_KS: "Confidence: Kolmogorov-Smirnov distance",
    GENES_MISSING: "Panel genes: share that is missing",
    GENES_SHIFTED: "Panel genes: share that is shifted",
    POOR_CELLS: "Cells: share of low information",
    OOD_CELLS: "Cells: share out of distribution",
}
LIMITS = {
    LABELS_JS: (0.2, 0.4),
    LABELS_PSI: (0.2, 0.5),
    CONFIDENCE_KS: (0.2, 0.4),
    GENES_MISSING: (0.1, 0.3),
    GENES_SHIFTED: (0.1, 0.3),
    POOR_CELLS: (0.05, 0.2),
    OOD_CELLS: (0.1, 0.3),
}
"""From where on a figure is worth a warning, and an alert.

A PSI of 0.1 to 0.25 is what credit scoring calls a moderate shift, above it a large one. The limits of the
others are conventions of this project: tissues differ in their cells without anything being wrong.
"""

_FLOOR = 1e-4
_ORDER: tuple[Level, ...] = ("unknown", "ok", "warn", "alert")
_CHANCE_KS = 1.95
"""Times the square root of 1/n + 1/m, what chance alone exceeds in 1 of 1,000 comparisons (Smirnov 1948)."""


@dataclass(frozen=True)
class Reference:
    """What is known of the training cells; None where the model does not tell.

    Attributes
    ----------
    label_shares
        Share of each label, ``(n_classes,)``.
    confidence
        Held-out cells in each bin of confidence, ``(N_BINS,)``.
    detection
        Share of cells that express each panel gene, ``(n_panel,)``.
    panel
        The panel genes, ``(n_panel,)``.
    """

    label_shares: np.ndarray | None = None
    confidence: np.ndarray | None = None
    detection: np.ndarray | None = None
    panel: tuple[str, ...] = ()

    @classmethod
    def of(cls, bundle: Bundle) -> Self:
        """Take what a model tells."""
        profile = bundle.profile
        return cls(
            label_shares=_to_shares(bundle.label_counts),
            confidence=None if profile is None else profile.confidence_bins,
            detection=None if profile is None else profile.detection,
            panel=bundle.spec.gene_ids,
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


@dataclass(frozen=True)
class Drift:
    """All comparisons of a batch with the training cells.

    Attributes
    ----------
    figures
        Figures with their limits.
    genes
        How often each panel gene was found, beside the training cells; None where the model does not tell.
    """

    figures: tuple[DriftFigure, ...] = ()
    genes: GeneShift | None = None

    @property
    def level(self) -> Level:
        """Level of the worst figure; ``unknown`` where nothing could be compared."""
        return max((figure.level for figure in self.figures), key=_ORDER.index, default="unknown")


def measure_drift(tally: Tally, survey: Survey, reference: Reference, *, overlap: float) -> Drift:
    """Compare a batch with the training cells.

    Parameters
    ----------
    tally, survey
        The batch.
    reference
        What is known of the training cells.
    overlap
        Smallest share of the panel that a file has, 0 to 1.
    """
    shares = _to_shares(tally.label_counts)
    values: dict[str, float | None] = dict.fromkeys(LIMITS)
    limits = dict(LIMITS)
    values[GENES_MISSING] = 1.0 - overlap
    values[POOR_CELLS] = tally.n_low_information / max(tally.n_cells, 1)
    values[OOD_CELLS] = tally.n_ood / max(tally.n_cells, 1)
    if reference.label_shares is not None:
        values[LABELS_JS] = compute_js_distance(shares, reference.label_shares)
        values[LABELS_PSI] = compute_psi(shares, reference.label_shares)
    if reference.confidence is not None:
        values[CONFIDENCE_KS] = compute_ks(_to_shares(tally.confidence), _to_shares(reference.confidence))
        chance = compute_ks_of_chance(tally.n_cells, int(reference.confidence.sum()))
        warn, alert = LIMITS[CONFIDENCE_KS]
        limits[CONFIDENCE_KS] = max(warn, chance), max(alert, chance)
    genes = None
    if reference.detection is not None:
        genes = compare_detection(survey, reference.detection, reference.panel)
        values[GENES_SHIFTED] = genes.share_shifted
    figures = (DriftFigure(name, value, *limits[name]) for name, value in values.items())
    return Drift(figures=tuple(figures), genes=genes)


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


def compute_ks_of_chance(n_cells: int, n_reference: int) -> float:
    """Compute the distance that two samples of the same distribution exceed in 1 of 1,000 cases."""
    return _CHANCE_KS * float(np.sqrt(1 / max(n_cells, 1) + 1 / max(n_reference, 1)))


def _to_shares(counts: object) -> np.ndarray:
    """Make shares of counts."""
    values = np.asarray(counts, dtype=np.float64)
    return values / max(values.sum(), 1.0)
