"""Honest splits: disjoint, complete, the same for the same cells in any order."""

import warnings

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold

from annotary import keys
from annotary.data.hashing import hash_strings
from annotary.errors import LabelError


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


def split_by_group(
    codes: np.ndarray,
    groups: np.ndarray,
    *,
    val_fraction: float,
    test_fraction: float,
    seed: int,
    place: str,
) -> np.ndarray:
    """Keep every group (a donor, a batch) on one side, and labels as even as groups allow.

    Parameters
    ----------
    codes
        Encoded labels, ``(n_cells,)``.
    groups
        Group of each cell, ``(n_cells,)``; their order in the file does not matter.
    val_fraction, test_fraction
        Wished shares of the cells, 0 to 1; each side gets one group at least.
    seed
        Seed of scikit-learn's ``StratifiedGroupKFold``, which balances the labels.
    place
        File and element, for the message.

    Returns
    -------
    Side of each cell, ``(n_cells,)``.

    Raises
    ------
    LabelError
        If there are fewer than three groups, or a label is in no training group.
    """
    n_groups = len(np.unique(groups))
    if n_groups < len(keys.SIDES):
        raise LabelError(
            place,
            expected="at least three groups, one for each side of the split",
            found=f"{n_groups} ({', '.join(map(str, np.unique(groups)))})",
            remedy="Name another column with --group-key, or pass --split stratified.",
        )
    sides = np.full(len(codes), keys.TRAIN, dtype=object)
    test = _draw_groups(codes, groups, fraction=test_fraction, most=n_groups - 2, seed=seed)
    sides[test] = keys.TEST
    rest = np.setdiff1d(np.arange(len(codes)), test)
    fraction = val_fraction / (1 - test_fraction)
    most = len(np.unique(groups[rest])) - 1
    drawn = _draw_groups(codes[rest], groups[rest], fraction=fraction, most=most, seed=seed)
    sides[rest[drawn]] = keys.VALIDATION
    unseen = np.setdiff1d(codes, codes[sides == keys.TRAIN])
    if len(unseen):
        raise LabelError(
            place,
            expected="each label in some training group",
            found=f"{len(unseen)} labels in validation or test groups only",
            remedy="Try another --seed, or leave out labels that few groups have.",
        )
    return sides


def _draw_groups(
    codes: np.ndarray, groups: np.ndarray, *, fraction: float, most: int, seed: int
) -> np.ndarray:
    """Draw whole groups with about a fraction of the cells: positions of their cells."""
    n_groups = len(np.unique(groups))
    n_folds = min(max(2, round(1 / fraction)), n_groups)
    folds = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a label with fewer cells than folds is no harm here
        choices = [drawn for _, drawn in folds.split(np.zeros(len(codes)), codes, groups)]
    wished = fraction * len(codes)
    allowed = [drawn for drawn in choices if 0 < len(np.unique(groups[drawn])) <= most]
    return min(allowed, key=lambda drawn: abs(len(drawn) - wished))


def hash_split(cell_ids: pd.Index, sides: np.ndarray) -> str:
    """Hash which cell is on which side, in any order of the cells."""
    return hash_strings(sorted(f"{cell}\t{side}" for cell, side in zip(cell_ids, sides, strict=True)))
