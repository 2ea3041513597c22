import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from annotary import keys
from annotary.data.splits import (
    assign_folds,
    hash_split,
    iter_fold_tables,
    make_split_table,
    split_by_group,
    split_stratified,
)
from annotary.errors import LabelError

sizes = st.lists(st.integers(3, 40), min_size=2, max_size=5)
seeds = st.integers(0, 2**32 - 1)
# Larger fractions: see test_large_fractions_leave_cells_to_train_on.
fractions = st.floats(0.01, 1 / 3)

FOLDING = {"n_folds": 5, "seed": 42, "place": "x.h5ad"}


def make_cells(class_sizes):
    codes = np.repeat(np.arange(len(class_sizes)), class_sizes)
    return pd.Index([f"cell{cell}" for cell in range(len(codes))]), codes


def split(cell_ids, codes, *, val_fraction=0.1, test_fraction=0.2, seed=0):
    return split_stratified(
        cell_ids,
        codes,
        val_fraction=val_fraction,
        test_fraction=test_fraction,
        rng=np.random.default_rng(seed),
    )


@given(class_sizes=sizes, seed=seeds, val_fraction=fractions, test_fraction=fractions)
def test_every_cell_has_one_side_and_every_side_every_class(class_sizes, seed, val_fraction, test_fraction):
    cell_ids, codes = make_cells(class_sizes)
    sides = split(cell_ids, codes, val_fraction=val_fraction, test_fraction=test_fraction, seed=seed)
    assert len(sides) == len(codes)
    assert set(sides) == set(keys.SIDES)
    for code in range(len(class_sizes)):
        assert set(sides[codes == code]) == set(keys.SIDES)


@given(class_sizes=sizes, seed=seeds)
def test_fractions_of_each_class_are_met_within_a_cell(class_sizes, seed):
    cell_ids, codes = make_cells(class_sizes)
    sides = split(cell_ids, codes, seed=seed)
    for code, size in enumerate(class_sizes):
        for side, fraction in ((keys.VALIDATION, 0.1), (keys.TEST, 0.2)):
            assert abs((sides[codes == code] == side).sum() - fraction * size) <= 1


@given(class_sizes=sizes, seed=seeds)
def test_order_of_cells_does_not_change_their_sides(class_sizes, seed):
    cell_ids, codes = make_cells(class_sizes)
    order = np.random.default_rng(seed).permutation(len(codes))
    sides = split(cell_ids, codes, seed=seed)
    moved = split(cell_ids[order], codes[order], seed=seed)
    np.testing.assert_array_equal(moved, sides[order])
    folds = assign_folds(cell_ids, codes, sides, None, **FOLDING)
    assert hash_split(cell_ids[order], moved, folds[order]) == hash_split(cell_ids, sides, folds)


def test_same_seed_gives_the_same_split_and_another_seed_another():
    cell_ids, codes = make_cells([40, 40])
    np.testing.assert_array_equal(split(cell_ids, codes, seed=1), split(cell_ids, codes, seed=1))
    assert (split(cell_ids, codes, seed=1) != split(cell_ids, codes, seed=2)).any()


def test_hash_changes_when_one_cell_changes_its_side_or_fold():
    cell_ids, codes = make_cells([10, 10])
    sides = split(cell_ids, codes)
    folds = assign_folds(cell_ids, codes, sides, None, **FOLDING)
    other, moved = sides.copy(), folds.copy()
    other[0] = keys.TEST if sides[0] != keys.TEST else keys.TRAIN
    moved[0] += 1
    hashes = {hash_split(cell_ids, *columns) for columns in ((sides, folds), (other, folds), (sides, moved))}
    assert len(hashes) == 3


@pytest.mark.parametrize("size", range(3, 12))
def test_large_fractions_leave_cells_to_train_on(size):
    cell_ids, codes = make_cells([size, size])
    sides = split(cell_ids, codes, val_fraction=0.45, test_fraction=0.45)
    for code in (0, 1):
        assert set(sides[codes == code]) == set(keys.SIDES)


