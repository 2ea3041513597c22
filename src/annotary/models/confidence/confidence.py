"""Everything that makes a model's probabilities mean something, learned once and kept in its bundle."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from scipy.sparse import csr_matrix

from annotary.models.confidence.assignment import find_unassigned, fit_thresholds
from annotary.models.confidence.conformal import fit_set_limits, make_sets
from annotary.models.confidence.held_out import FittedCells, HeldOutCells, scale_probabilities
from annotary.models.confidence.novelty import NoveltyDetector

_TEMPERATURE = "temperature"
_THRESHOLDS = "thresholds"
_SET_LIMITS = "set_limits"


@dataclass(frozen=True)
class ConfidenceSettings:
    """What confidence is to mean.

    Attributes
    ----------
    conformal_alpha
        Share of a label's cells whose prediction sets may lack it, 0 to 1.
    min_precision
        Share of the cells that are not unassigned whose label is right, 0 to 1.
    ood_rate
        Share of known cells that may be called out of distribution, 0 to 1.
    """

    conformal_alpha: float
    min_precision: float
    ood_rate: float


@dataclass(frozen=True)
class Confidence:
    """Temperature, thresholds and limits of a model.

    Attributes
    ----------
    settings
        What they were chosen for.
    temperature
        What the logarithm of the model's probabilities is divided by; 1 for one that calibrates its own.
    thresholds
        Least confidence with which each label is given, ``(n_classes,)``.
    set_limits
        Least probability with which each label is in a prediction set, ``(n_classes,)``.
    novelty
        Tells cells of a kind that the model was not fitted to.
    """

    settings: ConfidenceSettings
    temperature: float
    thresholds: np.ndarray
    set_limits: np.ndarray
    novelty: NoveltyDetector

    @classmethod
    def fit(cls, held_out: HeldOutCells, fitted: FittedCells, settings: ConfidenceSettings) -> Self:
        """Choose thresholds and limits on held-out cells, and learn what the fitted cells look like."""
        return cls(
            settings=settings,
            temperature=held_out.temperature,
            thresholds=fit_thresholds(
                held_out.probabilities, held_out.codes, min_precision=settings.min_precision
            ),
            set_limits=fit_set_limits(held_out.probabilities, held_out.codes, alpha=settings.conformal_alpha),
            novelty=NoveltyDetector.fit(fitted, held_out, rate=settings.ood_rate),
        )

    def calibrate(self, probabilities: np.ndarray) -> np.ndarray:
        """Calibrate a model's probabilities, ``(n_cells, n_classes)``, float32."""
        return scale_probabilities(probabilities, self.temperature)

    def find_unassigned(self, probabilities: np.ndarray) -> np.ndarray:
        """Find cells whose label is too unsure to be given, ``(n_cells,)``, bool."""
        return find_unassigned(probabilities, self.thresholds)

    def make_sets(self, probabilities: np.ndarray) -> np.ndarray:
        """Make prediction sets of calibrated probabilities, ``(n_cells, n_classes)``, bool."""
        return make_sets(probabilities, self.set_limits)

    def score_novelty(self, log_expr: csr_matrix, probabilities: np.ndarray) -> np.ndarray:
        """Score how unlike known cells others are, ``(n_cells,)``, float32; 1 is the threshold."""
        return self.novelty.score(log_expr, probabilities)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Give what is saved beside the settings."""
        return {
            _TEMPERATURE: np.array([self.temperature]),
            _THRESHOLDS: self.thresholds,
            _SET_LIMITS: self.set_limits,
        } | self.novelty.to_arrays()

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray], settings: ConfidenceSettings) -> Self:
        """Take what :meth:`to_arrays` gave."""
        return cls(
            settings=settings,
            temperature=float(arrays[_TEMPERATURE][0]),
            thresholds=arrays[_THRESHOLDS],
            set_limits=arrays[_SET_LIMITS],
            novelty=NoveltyDetector.from_arrays(arrays),
        )
