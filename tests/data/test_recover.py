import anndata
import numpy as np
import pandas as pd
import pytest
import scanpy
from conftest import shared_data
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix, vstack

from annotary.data.embedded import DEPTH_KEY, load_embedded
from annotary.data.h5ad import open_counts
from annotary.data.recover import Log1pScale, find_scale, recover_counts
from annotary.errors import CountsError

TARGETS = st.sampled_from([1e4, 1e6, None])
DTYPES = st.sampled_from([np.float32, np.float64])


def draw_counts(*, n_cells=40, n_genes=200, seed=0, mean=0.6):
    rng = np.random.default_rng(seed)
    rates = rng.gamma(0.4, mean / 0.4, n_genes) * rng.uniform(0.5, 2, n_cells)[:, None]
    counts = rng.poisson(rates)
    counts[:, 0] = 1  # the smallest count of each cell
    return csr_matrix(counts.astype(np.float64))


def set_genes(counts, columns):
    dense = counts.toarray()
    for gene, values in columns.items():
        dense[:, gene] = values
    return csr_matrix(dense)


def normalize(counts, *, target=1e4, dtype=np.float32, base=None):
    adata = anndata.AnnData(counts.astype(dtype))
    scanpy.pp.normalize_total(adata, target_sum=target)
    scanpy.pp.log1p(adata, base=base)
    assert adata.X.dtype == dtype
    return adata.X


def name_axes(matrix):
    return {
        "place": "in.h5ad: X",
        "cell_ids": pd.Index([f"cell{cell}" for cell in range(matrix.shape[0])]),
        "gene_ids": pd.Index([f"gene{gene}" for gene in range(matrix.shape[1])]),
    }


def recover(matrix, *, depth=None, scale=None):
    return recover_counts(matrix, depth=depth, scale=scale, **name_axes(matrix))


def assert_recovered(matrix, counts, **known):
    found = recover(matrix, **known)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found.toarray(), counts.toarray())


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), mean=st.floats(0.1, 20), target=TARGETS, dtype=DTYPES)
def test_normalised_counts_come_back(seed, mean, target, dtype):
    counts = draw_counts(seed=seed, mean=mean)
    assert_recovered(normalize(counts, target=target, dtype=dtype), counts)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), smallest=st.integers(2, 10), target=TARGETS, dtype=DTYPES)
def test_cells_without_a_count_of_one_come_back(seed, smallest, target, dtype):
    counts = draw_counts(seed=seed, mean=20)
    counts.data[counts.data < smallest] = smallest
    counts = set_genes(counts, {0: smallest, 1: smallest + 1})
    assert_recovered(normalize(counts, target=target, dtype=dtype), counts)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), target=TARGETS, dtype=DTYPES)
def test_counts_of_thousands_come_back(seed, target, dtype):
    counts = draw_counts(seed=seed)
    counts = set_genes(counts, {1: np.random.default_rng(seed).integers(2000, 9000, counts.shape[0])})
    assert_recovered(normalize(counts, target=target, dtype=dtype), counts)


@pytest.mark.parametrize("decimals", [3, 4, 5])
def test_values_with_few_decimals_come_back(decimals):
    counts = draw_counts(mean=3)
    assert counts.data.max() > 25
    log_expr = normalize(counts, dtype=np.float64)
    log_expr.data = np.round(log_expr.data, decimals)
    assert_recovered(log_expr, counts)


@pytest.mark.parametrize("base", [2, 10])
def test_other_bases_are_found(base):
    counts = draw_counts()
    log_expr = normalize(counts, base=base)
    assert find_scale(log_expr, depth=None, **name_axes(log_expr)).base == base
    assert_recovered(log_expr, counts)


def test_chunks_give_what_the_whole_gives():
    counts = draw_counts(mean=3)
    counts.data[counts.indptr[5] : counts.indptr[6]] *= 2  # only its depth tells
    depth = np.asarray(counts.sum(axis=1)).ravel()
    log_expr = normalize(counts)
    scale = find_scale(log_expr, depth=depth, **name_axes(log_expr))
    assert scale.target == pytest.approx(1e4, rel=1e-5)
    parts = [recover(log_expr[[cell]], depth=depth[[cell]], scale=scale) for cell in range(log_expr.shape[0])]
    np.testing.assert_array_equal(vstack(parts).toarray(), counts.toarray())
    assert_recovered(log_expr, counts, depth=depth)


def test_genes_keep_their_order_and_stored_zeros_stay():
    counts = draw_counts()
    log_expr = normalize(counts)
    order = np.random.default_rng(1).permutation(counts.shape[1])
    assert_recovered(log_expr[:, order], counts[:, order])
    log_expr.data[::7] = 0
    kept = recover(log_expr)
    np.testing.assert_array_equal(kept.indices, log_expr.indices)
    np.testing.assert_array_equal(kept.data, np.where(log_expr.data > 0, counts.data, 0))


