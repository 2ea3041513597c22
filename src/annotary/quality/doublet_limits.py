"""How many doublets a lane's loading explains, and which calls beyond that are not acted on."""

import math

import numpy as np
import pandas as pd
from scipy.stats import binom

RATE_PER_1000_CELLS = 0.008
"""Share of doublets in a lane per 1,000 recovered cells.

10x Genomics, multiplet rate table of the Chromium Single Cell 3' v3.1 user guide (CG000204): 0.8 % of
1,000 recovered cells, 3.9 % of 5,000 and 7.6 % of 10,000; their knowledge base shows it under
https://kb.10xgenomics.com/hc/en-us/articles/360001378811.
"""

MOST_CELLS = 10_000
"""Cells at which that table ends; more in one lane are likely several lanes under one name."""

CHANCE = 0.99
"""Quantile of the binomial distribution that a number of doublets is believed up to."""

_ROUNDING = 1e-9


def expect_rate(n_cells: int, *, rate_per_1000: float = RATE_PER_1000_CELLS) -> float:
    """Expect the share of doublets, 0 to 1, among the cells recovered from one lane.

    Parameters
    ----------
    n_cells
        Recovered cells; those beyond :data:`MOST_CELLS` do not raise it further.
    rate_per_1000
        Share of doublets per 1,000 cells.
    """
    return min(1.0, rate_per_1000 * min(n_cells, MOST_CELLS) / 1000)


def count_explained(n_cells: int, rate: float) -> int:
    """Count the doublets that a rate explains, chance included.

    Parameters
    ----------
    n_cells
        Cells that were looked at.
    rate
        Expected share of doublets among them, 0 to 1.

    Returns
    -------
    The 99 % quantile of the binomial distribution, 0 to ``n_cells``.
    """
    if n_cells == 0 or rate <= 0:
        return 0
    return int(binom.ppf(CHANCE, n_cells, rate))


def raise_threshold(score: np.ndarray, threshold: float, *, most: int) -> float:
    """Raise a threshold until at most so many scores lie above it.

    Parameters
    ----------
    score
        Scores, none of them NaN, ``(n_cells,)``.
    threshold
        The method's own threshold; NaN, where it found none, stays.
    most
        Largest number of scores above it; equal scores at this rank are all left below, so that the order of
        the cells decides nothing.
    """
    if np.isnan(threshold) or most >= len(score):
        return threshold
    return max(threshold, float(np.sort(score)[::-1][most]))


def find_excess(
    called: np.ndarray, score: np.ndarray, labels: pd.Series, rates: np.ndarray, *, multiple: float
) -> np.ndarray:
    """Find the calls that a label has too many of; a doublet is no likelier in one cell type than in all.

    Doublets of two types carry the label of either, so that a rare type may well have twice the rate of all
    cells. Of a label with more calls than the multiple of those expected, rounded down, the calls of the
    lowest scores are excess, and equal scores at this rank with them.

    Parameters
    ----------
    called, score
        Call and score of each cell, ``(n_cells,)``; a score is NaN where there is none.
    labels
        Label of each cell, ``(n_cells,)``.
    rates
        Expected share of doublets in each cell's lane, ``(n_cells,)``.
    multiple
        Multiple of the expected number that a label may lose; 0 for no limit.

    Returns
    -------
    Which calls are excess, ``(n_cells,)``.
    """
    is_excess = np.zeros(len(called), dtype=bool)
    if multiple == 0:
        return is_excess
    expected = np.where(np.isfinite(score), rates, 0.0)
    for rows in labels.reset_index(drop=True).groupby(labels.to_numpy(), observed=True).indices.values():
        most = math.floor(multiple * expected[rows].sum() + _ROUNDING)
        suspects = rows[called[rows]]
        limit = raise_threshold(score[suspects], -np.inf, most=most)
        is_excess[suspects] = score[suspects] <= limit
    return is_excess
