"""Split-conformal prediction sets: every label that is plausible for a cell, with a stated coverage.

The score is that of Sadinle, Lei and Wasserman 2019 (*JASA* 114, least ambiguous sets): one minus the
probability of the label. Each label has its own limit (Vovk 2012, *ACML*, label-conditional), so that a
rare label is covered as often as a common one. A label with too few held-out cells for a limit of its
own takes the limit of all cells together (Ding et al. 2023, *NeurIPS*, the null cluster), or the smallest
probability of its own cells if that is less: a higher coverage never makes a set smaller.
"""

import numpy as np


def fit_set_limits(probabilities: np.ndarray, codes: np.ndarray, *, alpha: float) -> np.ndarray:
    """Choose for each label the least probability with which it is in a set.

    Parameters
    ----------
    probabilities
        Calibrated probabilities of held-out cells, ``(n_cells, n_classes)``.
    codes
        Their labels, ``(n_cells,)``.
    alpha
        Share of a label's cells whose sets may lack it, 0 to 1.

    Returns
    -------
    Limits, ``(n_classes,)``, float64. A new cell that is exchangeable with the held-out cells of its
    label has it in its set with a probability of at least ``1 - alpha``; with fewer than
    ``1 / alpha - 1`` held-out cells of the label, this holds for all cells together, not for the label.
    """
    own = probabilities[np.arange(len(codes)), codes]
    shared = _find_limit(own, alpha)
    limits = np.full(probabilities.shape[1], -np.inf if shared is None else shared)
    for code in range(probabilities.shape[1]):
        of_label = own[codes == code]
        found = _find_limit(of_label, alpha)
        if found is not None:
            limits[code] = found
        elif len(of_label):
            limits[code] = min(limits[code], of_label.min())
    return limits


def make_sets(probabilities: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """Make prediction sets, ``(n_cells, n_classes)``, bool; the most probable label is in every set."""
    sets: np.ndarray = probabilities >= limits
    sets[np.arange(len(sets)), probabilities.argmax(axis=1)] = True
    return sets


def _find_limit(own: np.ndarray, alpha: float) -> float | None:
    """Find the k-th smallest probability, ``k = floor(alpha (n + 1))``; None if that is none."""
    rank = int(np.floor(alpha * (len(own) + 1) + 1e-9))
    return float(np.sort(own)[rank - 1]) if rank >= 1 else None
