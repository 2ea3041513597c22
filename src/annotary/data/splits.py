"""Honest splits: disjoint, complete, the same for the same cells in any order."""

import warnings
from collections.abc import Iterator

import numpy as np
import pandas as pd

from annotary import keys
from annotary.data.hashing import hash_strings
from annotary.errors import LabelError

CELL_ID = "cell_id"
SIDE = "side"

_NO_FOLD = -1
_MIN_FOLDS = 2
_MOST_DRAWS = 10


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
    ids = cell_ids.to_numpy(dtype=object)
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
            remedy="Pass --split stratified, or name a column of more groups with --group-key.",
        )
    sides = np.full(len(codes), keys.TRAIN, dtype=object)
    test = _draw_groups(codes, groups, fraction=test_fraction, n_sides=3, seed=seed)
    sides[test] = keys.TEST
    rest = np.flatnonzero(~test)
    fraction = val_fraction / (1 - test_fraction)
    drawn = _draw_groups(codes[rest], groups[rest], fraction=fraction, n_sides=2, seed=seed)
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
    codes: np.ndarray, groups: np.ndarray, *, fraction: float, n_sides: int, seed: int
) -> np.ndarray:
    """Draw whole groups with about a fraction of the cells for one of the sides.

    Labels on every side come first: a draw loses a label that it has not, or that
    is left in fewer groups than there are other sides. Even shares come second.

    Returns
    -------
    Whether each cell is drawn, ``(n_cells,)``.
    """
    label, group = (np.unique(values, return_inverse=True)[1] for values in (codes, groups))
    n_groups = group.max() + 1
    n_folds = min(max(2, round(1 / fraction)), n_groups)
    has_label = np.zeros((n_groups, label.max() + 1), dtype=bool)
    has_label[group, label] = True
    n_cells = np.bincount(label)
    rng = np.random.RandomState(seed)  # scikit-learn takes no Generator
    best, least = np.zeros(len(codes), dtype=bool), (np.inf, np.inf)
    for _ in range(_MOST_DRAWS):
        folds = _fold_groups(label, group, n_folds=n_folds, random_state=rng)
        for fold in range(n_folds):
            drawn = np.isin(np.arange(n_groups), group[folds == fold])
            if not 0 < drawn.sum() <= n_groups - n_sides + 1:
                continue
            n_lost = (~has_label[drawn].any(axis=0)).sum()
            n_lost += (has_label[~drawn].sum(axis=0) < n_sides - 1).sum()
            shares = np.bincount(label[folds == fold], minlength=len(n_cells)) / n_cells
            uneven = np.abs(shares - fraction).mean() + abs((folds == fold).mean() - fraction)
            if (n_lost, uneven) < least:
                best, least = folds == fold, (n_lost, uneven)
        if least[0] == 0:
            break
    return best


def assign_folds(
    cell_ids: pd.Index,
    codes: np.ndarray,
    sides: np.ndarray,
    groups: np.ndarray | None,
    *,
    n_folds: int,
    seed: int,
    place: str,
) -> np.ndarray:
    """Assign training and validation cells to folds, so that each fold can be scored by the others.

    Parameters
    ----------
    cell_ids
        Unique ids, ``(n_cells,)``; the order of the file does not matter.
    codes, sides
        Encoded label and side of each cell, ``(n_cells,)``.
    groups
        Group of each cell, ``(n_cells,)``, which is kept in one fold; None has each label
        in each fold instead.
    n_folds
        Wished folds, at least 2; fewer when a label has fewer cells, or when there
        are fewer groups, or where a label would be in one fold only.
    seed
        Seed of the folds.
    place
        File and element, for the message.

    Returns
    -------
    Fold of each cell, from 0; -1 for test cells, ``(n_cells,)``.

    Raises
    ------
    LabelError
        If a label has a single cell to fit and validate with, or, with groups, is in one group only.
    """
    kept = np.flatnonzero(sides != keys.TEST)
    kept = kept[np.argsort(cell_ids.to_numpy(dtype=object)[kept], kind="stable")]
    names, label = np.unique(codes[kept], return_inverse=True)
    unit = np.arange(len(kept)) if groups is None else np.unique(groups[kept], return_inverse=True)[1]
    n_units = np.bincount(np.unique(np.column_stack([label, unit]), axis=0)[:, 0])
    rarest = int(n_units.argmin())
    if n_units[rarest] < _MIN_FOLDS:
        what = "cells" if groups is None else "groups"
        raise LabelError(
            place,
            expected=f"at least {_MIN_FOLDS} training and validation {what} of each label",
            found=f"{n_units[rarest]} of label number {names[rarest]}",
            remedy="Merge, relabel or remove these cells, and preprocess again.",
        )
    folds = np.full(len(codes), _NO_FOLD)
    if groups is None:
        folds[kept] = _fold_cells(label, n_folds=min(n_folds, int(n_units[rarest])), seed=seed)
    else:
        folds[kept] = _fold_whole_groups(label, unit, n_folds=n_folds, seed=seed, place=place)
    return folds


