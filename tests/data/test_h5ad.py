import hashlib

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csc_matrix, csr_matrix, vstack

from annotary.data.h5ad import open_counts
from annotary.errors import CountsError, InputFileError

N_CELLS, N_GENES = 150, 12


def make_dense(*, seed=0):
    return np.random.default_rng(seed).poisson(0.7, (N_CELLS, N_GENES)).astype(np.float32)


def make_tables():
    obs = pd.DataFrame(index=[f"cell{cell}" for cell in range(N_CELLS)])
    var = pd.DataFrame(index=[f"gene{gene}" for gene in range(N_GENES)])
    return obs, var


def write(path, matrix, *, layers=None, raw=None, **var_columns):
    obs, var = make_tables()
    adata = anndata.AnnData(matrix, obs=obs, var=var.assign(**var_columns))
    if raw is not None:
        adata.raw = anndata.AnnData(raw, obs=obs, var=var)
    for name, layer in (layers or {}).items():
        adata.layers[name] = layer
    adata.write_h5ad(path)
    return path


def read_all(path, *, chunk_size=64, counts_layer=""):
    with open_counts(path, counts_layer=counts_layer) as counts:
        chunks = list(counts.iter_chunks(chunk_size))
    assert [start for start, _ in chunks] == list(range(0, N_CELLS, chunk_size))
    whole = vstack([rows for _, rows in chunks], format="csr")
    assert whole.dtype == np.float32
    return whole.toarray()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "in.h5ad"


@pytest.mark.parametrize("store", [np.asarray, csr_matrix, csc_matrix], ids=["dense", "csr", "csc"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.uint8])
def test_storage_does_not_change_the_counts(path, store, dtype):
    write(path, store(make_dense().astype(dtype)))
    np.testing.assert_array_equal(read_all(path), make_dense())


@pytest.mark.parametrize("store", [np.asarray, csr_matrix, csc_matrix], ids=["dense", "csr", "csc"])
@pytest.mark.parametrize("chunk_size", [1, 7, N_CELLS, 10 * N_CELLS])
def test_chunk_size_does_not_change_the_counts(path, store, chunk_size):
    write(path, store(make_dense()))
    np.testing.assert_array_equal(read_all(path, chunk_size=chunk_size), make_dense())


def test_layer_counts_comes_before_raw_and_raw_before_x(path):
    layer, raw, x = (csr_matrix(make_dense(seed=seed)) for seed in range(3))
    write(path, x, raw=raw, layers={"counts": layer})
    np.testing.assert_array_equal(read_all(path), layer.toarray())
    write(path, x, raw=raw)
    np.testing.assert_array_equal(read_all(path), raw.toarray())
    write(path, x)
    np.testing.assert_array_equal(read_all(path), x.toarray())


def test_places_without_counts_are_passed_over(path):
    counts = csr_matrix(make_dense())
    log_expr = counts.log1p()
    write(path, log_expr, raw=counts)
    np.testing.assert_array_equal(read_all(path), counts.toarray())
    write(path, counts, raw=log_expr, layers={"counts": log_expr})
    with open_counts(path) as found:
        assert found.place == f"{path}: X"


def test_raw_brings_its_own_genes(path):
    obs, var = make_tables()
    adata = anndata.AnnData(csr_matrix(make_dense()), obs=obs, var=var)
    adata.raw = adata
    adata = adata[:, :3].copy()
    adata.write_h5ad(path)
    with open_counts(path) as counts:
        assert list(counts.var.index) == list(var.index)
        assert counts.n_cells == N_CELLS


@pytest.mark.parametrize("name", ["umis", "X"])
def test_named_place_is_the_one_that_is_read(path, name):
    layer, other, x = (csr_matrix(make_dense(seed=seed)) for seed in range(3))
    write(path, x, layers={"umis": layer, "counts": other})
    expected = {"umis": layer, "X": x}[name]
    np.testing.assert_array_equal(read_all(path, counts_layer=name), expected.toarray())


def test_absent_layer_is_refused_with_the_layers_there(path):
    write(path, make_dense(), layers={"a": make_dense(), "b": make_dense()})
    with (
        pytest.raises(
            CountsError, match=r'raw counts in layers\["umis"\]; found no such matrix \(layers: a, b\)'
        ),
        open_counts(path, counts_layer="umis"),
    ):
        pass


def test_named_layer_without_counts_is_refused_though_x_has_them(path):
    write(path, make_dense(), layers={"scaled": np.zeros_like(make_dense()) - 0.5})
    with (
        pytest.raises(
            CountsError, match=r'layers\["scaled"\] needs non-negative integers; found -0\.5 at cell'
        ),
        open_counts(path, counts_layer="scaled"),
    ):
        pass


def test_file_without_counts_anywhere_names_every_place(path):
    roots = csr_matrix(make_dense()).sqrt()
    write(path, roots, raw=roots, layers={"counts": roots})
    with (
        pytest.raises(
            CountsError,
            match=r'in\.h5ad needs raw counts .* in layers\["counts"\] or \.raw or X; '
            r'found 1\.41421 at cell .*\(as log1p values: .*\) in layers\["counts"\]; '
            r".* in \.raw; .* in X\. Name the",
        ),
        open_counts(path),
    ):
        pass


