import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from annotary import keys
from annotary.data.splits import hash_split, split_stratified

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
