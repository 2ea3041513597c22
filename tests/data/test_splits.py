import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from annotary import keys
from annotary.data.splits import hash_split, split_by_group, split_stratified
from annotary.errors import LabelError

sizes = st.lists(st.integers(3, 40), min_size=2, max_size=5)
seeds = st.integers(0, 2**32 - 1)
# Larger fractions: see test_large_fractions_leave_cells_to_train_on.
fractions = st.floats(0.01, 1 / 3)


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
    assert hash_split(cell_ids[order], moved) == hash_split(cell_ids, sides)


def test_same_seed_gives_the_same_split_and_another_seed_another():
    cell_ids, codes = make_cells([40, 40])
    np.testing.assert_array_equal(split(cell_ids, codes, seed=1), split(cell_ids, codes, seed=1))
    assert (split(cell_ids, codes, seed=1) != split(cell_ids, codes, seed=2)).any()


def test_hash_changes_when_one_cell_changes_its_side():
    cell_ids, codes = make_cells([10, 10])
    sides = split(cell_ids, codes)
    other = sides.copy()
    other[0] = keys.TEST if sides[0] != keys.TEST else keys.TRAIN
    assert hash_split(cell_ids, other) != hash_split(cell_ids, sides)


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