def test_bad_value_after_the_first_cells_is_found_with_its_cell(path):
    dense = make_dense()
    dense[140, 5] = 0.25
    write(path, csr_matrix(dense))
    with (
        pytest.raises(CountsError, match=r"X needs .* found 0\.25 at cell 'cell140', gene 'gene5'"),
        open_counts(path) as counts,
    ):
        list(counts.iter_chunks(32))


def test_features_that_are_no_genes_are_left_out(path):
    types = ["Gene Expression"] * 9 + ["Antibody Capture"] * 3
    dense = make_dense()
    dense[:, 10] = 0.5  # an antibody's value need not be a count
    write(path, csr_matrix(dense), feature_types=types)
    np.testing.assert_array_equal(read_all(path), dense[:, :9])
    with open_counts(path) as counts:
        assert list(counts.var.index) == [f"gene{gene}" for gene in range(9)]


def test_gene_of_a_bad_value_is_named_when_other_features_come_first(path):
    dense = make_dense()
    dense[0, 4] = -2
    write(path, csr_matrix(dense), feature_types=["Antibody Capture"] * 3 + ["Gene Expression"] * 9)
    with pytest.raises(CountsError, match="found -2 at cell 'cell0', gene 'gene4'"), open_counts(path):
        pass


def test_file_without_any_gene_is_refused(path):
    write(path, csr_matrix(make_dense()), feature_types=["Peaks"] * N_GENES)
    with (
        pytest.raises(
            (CountsError, InputFileError), match="features of the type 'Gene Expression'; found Peaks"
        ),
        open_counts(path),
    ):
        pass


def test_counts_in_a_layer_are_read_when_there_is_no_x(path):
    write(path, None, layers={"counts": csr_matrix(make_dense())})
    np.testing.assert_array_equal(read_all(path), make_dense())


def test_file_without_any_matrix_is_refused(path):
    write(path, None)
    with (
        pytest.raises(
            CountsError, match=r'layers\["counts"\], \.raw or X; found no such matrix \(layers: none\)'
        ),
        open_counts(path),
    ):
        pass


def test_missing_file_is_refused(path):
    with (
        pytest.raises(InputFileError, match=r"in\.h5ad needs to be an h5ad file; found no such file"),
        open_counts(path),
    ):
        pass


def test_folder_is_refused(tmp_path):
    with pytest.raises(InputFileError, match="found a folder"), open_counts(tmp_path):
        pass


@pytest.mark.parametrize("content", [b"", b"cell,gene\n1,2\n"])
def test_file_that_is_not_hdf5_is_refused(path, content):
    path.write_bytes(content)
    with (
        pytest.raises(InputFileError, match=f"found a file of {len(content)} bytes that is not HDF5"),
        open_counts(path),
    ):
        pass


def test_hdf5_file_that_is_no_anndata_is_refused(path):
    with h5py.File(path, "w") as file:
        file["matrix"] = np.ones((2, 2))
    with pytest.raises(InputFileError, match="AnnData file's 'obs' table; found matrix"), open_counts(path):
        pass


@pytest.mark.parametrize("kept", [0.3, 0.6, 0.95])
def test_truncated_file_is_refused(path, kept):
    content = write(path, csr_matrix(make_dense())).read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with (
        pytest.raises(InputFileError, match=r"needs to be a whole h5ad file; found .*truncated.*cut short"),
        open_counts(path) as counts,
    ):
        list(counts.iter_chunks(64))


@pytest.mark.parametrize("store", [np.asarray, csr_matrix], ids=["dense", "csr"])
def test_matrix_that_disagrees_with_its_tables_is_refused(path, store):
    write(path, store(make_dense()))
    with h5py.File(path, "a") as file:
        del file["X"]
        anndata.io.write_elem(file, "X", store(make_dense()[:-1]))
    with (
        pytest.raises(
            InputFileError,
            match=r"X needs 150 cells x 12 genes, as its obs and var tables say; found 149 x 12",
        ),
        open_counts(path),
    ):
        pass


def test_sparse_matrix_cut_short_is_refused(path):
    write(path, csr_matrix(make_dense()))
    with h5py.File(path, "a") as file:
        data = file["X/data"][:]
        del file["X/data"]
        file["X/data"] = data[:100]
    with (
        pytest.raises(InputFileError, match="X needs to be part of a whole h5ad file"),
        open_counts(path) as counts,
    ):
        list(counts.iter_chunks(64))


@pytest.mark.parametrize(("n_cells", "n_genes", "axis"), [(0, 3, "cell"), (3, 0, "gene")])
def test_empty_matrix_is_refused(path, n_cells, n_genes, axis):
    anndata.AnnData(csr_matrix((n_cells, n_genes), dtype=np.float32)).write_h5ad(path)
    with (
        pytest.raises(InputFileError, match=f"at least one {axis}; found {n_cells} cells x {n_genes} genes"),
        open_counts(path),
    ):
        pass


def test_reading_leaves_the_file_untouched(path):
    write(path, csr_matrix(make_dense()), layers={"counts": csr_matrix(make_dense())})
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    read_all(path)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == before


def test_error_of_the_caller_passes_through(path):
    write(path, make_dense())
    with pytest.raises(CountsError, match="of the caller"), open_counts(path):
        raise CountsError("of the caller", expected="x", found="y", remedy="z")
