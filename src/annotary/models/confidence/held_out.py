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
    distances
        How far each cell is from cells of the nearest label that it was not one of, ``(n_cells,)``; see
        :mod:`annotary.models.confidence.novelty`.
    temperature
        What the logarithm of the model's probabilities is yet to be divided by; 1 for a model that
        calibrates its own.
    """

    probabilities: np.ndarray
    codes: np.ndarray
    distances: np.ndarray
    temperature: float = 1.0


@dataclass(frozen=True)
class FittedCells:
    """The cells that a model was fitted to.

    Attributes
    ----------
    log_expr
        What :func:`annotary.quality.prepare.log_normalize` gives at the model's target sum,
        ``(n_cells, n_panel)``, float32.
    codes
        Their labels, ``(n_cells,)``.
    """

    log_expr: csr_matrix
    codes: np.ndarray


def calibrate_probabilities(
    probabilities: np.ndarray, codes: np.ndarray, folds: np.ndarray
) -> tuple[np.ndarray, float]:
    """Calibrate a model that does not calibrate itself.

    Parameters
    ----------
    probabilities
        Its probabilities of cells that it was not fitted to, ``(n_cells, n_classes)``.
    codes, folds
        Label and fold of each cell, ``(n_cells,)``.

    Returns
    -------
    Probabilities with the temperature of the other folds, ``(n_cells, n_classes)``, float32 (of one fold
    alone, with that of all cells), and the temperature of all cells.
    """
    scores = _to_scores(probabilities)
    found = calibrate(scores, codes, folds)
    several = len(np.unique(folds)) > 1
    calibrated = found.after if several else apply_temperature(scores, found.temperature)
    return calibrated.astype(np.float32), found.temperature


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
