"""Temperature scaling: one number that makes a model's confidence mean what it says."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import log_softmax, softmax

N_BINS = 15
_LOG_BOUNDS = (-5.0, 5.0)


@dataclass(frozen=True)
class Calibration:
    """A temperature, and what it does to cells that had no say in it.

    Attributes
    ----------
    temperature
        Fitted to all cells.
    before, after
        Probabilities without it, and with the temperature of the other folds, ``(n_cells, n_classes)``.
    """

    temperature: float
    before: np.ndarray
    after: np.ndarray


def apply_temperature(scores: np.ndarray, temperature: float) -> np.ndarray:
    """Make probabilities of scores, ``(n_cells, n_classes)``; the order of classes stays."""
    return softmax(scores / temperature, axis=1)


def fit_temperature(scores: np.ndarray, codes: np.ndarray) -> float:
    """Find the temperature of the smallest log loss (Guo et al. 2017, *ICML*).

    Parameters
    ----------
    scores
        Scores of held-out cells, ``(n_cells, n_classes)``.
    codes
        Their labels, ``(n_cells,)``. A cell whose class was not fitted, scored ``-inf``, has no say.

    Returns
    -------
    The temperature; 1 where there is no cell to fit it to.
    """
    from scipy.optimize import minimize_scalar  # a third of a second that a registered model never needs

    rows = np.flatnonzero(np.isfinite(scores[np.arange(len(codes)), codes]))
    if rows.size == 0:
        return 1.0

    def log_loss(log_temperature: float) -> float:
        log_proba = log_softmax(scores[rows] / np.exp(log_temperature), axis=1)
        return -float(log_proba[np.arange(rows.size), codes[rows]].mean())

    return float(np.exp(minimize_scalar(log_loss, bounds=_LOG_BOUNDS, method="bounded").x))


def calibrate(scores: np.ndarray, codes: np.ndarray, folds: np.ndarray) -> Calibration:
    """Calibrate by scores that each cell got from a model that was not fitted to it.

    Parameters
    ----------
    scores
        Held-out scores, ``(n_cells, n_classes)``.
    codes, folds
        Label and fold of each cell, ``(n_cells,)``.
    """
    after = np.empty(scores.shape)
    for fold in np.unique(folds):
        held_out = folds == fold
        after[held_out] = apply_temperature(
            scores[held_out], fit_temperature(scores[~held_out], codes[~held_out])
        )
    return Calibration(
        temperature=fit_temperature(scores, codes), before=apply_temperature(scores, 1.0), after=after
    )


def tabulate_reliability(probabilities: np.ndarray, codes: np.ndarray) -> pd.DataFrame:
    """Compare confidence with accuracy in bins of equal width (Guo et al. 2017).

    Parameters
    ----------
    probabilities
        ``(n_cells, n_classes)``.
    codes
        True labels, ``(n_cells,)``.

    Returns
    -------
    ``confidence``, ``accuracy`` and ``n_cells`` of each bin that has cells, ``(at most N_BINS, 3)``.
    """
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == codes
    bins = np.minimum((confidence * N_BINS).astype(int), N_BINS - 1)
    by_bin = pd.DataFrame({"confidence": confidence, "accuracy": right.astype(float)}).groupby(bins)
    return by_bin.mean().assign(n_cells=by_bin.size())


def compute_ece(probabilities: np.ndarray, codes: np.ndarray) -> float:
    """Compute the expected calibration error, 0 to 1: the mean gap of confidence and accuracy."""
    table = tabulate_reliability(probabilities, codes)
    gaps = (table["confidence"] - table["accuracy"]).abs()
    return float(np.average(gaps, weights=table["n_cells"]))