def test_input_stays_as_it_is():
    log_expr = normalize(draw_counts())
    before = log_expr.copy()
    recover(log_expr)
    np.testing.assert_array_equal(log_expr.data, before.data)
    np.testing.assert_array_equal(log_expr.indices, before.indices)


def test_cells_without_values_stay_empty():
    counts = draw_counts().tolil()
    counts[3] = 0
    counts[39] = 0
    counts = counts.tocsr()
    assert_recovered(normalize(counts), counts)
    empty = csr_matrix((2, 200), dtype=np.float32)
    assert recover(empty).nnz == 0


def test_cell_that_cannot_tell_gets_the_smallest_counts():
    counts = draw_counts(n_cells=3).tolil()
    counts[1] = 0
    counts[1, [4, 9]] = 6
    log_expr = normalize(counts.tocsr())
    assert recover(log_expr)[1, [4, 9]].toarray().tolist() == [[1, 1]]
    depth = np.asarray(counts.sum(axis=1)).ravel()
    assert recover(log_expr, depth=depth)[1, [4, 9]].toarray().tolist() == [[6, 6]]


def test_genes_cut_away_do_not_matter():
    counts = draw_counts(mean=5)
    depth = np.asarray(counts.sum(axis=1)).ravel()
    log_expr = normalize(counts)[:, 100:]
    assert_recovered(log_expr, counts[:, 100:], depth=depth)
    counts = set_genes(counts, {100: 1})
    assert_recovered(normalize(counts)[:, 100:], counts[:, 100:])


def test_depth_that_does_not_belong_to_the_values_does_no_harm():
    counts = draw_counts()
    wrong = np.random.default_rng(2).uniform(100, 10_000, counts.shape[0])
    log_expr = normalize(counts)
    assert find_scale(log_expr, depth=wrong, **name_axes(log_expr)) == Log1pScale()
    assert_recovered(log_expr, counts, depth=wrong)
    halved = np.asarray(counts.sum(axis=1)).ravel()
    halved[:4] = [0, np.nan, halved[2] / 2, halved[3] * 2]
    assert_recovered(log_expr, counts, depth=halved)


def test_log1p_of_unscaled_counts_comes_back_even_where_all_are_even():
    counts = draw_counts()
    counts.data[counts.indptr[5] : counts.indptr[6]] *= 2
    log_expr = counts.log1p().astype(np.float32)
    assert find_scale(log_expr, depth=None, **name_axes(log_expr)).unit == pytest.approx(1)
    assert_recovered(log_expr, counts)


def smooth(counts):
    log_expr = normalize(counts, dtype=np.float64).toarray()
    return csr_matrix(0.7 * log_expr + 0.3 * np.roll(log_expr, 1, axis=0))


def add_noise(counts):
    log_expr = normalize(counts, dtype=np.float64)
    noise = np.random.default_rng(3).normal(1, 0.02, log_expr.nnz)
    log_expr.data = np.log1p(np.expm1(log_expr.data) * noise)
    return log_expr


def divide_by_length(counts):
    lengths = np.random.default_rng(4).uniform(0.5, 5, counts.shape[1])
    return normalize(csr_matrix(counts / lengths))


@pytest.mark.parametrize("digits", [None, 4])
@pytest.mark.parametrize(
    "spoil", [smooth, add_noise, divide_by_length, csr_matrix.sqrt, lambda counts: normalize(counts).sqrt()]
)
def test_values_that_are_no_multiples_are_refused(spoil, digits):
    values = spoil(draw_counts())
    if digits:
        values.data = np.round(values.data, digits)
    with pytest.raises(
        CountsError, match=r"in\.h5ad: X needs log1p values of scaled counts; found values up to \d.* at cell"
    ):
        recover(values)


def test_refusal_says_what_was_measured():
    with pytest.raises(
        CountsError,
        match=r"cells that add up to 10,000 after expm1, one 0\.\d+ counts off an integer at cell 'cell\d+', "
        r"gene 'gene\d+'\. Name the raw-count layer with --counts-layer\. .* --depth-key\.",
    ):
        recover(divide_by_length(draw_counts()))


def test_one_spoilt_cell_is_named():
    log_expr = normalize(draw_counts())
    at = log_expr.indptr[17] + 9
    log_expr.data[at] *= 1.07
    gene = log_expr.indices[at]
    with pytest.raises(CountsError, match=f"off an integer at cell 'cell17', gene 'gene{gene}'"):
        recover(log_expr)


