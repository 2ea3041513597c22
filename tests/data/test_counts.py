import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from annotary.data.counts import (
    LARGEST_COUNT,
    count_cells_per_gene,
    count_genes_per_cell,
    find_non_count,
    sum_depth,
    validate_counts,
)
from annotary.errors import CountsError

CELLS = pd.Index([f"cell{cell}" for cell in range(4)])
GENES = pd.Index([f"gene{gene}" for gene in range(5)])


def validate(counts):
    validate_counts(csr_matrix(counts), place="in.h5ad: X", cell_ids=CELLS, gene_ids=GENES)


def make_counts(dtype=np.float64):
    counts = np.zeros((4, 5), dtype=dtype)  # cells 0 and 2 stay without counts
    counts[1, 0] = counts[1, 4] = counts[3, 2] = 1
    return counts


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (np.nan, "nan"),
        (np.inf, "inf"),
        (-np.inf, "-inf"),
        (-1.0, "-1"),
        (0.37, "0.37"),
        (1e9, r"1e\+09"),
        (LARGEST_COUNT + 1, "1.67772e"),
    ],
)
@pytest.mark.parametrize(("cell", "gene"), [(1, 0), (1, 4), (3, 2)])
def test_error_names_value_cell_and_gene(value, found, cell, gene):
    counts = make_counts()
    counts[cell, gene] = value
    before = counts.copy()
    with pytest.raises(
        CountsError,
        match=rf"^in\.h5ad: X needs non-negative integers.*found {found}.* at cell 'cell{cell}', "
        rf"gene 'gene{gene}'\. Name the raw-count layer",
    ):
        validate(counts)
    np.testing.assert_array_equal(counts, before)


def test_first_of_several_is_named():
    counts = make_counts()
    counts[1, 4], counts[3, 2] = 0.5, -1
    with pytest.raises(CountsError, match=r"0\.5 at cell 'cell1', gene 'gene4'"):
        validate(counts)


@pytest.mark.parametrize(
    "dtype", [bool, np.uint8, np.uint16, np.uint32, np.int8, np.int32, np.int64, np.float32, np.float64]
)
def test_counts_of_any_dtype_pass(dtype):
    validate(make_counts(dtype))


@pytest.mark.parametrize("dtype", [np.int8, np.int64])
def test_negative_integers_are_refused(dtype):
    counts = make_counts(dtype)
    counts[3, 2] = -3
    with pytest.raises(CountsError, match="found -3 at cell 'cell3', gene 'gene2'"):
        validate(counts)


@pytest.mark.parametrize("dtype", [np.uint32, np.int64, np.float32])
def test_largest_count_passes_and_twice_as_much_is_refused(dtype):
    assert find_non_count(np.array([LARGEST_COUNT], dtype=dtype)) is None
    assert find_non_count(np.array([1, 2 * LARGEST_COUNT], dtype=dtype)) == 1


def test_matrix_without_counts_passes():
    validate(np.zeros((4, 5)))
    assert find_non_count(np.array([])) is None


@pytest.mark.parametrize("n_explicit_zeros", [0, 1])
def test_expressed_genes_and_cells_are_counted_without_explicit_zeros(n_explicit_zeros):
    counts = csr_matrix([[1.0, 2.0, 0.0], [0.0, 0.0, 0.0], [3.0, 1.0, 1.0]])
    counts.data[:n_explicit_zeros] = 0
    expressed = counts.toarray() > 0
    np.testing.assert_array_equal(count_genes_per_cell(counts), expressed.sum(axis=1))
    np.testing.assert_array_equal(count_cells_per_gene(counts), expressed.sum(axis=0))


def test_depth_of_large_float32_counts_is_exact():
    depth = sum_depth(csr_matrix(np.float32([[LARGEST_COUNT, 1, 1], [0, 0, 0]])))
    np.testing.assert_array_equal(depth, [LARGEST_COUNT + 2, 0])
    assert depth.dtype == np.float64
