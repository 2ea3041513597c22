"""When a label is too unsure to be given: one threshold on confidence for each label."""

import numpy as np

LEAST_CELLS = 10
"""With fewer held-out cells of its own, a label takes the threshold of all labels together."""


def fit_thresholds(probabilities: np.ndarray, codes: np.ndarray, *, min_precision: float) -> np.ndarray:
    """Choose for each label the lowest confidence from which on enough of its cells are right.

    Of the held-out cells that get a label, those at least as confident as its threshold have the label
    in at least ``min_precision`` of cases. Where no confidence is enough, the threshold is infinite.
    A higher precision never gives a lower threshold.

    Parameters
    ----------
    probabilities
        Calibrated probabilities of held-out cells, ``(n_cells, n_classes)``.
    codes
        Their labels, ``(n_cells,)``.
    min_precision
        Share of accepted cells that are right, 0 to 1.

    Returns
    -------
    Thresholds, ``(n_classes,)``, float64.
    """
    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    right = predicted == codes
    shared = _find_threshold(confidence, right, min_precision)
    thresholds = np.full(probabilities.shape[1], shared)
    for code in range(probabilities.shape[1]):
        own = predicted == code
        if own.sum() >= LEAST_CELLS:
            thresholds[code] = _find_threshold(confidence[own], right[own], min_precision)
    return thresholds


def find_unassigned(probabilities: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Find cells whose most probable label is below its threshold, ``(n_cells,)``, bool."""
    unassigned: np.ndarray = probabilities.max(axis=1) < thresholds[probabilities.argmax(axis=1)]
    return unassigned


def _find_threshold(confidence: np.ndarray, right: np.ndarray, min_precision: float) -> float:
    """Find the lowest confidence whose cells, and all more confident ones, are precise enough."""
    if min_precision <= 0:
        return 0.0
    values, counts = np.unique(-confidence, return_counts=True)  # most confident first, ties together
    order = np.argsort(-confidence, kind="stable")
    last = np.cumsum(counts)
    precision = np.cumsum(right[order])[last - 1] / last
    enough = np.flatnonzero(precision >= min_precision)
    if not enough.size:
        return float("inf")
    # Where every cell is accepted, so is one that is less sure than any of them.
    return 0.0 if enough[-1] == len(values) - 1 else float(-values[enough[-1]])