def test_counts_lost_to_rounding_are_refused_not_guessed():
    counts = set_genes(draw_counts(), {1: 5000})
    log_expr = normalize(counts)
    log_expr.data = np.round(log_expr.data, 3)
    with pytest.raises(CountsError, match=r"too few digits to tell the large counts of cell 'cell\d+'"):
        recover(log_expr)


@pytest.mark.parametrize(
    ("value", "shown"), [(-0.5, "-0.5"), (np.nan, "nan"), (np.inf, "inf"), (135.0, "135")]
)
def test_values_that_no_logarithm_gives_are_refused(value, shown):
    log_expr = normalize(draw_counts())
    log_expr.data[log_expr.indptr[2]] = value
    with pytest.raises(
        CountsError, match=f"needs log1p values from 0 to 20; found {shown} at cell 'cell2', gene 'gene0'"
    ):
        recover(log_expr)


def test_scaled_values_are_refused():
    values = scanpy.pp.scale(normalize(draw_counts()).toarray())
    with pytest.raises(CountsError, match=r"found -\d"):
        recover(csr_matrix(values))


def test_real_cells_come_back_exactly():
    adata = anndata.read_h5ad(shared_data("sorted_pbmc_3874.h5ad"))
    assert_equal_sparse(recover(normalize(adata.X)), adata.X)


def test_the_embedded_cells_come_back_with_and_without_their_depth():
    adata = load_embedded()
    original = scanpy.datasets.pbmc68k_reduced()
    log_expr = csr_matrix(original.raw.X)
    for depth in (None, original.obs[DEPTH_KEY].to_numpy(dtype=np.float64)):
        assert_equal_sparse(recover(log_expr, depth=depth), adata.X)


def assert_equal_sparse(found, expected):
    assert found.shape == expected.shape
    assert (found != expected).nnz == 0


def write(path, matrix, **columns):
    axes = name_axes(matrix)
    obs = pd.DataFrame(columns, index=axes["cell_ids"])
    anndata.AnnData(matrix, obs=obs, var=pd.DataFrame(index=axes["gene_ids"])).write_h5ad(path)
    return path


@pytest.mark.parametrize("chunk_size", [1, 7, 1000])
def test_file_with_log1p_values_only_gives_its_counts(tmp_path, chunk_size):
    counts = draw_counts(n_cells=150)
    path = write(tmp_path / "in.h5ad", normalize(counts))
    with open_counts(path) as file:
        assert file.is_recovered
        assert file.place == f"{path}: X (log1p, counts recovered)"
        chunks = [chunk for _, chunk in file.iter_chunks(chunk_size)]
    assert_equal_sparse(vstack(chunks), counts)


def test_raw_counts_come_before_log1p_values(tmp_path):
    counts = draw_counts()
    adata = anndata.AnnData(counts, layers={"counts": normalize(counts)})
    adata.write_h5ad(tmp_path / "in.h5ad")
    with open_counts(tmp_path / "in.h5ad") as file:
        assert not file.is_recovered
        assert file.place.endswith(": X")


@pytest.mark.parametrize("chunk_size", [1, 1000])
def test_named_depth_column_settles_what_values_cannot(tmp_path, chunk_size):
    counts = draw_counts(n_cells=150)
    counts.data[counts.indptr[100] : counts.indptr[101]] *= 3
    path = write(tmp_path / "in.h5ad", normalize(counts), n_counts=np.asarray(counts.sum(axis=1)).ravel())
    for depth_key, divisor in (("n_counts", 1), ("", 3), ("absent", 3)):
        with open_counts(path, depth_key=depth_key) as file:
            found = vstack([chunk for _, chunk in file.iter_chunks(chunk_size)])
        assert_equal_sparse(found[:100], counts[:100])
        assert_equal_sparse(found[100] * divisor, counts[100])


def test_later_cell_that_gives_no_counts_is_refused(tmp_path):
    log_expr = normalize(draw_counts(n_cells=150))
    log_expr.data[log_expr.indptr[140] + 5] *= 1.07
    path = write(tmp_path / "in.h5ad", log_expr)
    with (
        pytest.raises(CountsError, match=r"counts off an integer at cell 'cell140'"),
        open_counts(path) as file,
    ):
        list(file.iter_chunks(32))


def test_file_with_neither_is_refused_in_one_line(tmp_path):
    path = write(tmp_path / "in.h5ad", smooth(draw_counts()))
    with (
        pytest.raises(
            CountsError,
            match=r"X needs non-negative integers; found [\d.]+ at cell 'cell0', gene 'gene0' "
            r"\(as log1p values: values up to .*, one 0\.\d+ counts off an integer at cell 'cell\d+', "
            r"gene 'gene\d+'\)\. Name the raw-count layer with --counts-layer\.",
        ),
        open_counts(path),
    ):
        pass