def make_groups(n_groups: int, *, seed: int = 0, n_cells: int = 600) -> tuple[np.ndarray, np.ndarray]:
    """Cells of three labels in groups of different sizes."""
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet(np.full(n_groups, 8.0))
    groups = rng.choice([f"donor{group}" for group in range(n_groups)], size=n_cells, p=shares)
    return rng.integers(3, size=n_cells), groups


def split_groups(codes, groups, **changes):
    values = {"val_fraction": 0.1, "test_fraction": 0.2, "seed": 42, "place": "x.h5ad: obs['donor']"}
    return split_by_group(codes, groups, **values | changes)


@given(st.integers(3, 20), st.integers(0, 50))
def test_a_group_is_on_one_side_and_every_side_has_one(n_groups, seed):
    codes, groups = make_groups(n_groups, seed=seed)
    sides = split_groups(codes, groups)
    for group in np.unique(groups):
        assert len(set(sides[groups == group])) == 1
    assert set(sides) == set(keys.SIDES)


def test_group_shares_are_near_the_wished_ones_where_groups_are_many():
    codes, groups = make_groups(30, n_cells=3000)
    sides = split_groups(codes, groups)
    assert np.mean(sides == keys.TEST) == pytest.approx(0.2, abs=0.05)
    assert np.mean(sides == keys.VALIDATION) == pytest.approx(0.1, abs=0.05)


def test_cell_order_does_not_change_the_side_of_a_group():
    codes, groups = make_groups(8)
    order = np.random.default_rng(1).permutation(len(codes))
    sides, shuffled = split_groups(codes, groups), split_groups(codes[order], groups[order])
    assert (shuffled == sides[order]).all()


def test_two_groups_are_too_few():
    codes, groups = make_groups(2)
    with pytest.raises(LabelError, match=r"at least three groups.*found 2 \(donor0, donor1\).*--group-key"):
        split_groups(codes, groups)


def test_a_label_that_no_training_group_has_is_refused():
    _, groups = make_groups(3)
    own_label = np.unique(groups, return_inverse=True)[1]
    with pytest.raises(LabelError, match="each label in some training group; found 2 labels"):
        split_groups(own_label, groups)


def test_each_side_has_a_label_that_three_groups_have():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(12), 50)
    for seed in range(10):
        codes = rng.integers(2, size=600)
        for group in rng.choice(12, size=3, replace=False):
            codes[rng.choice(np.flatnonzero(groups == group), size=4, replace=False)] = 2
        sides = split_groups(codes, groups, seed=seed)
        assert set(sides[codes == 2]) == set(keys.SIDES)


def make_sides(codes: np.ndarray, *, seed: int = 0) -> tuple[pd.Index, np.ndarray]:
    """Cells of a stratified split, with ids in another order than that of the file."""
    cell_ids = pd.Index([f"cell{cell}" for cell in np.random.default_rng(seed).permutation(len(codes))])
    return cell_ids, split(cell_ids, codes, seed=seed)


@given(class_sizes=sizes, seed=seeds, n_folds=st.integers(2, 8))
def test_every_cell_but_those_of_the_test_side_has_a_fold_and_every_fold_every_label(
    class_sizes, seed, n_folds
):
    codes = np.repeat(np.arange(len(class_sizes)), class_sizes)
    cell_ids, sides = make_sides(codes)
    folds = assign_folds(cell_ids, codes, sides, None, n_folds=n_folds, seed=seed, place="x.h5ad")
    np.testing.assert_array_equal(folds == -1, sides == keys.TEST)
    rarest = np.bincount(codes[sides != keys.TEST]).min()
    assert set(folds) == set(range(-1, min(n_folds, rarest)))
    for fold in range(folds.max() + 1):
        assert set(codes[folds == fold]) == set(codes)


