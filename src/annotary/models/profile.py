"""What the cells looked like that a model comes from: what later cells are compared with."""

from dataclasses import dataclass
from typing import Self

import numpy as np

from annotary.data.counts import count_cells_per_gene
from annotary.models.confidence.held_out import FittedCells, HeldOutCells
from annotary.quality.qc import QualityThresholds

N_BINS = 50
"""Bins of confidence, of equal width from 0 to 1."""

_CONFIDENCE_BINS, _DETECTION = "confidence_bins", "detection"


@dataclass(frozen=True)
class TrainingProfile:
    """Figures of a model's cells, whose size does not grow with them.

    Attributes
    ----------
    confidence_bins
        Cells that the model was not fitted to, in each bin of confidence, ``(N_BINS,)``, int64.
    detection
        Share of the cells that it was fitted to that express each panel gene, ``(n_panel,)``, float32.
    thresholds
        What each of them had to have.
    """

    confidence_bins: np.ndarray
    detection: np.ndarray
    thresholds: QualityThresholds

    @classmethod
    def measure(cls, held_out: HeldOutCells, fitted: FittedCells, thresholds: QualityThresholds) -> Self:
        """Measure confidence on held-out cells, and the genes of the fitted ones."""
        return cls(
            confidence_bins=count_confidence(held_out.probabilities.max(axis=1)),
            detection=(count_cells_per_gene(fitted.log_expr) / len(fitted.codes)).astype(np.float32),
            thresholds=thresholds,
        )

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Give what is saved beside the thresholds."""
        return {_CONFIDENCE_BINS: self.confidence_bins, _DETECTION: self.detection}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray], thresholds: QualityThresholds) -> Self:
        """Take what :meth:`to_arrays` gave."""
        return cls(
            confidence_bins=arrays[_CONFIDENCE_BINS], detection=arrays[_DETECTION], thresholds=thresholds
        )


def count_confidence(confidence: np.ndarray) -> np.ndarray:
    """Count cells ``(n_cells,)`` by their confidence, ``(N_BINS,)``, int64."""
    bins = np.minimum((confidence * N_BINS).astype(np.int64), N_BINS - 1)
    return np.bincount(bins, minlength=N_BINS)
