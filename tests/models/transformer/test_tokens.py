import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy.sparse import csr_matrix

from annotary.errors import ConfigError, GeneOverlapError
from annotary.models.transformer.config import NetworkConfig
from annotary.models.transformer.tokens import TokenizedCells, map_tokens, store_tokens
from annotary.models.transformer.tokens import tokenize as tokenize_cells
from annotary.quality.prepare import PreparedCells

COUNTS = st.one_of(st.just(0.0), st.integers(0, 60).map(float), st.integers(0, 2**24).map(float))


def reference_bins(cell: np.ndarray, n_bins: int) -> np.ndarray:
    """Bin one dense cell the slow and obvious way, ``(n_genes,)``."""
    present = [float(value) for value in cell if value != 0]
    edges = np.unique(np.linspace(min(present), max(present), n_bins + 1)) if present else []
    bins = []
    for value in cell:
        if value == 0:
            bins.append(0)
        elif len(edges) <= 2:
            bins.append(1)
        else:
            bins.append(int(np.digitize(float(value), edges, right=False)))
    return np.array(bins)


def tokenize(counts: csr_matrix, n_bins: int = 14, **changes) -> TokenizedCells:
    shape = {"values": "bins", "n_bins": n_bins} | changes
    network = NetworkConfig(n_genes=counts.shape[1], n_classes=2, **shape)
    depth = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel() + 7
    return tokenize_cells(network, PreparedCells(counts=counts, depth=depth))


def dense_bins(counts: csr_matrix, n_bins: int) -> np.ndarray:
    """Scatter the tokens back, ``(n_cells, n_genes)``."""
    tokens = tokenize(counts, n_bins)
    bins = np.zeros((counts.shape[0], counts.shape[1] + 1), dtype=int)
    bins[np.repeat(np.arange(len(tokens)), tokens.lengths), tokens.gene_ids] = tokens.bins
    return bins[:, :-1]


