"""The cells that confidence is learned from."""

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix

from annotary.models.calibration import apply_temperature, calibrate

_SMALLEST = np.finfo(np.float32).tiny


@dataclass(frozen=True)
class HeldOutCells:
    """What a model, or its twins of other folds, say of cells that they were not fitted to.

    Attributes
    ----------
    probabilities
        Calibrated without the cell's own fold, ``(n_cells, n_classes)``, float32 as models give them:
        limits are compared with such.
    codes
        True labels, ``(n_cells,)``.
    temperature
        What the logarithm of the model's probabilities is yet to be divided by; 1 for a model that
        calibrates its own.
    """

    probabilities: np.ndarray
    codes: np.ndarray
    temperature: float = 1.0


@dataclass(frozen=True)
class FittedCells:
    """The cells that a model was fitted to.

    Attributes
    ----------
    log_expr
        What :func:`annotary.quality.prepare.log_normalize` gives at the model's target sum,
        ``(n_cells, n_panel)``, float32.
    codes, folds
        Label and cross-validation fold of each cell, ``(n_cells,)``.
    """

    log_expr: csr_matrix
    codes: np.ndarray
    folds: np.ndarray


def calibrate_probabilities(probabilities: np.ndarray, codes: np.ndarray, folds: np.ndarray) -> HeldOutCells:
    """Fit the temperature of a model that does not calibrate itself.

    Parameters
    ----------
    probabilities
        Its probabilities of cells that it was not fitted to, ``(n_cells, n_classes)``.
    codes, folds
        Label and fold of each cell, ``(n_cells,)``. Cells of one fold alone are calibrated by themselves.
    """
    scores = _to_scores(probabilities)
    found = calibrate(scores, codes, folds)
    several = len(np.unique(folds)) > 1
    chosen = found.after if several else apply_temperature(scores, found.temperature)
    return HeldOutCells(
        probabilities=chosen.astype(np.float32),
        codes=codes,
        temperature=found.temperature,
    )


def scale_probabilities(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Divide the logarithm of probabilities by a temperature, ``(n_cells, n_classes)``, float32.

    A softmax's logarithm is its scores but for a number that all classes share, so this is temperature
    scaling of the scores; the order of classes stays.
    """
    if temperature == 1.0:
        return probabilities
    return apply_temperature(_to_scores(probabilities), temperature).astype(np.float32)


def _to_scores(probabilities: np.ndarray) -> np.ndarray:
    """Take logarithms, ``(n_cells, n_classes)``, float64; none is infinite."""
    return np.log(np.maximum(probabilities.astype(np.float64), _SMALLEST))
