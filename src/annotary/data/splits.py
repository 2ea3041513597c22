"""Honest splits: disjoint, complete, the same for the same cells in any order."""

import numpy as np
import pandas as pd

from annotary import keys
from annotary.data.hashing import hash_strings


def split_stratified(
    cell_ids: pd.Index,
    codes: np.ndarray,
    *,
    val_fraction: float,
    test_fraction: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """Split each class by the same fractions, with at least one of its cells on every side.

    Parameters
    ----------
    cell_ids
        Unique ids, ``(n_cells,)``. Cells are drawn in the order of their ids,
        so the order of the file does not matter.
    codes
        Encoded labels, ``(n_cells,)``, at least three cells of each.
    val_fraction, test_fraction
        Shares of the cells, 0 to 1; the rest is for training.

    Returns
    -------
    Side of each cell, ``(n_cells,)``.
    """
    sides = np.full(len(codes), keys.TRAIN, dtype=object)
    ids = cell_ids.to_numpy(dtype=str)
    for code in np.unique(codes):
        members = np.flatnonzero(codes == code)
        members = rng.permutation(members[np.argsort(ids[members], kind="stable")])
        n_test = min(max(1, round(test_fraction * len(members))), len(members) - 2)
        n_validation = min(max(1, round(val_fraction * len(members))), len(members) - n_test - 1)
        sides[members[:n_test]] = keys.TEST
        sides[members[n_test : n_test + n_validation]] = keys.VALIDATION
    return sides


def hash_split(cell_ids: pd.Index, sides: np.ndarray) -> str:
    """Hash which cell is on which side, in any order of the cells."""
    return hash_strings(sorted(f"{cell}\t{side}" for cell, side in zip(cell_ids, sides, strict=True)))