def random_counts(n_cells: int, n_genes: int, *, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    means = rng.gamma(0.3, 5.0, size=(n_cells, 1)) * rng.gamma(0.5, 1.0, size=n_genes)
    return rng.poisson(means).astype(np.float32)


@settings(max_examples=300, deadline=None)
@given(
    arrays(np.float32, array_shapes(min_dims=2, max_dims=2, max_side=9), elements=COUNTS), st.integers(1, 30)
)
def test_bins_equal_the_reference_on_any_counts(dense, n_bins):
    expected = np.array([reference_bins(cell, n_bins) for cell in dense])
    np.testing.assert_array_equal(dense_bins(csr_matrix(dense), n_bins), expected)


@pytest.mark.parametrize("n_bins", [1, 2, 14, 250])
def test_bins_equal_the_reference_on_many_simulated_cells(n_bins):
    dense = random_counts(400, 60)
    assert (dense.sum(axis=1) == 0).any()
    expected = np.array([reference_bins(cell, n_bins) for cell in dense])
    np.testing.assert_array_equal(dense_bins(csr_matrix(dense), n_bins), expected)


def test_bins_equal_the_reference_for_every_range_of_small_counts():
    dense = np.zeros((180, 181), dtype=np.float32)
    for top in range(180):
        dense[top, : top + 1] = np.arange(1, top + 2)
    expected = np.array([reference_bins(cell, 14) for cell in dense])
    np.testing.assert_array_equal(dense_bins(csr_matrix(dense), 14), expected)


def test_the_type_of_the_counts_does_not_change_bins():
    counts = csr_matrix(random_counts(50, 30))
    for dtype in (np.float64, np.int32):
        np.testing.assert_array_equal(dense_bins(counts.astype(dtype), 14), dense_bins(counts, 14))


def test_explicit_zeros_and_column_order_do_not_change_tokens():
    dense = random_counts(20, 15)
    columns = np.stack([np.random.default_rng(row).permutation(15) for row in range(20)])
    stored = csr_matrix(
        (np.take_along_axis(dense, columns, axis=1).ravel(), columns.ravel(), np.arange(0, 301, 15)),
        shape=dense.shape,
    )
    before = stored.copy()
    found, expected = tokenize(stored, 14), tokenize(csr_matrix(dense), 14)
    np.testing.assert_array_equal(found.gene_ids, expected.gene_ids)
    np.testing.assert_array_equal(found.bins, expected.bins)
    np.testing.assert_array_equal(found.indptr, expected.indptr)
    np.testing.assert_array_equal(stored.data, before.data)
    np.testing.assert_array_equal(stored.indices, before.indices)


def test_a_cell_without_counts_gets_the_no_gene_token():
    tokens = tokenize(csr_matrix(np.array([[0, 0, 0], [0, 2, 5], [0, 0, 0]], dtype=np.float32)), 4)
    np.testing.assert_array_equal(tokens.indptr, [0, 1, 3, 4])
    np.testing.assert_array_equal(tokens.gene_ids, [3, 1, 2, 3])
    np.testing.assert_array_equal(tokens.bins, [0, 1, 5, 0])


def test_all_mode_gives_every_cell_every_gene():
    dense = random_counts(6, 9)
    tokens = tokenize(csr_matrix(dense), 5, tokens="all")
    np.testing.assert_array_equal(tokens.lengths, [9] * 6)
    np.testing.assert_array_equal(tokens.gene_ids.reshape(6, 9), np.tile(np.arange(9), (6, 1)))
    np.testing.assert_array_equal(tokens.bins.reshape(6, 9), [reference_bins(cell, 5) for cell in dense])
    np.testing.assert_array_equal(tokens.counts.reshape(6, 9), dense)


def test_counts_and_depth_stay_with_their_tokens():
    dense = random_counts(20, 15)
    tokens = tokenize(csr_matrix(dense))
    owner = np.repeat(np.arange(20), tokens.lengths)
    has_gene = tokens.gene_ids < 15
    np.testing.assert_array_equal(tokens.counts[has_gene], dense[owner[has_gene], tokens.gene_ids[has_gene]])
    np.testing.assert_array_equal(tokens.counts[~has_gene], 0)
    np.testing.assert_array_equal(tokens.depth, dense.sum(axis=1) + 7)


def test_a_long_cell_keeps_its_largest_counts_and_of_equal_ones_the_first_in_the_panel():
    dense = np.array([[1, 3, 0, 1, 3, 2, 1], [0, 0, 5, 0, 1, 0, 0]], dtype=np.float32)
    tokens = tokenize(csr_matrix(dense), max_tokens=4)
    np.testing.assert_array_equal(tokens.gene_ids, [0, 1, 4, 5, 2, 4])
    np.testing.assert_array_equal(tokens.lengths, [4, 2])
    whole = dense_bins(csr_matrix(dense), 14)
    np.testing.assert_array_equal(tokens.bins, [*whole[0, [0, 1, 4, 5]], *whole[1, [2, 4]]])


@settings(max_examples=60, deadline=None)
@given(
    arrays(np.float32, array_shapes(min_dims=2, max_dims=2, max_side=9), elements=COUNTS), st.integers(1, 9)
)
def test_no_kept_token_is_smaller_than_one_that_was_cut(dense, max_tokens):
    tokens = tokenize(csr_matrix(dense), max_tokens=max_tokens)
    for row, cell in enumerate(dense):
        kept = tokens.gene_ids[tokens.indptr[row] : tokens.indptr[row + 1]]
        expressed = np.flatnonzero(cell)
        assert len(kept) == max(min(len(expressed), max_tokens), 1)
        if len(expressed):
            cut = np.setdiff1d(expressed, kept)
            assert cell[kept].min() >= cell[cut].max(initial=0)


def test_stored_tokens_are_mapped_as_they_were(tmp_path):
    tokens = tokenize(csr_matrix(random_counts(20, 15)))
    store_tokens(tokens, tmp_path / "tokens")
    mapped = map_tokens(tmp_path / "tokens")
    for name in ("gene_ids", "counts", "bins", "indptr", "depth"):
        np.testing.assert_array_equal(getattr(mapped, name), getattr(tokens, name))
        assert getattr(mapped, name).dtype == getattr(tokens, name).dtype
    assert isinstance(mapped.gene_ids, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        mapped.gene_ids[0] = 1


def test_tokens_are_stored_small():
    tokens = tokenize(csr_matrix(random_counts(5, 9)), 250)
    assert (tokens.gene_ids.dtype, tokens.bins.dtype, tokens.counts.dtype) == (np.uint16, np.uint8, np.uint16)
    wide = tokenize(csr_matrix(([70_000.0], ([0], [70_000])), shape=(2, 70_001)), 14)
    assert wide.gene_ids.dtype == wide.counts.dtype == np.uint32
    np.testing.assert_array_equal(wide.gene_ids, [70_000, 70_001])


def test_no_cells_give_no_tokens():
    for mode in ("expressed", "all"):
        tokens = tokenize(csr_matrix((0, 7), dtype=np.float32), tokens=mode)
        assert len(tokens) == 0
        assert len(tokens.gene_ids) == len(tokens.bins) == len(tokens.counts) == 0


def test_another_number_of_genes_is_refused():
    network = NetworkConfig(n_genes=12, n_classes=3)
    cells = PreparedCells(counts=csr_matrix(random_counts(4, 9)), depth=np.ones(4))
    with pytest.raises(GeneOverlapError, match=r"needs the 12 genes .*; found 9 genes\. Prepare"):
        tokenize_cells(network, cells)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"d_model": 31}, r"--d-model needs a multiple of the 2 attention heads; found 31\. Change"),
        ({"n_bins": 255}, r"--n-bins needs 1 to 254"),
        ({"tokens": "some"}, r"--tokens needs expressed or all; found 'some'"),
        ({"values": "ranks"}, r"--values needs continuous or bins; found 'ranks'"),
        ({"norm": "batch"}, r"--norm needs pre or post"),
        ({"pooling": "max"}, r"--pooling needs mean or cls"),
    ],
)
def test_a_network_that_cannot_be_is_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        NetworkConfig(n_genes=5, n_classes=2, **values)


def test_a_network_config_survives_json():
    config = NetworkConfig(n_genes=5, n_classes=2, d_model=32, dropout=0.35, tokens="all")
    assert NetworkConfig.from_json(config.to_json()) == config