def _fold_cells(label: np.ndarray, *, n_folds: int, seed: int) -> np.ndarray:
    """Assign cells to folds that each have every label, ``(n_cells,)``."""
    folds = np.empty(len(label), dtype=np.int64)
    rng = np.random.default_rng(seed)
    n_dealt = 0
    for code in np.unique(label):
        members = rng.permutation(np.flatnonzero(label == code))
        folds[members] = (n_dealt + np.arange(len(members))) % n_folds  # on where the last label ended
        n_dealt += len(members)
    return folds


def _fold_whole_groups(
    label: np.ndarray, group: np.ndarray, *, n_folds: int, seed: int, place: str
) -> np.ndarray:
    """Assign groups to as many folds as leave every label something to be learned from."""
    for fewer in range(min(n_folds, group.max() + 1), _MIN_FOLDS - 1, -1):
        folds = _fold_groups(label, group, n_folds=fewer, random_state=np.random.RandomState(seed))
        n_folds_of_label = np.bincount(np.unique(np.column_stack([label, folds]), axis=0)[:, 0])
        if n_folds_of_label.min() >= _MIN_FOLDS and len(np.unique(folds)) == fewer:
            return folds
    raise LabelError(
        place,
        expected=f"{_MIN_FOLDS} folds of whole groups that both have every label",
        found="labels that follow the groups too closely",
        remedy="Try another --seed, or leave out labels that few groups have.",
    )


def _fold_groups(
    label: np.ndarray, group: np.ndarray, *, n_folds: int, random_state: np.random.RandomState
) -> np.ndarray:
    """Assign whole groups to folds with labels as even as they allow, ``(n_cells,)``."""
    from sklearn.model_selection import StratifiedGroupKFold  # takes half a second

    folds = np.empty(len(label), dtype=np.int64)
    splitter = StratifiedGroupKFold(n_folds, shuffle=True, random_state=random_state)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a label with fewer cells than folds is no harm here
        for fold, (_, held_out) in enumerate(splitter.split(np.zeros(len(label)), label, group)):
            folds[held_out] = fold
    return folds


def make_split_table(cell_ids: pd.Index, sides: np.ndarray, folds: np.ndarray) -> pd.DataFrame:
    """Tabulate side and fold of each cell, in the order of the ids.

    Returns
    -------
    ``cell_id``, ``side`` and ``fold`` (-1 for test cells), ``(n_cells, 3)``.
    """
    table = pd.DataFrame(
        {CELL_ID: cell_ids.to_numpy(dtype=object), SIDE: pd.Categorical(sides), keys.FOLD: folds}
    )
    return table.sort_values(CELL_ID, kind="stable", ignore_index=True)


def iter_fold_tables(table: pd.DataFrame) -> Iterator[tuple[int, pd.DataFrame]]:
    """Make the split table of each fold: it validates, the other folds train, test cells stay so.

    Parameters
    ----------
    table
        What :func:`make_split_table` gives, ``(n_cells, 3)``.

    Yields
    ------
    Number of each fold, and its table, ``(n_cells, 3)``.
    """
    is_test = (table[SIDE] == keys.TEST).to_numpy()
    for fold in np.unique(table.loc[~is_test, keys.FOLD]):
        codes = np.select([is_test, table[keys.FOLD] == fold], [2, 1], 0)
        yield int(fold), table.assign(**{SIDE: pd.Categorical.from_codes(codes, keys.SIDES)})


def hash_split(cell_ids: pd.Index, sides: np.ndarray, folds: np.ndarray) -> str:
    """Hash which cell is on which side and in which fold, in any order of the cells."""
    order = np.argsort(cell_ids.to_numpy(dtype=object), kind="stable")
    return hash_strings(f"{cell_ids[row]}\t{sides[row]}\t{folds[row]}" for row in order)