@given(n_groups=st.integers(4, 20), seed=st.integers(0, 50), n_folds=st.integers(2, 8))
def test_a_group_is_in_one_fold_and_every_label_can_be_learned_without_that_fold(n_groups, seed, n_folds):
    codes, groups = make_groups(n_groups, seed=seed)
    cell_ids = pd.Index([f"cell{cell}" for cell in range(len(codes))])
    sides = split_groups(codes, groups)
    folds = assign_folds(cell_ids, codes, sides, groups, n_folds=n_folds, seed=seed, place="x.h5ad")
    np.testing.assert_array_equal(folds == -1, sides == keys.TEST)
    for group in np.unique(groups):
        assert len(set(folds[groups == group])) == 1
    n_found = folds.max() + 1
    assert 2 <= n_found <= min(n_folds, len(np.unique(groups[sides != keys.TEST])))
    for fold in range(n_found):
        assert set(codes[(folds != fold) & (folds >= 0)]) == set(codes)


@pytest.mark.parametrize("grouped", [False, True])
def test_order_of_cells_does_not_change_their_folds(grouped):
    codes, groups = make_groups(12)
    groups = groups if grouped else None
    cell_ids, sides = make_sides(codes)
    if grouped:
        sides = split_groups(codes, groups)
    order = np.random.default_rng(1).permutation(len(codes))
    folds = assign_folds(cell_ids, codes, sides, groups, **FOLDING)
    moved = assign_folds(
        cell_ids[order], codes[order], sides[order], groups[order] if grouped else None, **FOLDING
    )
    np.testing.assert_array_equal(moved, folds[order])
    other = assign_folds(cell_ids, codes, sides, groups, **FOLDING | {"seed": 43})
    assert (other != folds).any()


def test_a_label_with_one_cell_to_learn_from_has_no_folds():
    cell_ids, codes = make_cells([10, 2])
    sides = np.full(12, keys.TRAIN, dtype=object)
    sides[-1] = keys.TEST
    with pytest.raises(
        LabelError, match=r"at least 2 training and validation cells.*found 1 of label number 1"
    ):
        assign_folds(cell_ids, codes, sides, None, **FOLDING)


def test_a_label_of_one_group_has_no_folds():
    cell_ids, codes = make_cells([10, 10, 5])
    groups = np.array(["a", "b"] * 10 + ["b"] * 5)
    sides = np.full(25, keys.TRAIN, dtype=object)
    with pytest.raises(
        LabelError, match=r"at least 2 training and validation groups.*found 1 of label number 2"
    ):
        assign_folds(cell_ids, codes, sides, groups, **FOLDING)


def test_the_table_is_in_the_order_of_the_ids():
    table = make_split_table(
        pd.Index(["c", "a", "b"]),
        np.array(["train", "test", "validation"], dtype=object),
        np.array([1, -1, 0]),
    )
    assert table.to_dict("list") == {
        "cell_id": ["a", "b", "c"],
        "side": ["test", "validation", "train"],
        "fold": [-1, 0, 1],
    }


def test_fold_tables_validate_each_cell_once_and_leave_the_test_side_alone():
    codes = np.repeat([0, 1], 30)
    cell_ids, sides = make_sides(codes)
    folds = assign_folds(cell_ids, codes, sides, None, **FOLDING)
    table = make_split_table(cell_ids, sides, folds)
    before = table.copy()
    by_fold = dict(iter_fold_tables(table))
    pd.testing.assert_frame_equal(table, before)
    assert list(by_fold) == [0, 1, 2, 3, 4]
    held_out = []
    for fold, part in by_fold.items():
        assert part["cell_id"].equals(table["cell_id"])
        assert ((part["side"] == keys.TEST) == (table["side"] == keys.TEST)).all()
        assert ((part["side"] == keys.VALIDATION) == (table["fold"] == fold)).all()
        assert set(part["side"]) == set(keys.SIDES)
        held_out += list(part.loc[part["side"] == keys.VALIDATION, "cell_id"])
    assert sorted(held_out) == sorted(cell_ids[sides != keys.TEST])
