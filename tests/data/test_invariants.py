"""The same cells give the same dataset, however they are ordered, stored, packed and cut into files."""

import functools
import gzip
import itertools
from pathlib import Path

import anndata
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from scipy.sparse import csc_matrix, csr_matrix
from simulate import simulate_cells

from annotary.config import PreprocessConfig
from annotary.data import dataset, rows, scratch, source
from annotary.data.dataset import DatasetRecord, read_dataset
from annotary.stages.preprocess import preprocess

N_CELLS, N_GENES = 120, 90
STORES = {"dense": np.asarray, "csr": csr_matrix, "csc": csc_matrix}
DTYPES = ("uint8", "int64", "float32", "float64")

few = settings(
    max_examples=5,
    deadline=None,
    derandomize=True,
    database=None,
    phases=(Phase.explicit, Phase.generate),  # shrinking would run preprocess hundreds of times
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
seeds = st.integers(0, 2**32 - 1)
_names = itertools.count()


pytestmark = pytest.mark.usefixtures("no_embedding")


@functools.cache
def make_cells() -> anndata.AnnData:
    """Simulate cells with repeated genes, missing labels, and cells without counts."""
    adata = simulate_cells(N_CELLS, N_GENES)
    adata.var_names = ["TBCE" if gene in (4, 70, 80) else name for gene, name in enumerate(adata.var_names)]
    counts = adata.X.toarray()
    counts[[11, 60]] = 0
    adata.X = csr_matrix(counts)
    adata.obs["cell_type"] = np.where(np.arange(N_CELLS) % 40 == 7, None, adata.obs["cell_type"])
    return adata


def reorder(cells: np.ndarray, genes: np.ndarray) -> anndata.AnnData:
    return make_cells()[cells, genes].copy()


def shuffle(seed: int, n: int) -> np.ndarray:
    return np.random.default_rng(seed).permutation(n)


def new_path(folder: Path, suffix: str = ".h5ad") -> Path:
    """Name a file that no other example has."""
    return folder / f"cells{next(_names)}{suffix}"


def run(folder: Path, *sources: Path) -> DatasetRecord:
    """Preprocess one or several files."""
    config = PreprocessConfig(
        input=",".join(map(str, sources)),
        output=str(new_path(folder, ".out")),
        doublets="none",
        min_genes=15,
        n_top_genes=40,
    )
    return read_dataset(preprocess(config).path).record


@pytest.fixture(scope="module")
def expected(module_store) -> DatasetRecord:
    """The record of the plainly written cells."""
    path = new_path(module_store)
    make_cells().write_h5ad(path)
    return run(module_store, path)


def check_same(record: DatasetRecord, expected: DatasetRecord) -> None:
    assert record.counts_hash == expected.counts_hash
    assert record.split_hash == expected.split_hash
    assert record.panel_hash == expected.panel_hash
    assert record.dataset_hash == expected.dataset_hash


@few
@given(seed=seeds)
def test_the_order_of_cells_does_not_change_the_dataset(seed, module_store, expected):
    path = new_path(module_store)
    reorder(shuffle(seed, N_CELLS), np.arange(N_GENES)).write_h5ad(path)
    check_same(run(module_store, path), expected)


@pytest.mark.full
@few
@given(seed=seeds)
def test_the_order_of_genes_does_not_change_the_dataset(seed, module_store, expected):
    path = new_path(module_store)
    reorder(np.arange(N_CELLS), shuffle(seed, N_GENES)).write_h5ad(path)
    check_same(run(module_store, path), expected)


@pytest.mark.full
@few
@given(
    store=st.sampled_from(sorted(STORES)),
    dtype=st.sampled_from(DTYPES),
    compression=st.sampled_from([None, "gzip", "lzf"]),
    packed=st.booleans(),
)
def test_storage_does_not_change_the_dataset(store, dtype, compression, packed, module_store, expected):
    adata = make_cells().copy()
    adata.X = STORES[store](adata.X.toarray().astype(dtype))
    path = new_path(module_store)
    adata.write_h5ad(path, compression=compression)
    if packed:
        plain, path = path, path.with_name(f"{path.name}.gz")
        path.write_bytes(gzip.compress(plain.read_bytes()))
    check_same(run(module_store, path), expected)


@few
@given(chunk_size=st.integers(1, 2 * N_CELLS), store=st.sampled_from(sorted(STORES)))
def test_the_chunk_size_does_not_change_the_dataset(chunk_size, store, module_store, expected):
    adata = make_cells().copy()
    adata.X = STORES[store](adata.X.toarray())
    path = new_path(module_store)
    adata.write_h5ad(path)
    with pytest.MonkeyPatch.context() as monkeypatch:
        for module in (source, scratch, dataset, rows):
            monkeypatch.setattr(module, "CHUNK_SIZE", chunk_size)
        check_same(run(module_store, path), expected)


@pytest.mark.full
@few
@given(
    seed=seeds,
    cuts=st.lists(st.integers(1, N_CELLS - 1), min_size=1, max_size=2, unique=True).map(sorted),
    store=st.sampled_from(sorted(STORES)),
)
def test_several_files_give_the_dataset_of_one(seed, cuts, store, module_store, expected):
    paths = []
    for cells in np.split(shuffle(seed, N_CELLS), cuts):
        part = reorder(cells, shuffle(seed + len(paths), N_GENES))
        part.X = STORES[store](part.X.toarray())
        paths.append(new_path(module_store))
        part.write_h5ad(paths[-1])
    check_same(run(module_store, *paths), expected)


FORMATS = (".h5ad", ".h5ad.gz", ".zarr")


def write_as(adata: anndata.AnnData, path: Path) -> Path:
    """Write cells in the format that a path's ending names."""
    if path.suffix == ".zarr":
        adata.write_zarr(path)
    elif path.suffix == ".gz":
        plain = path.with_suffix("")
        adata.write_h5ad(plain)
        path.write_bytes(gzip.compress(plain.read_bytes()))
        plain.unlink()
    else:
        adata.write_h5ad(path)
    return path


@pytest.mark.full
@few
@given(seed=seeds, formats=st.permutations(FORMATS), as_folder=st.booleans())
def test_files_of_several_formats_give_the_dataset_of_one(seed, formats, as_folder, module_store, expected):
    folder = new_path(module_store, ".in")
    folder.mkdir()
    parts = np.array_split(shuffle(seed, N_CELLS), len(formats))
    paths = [
        write_as(reorder(cells, shuffle(seed, N_GENES)), folder / f"part{number}{suffix}")
        for number, (cells, suffix) in enumerate(zip(parts, formats, strict=True))
    ]
    check_same(run(module_store, *([folder] if as_folder else paths)), expected)


def test_another_count_gives_another_dataset(module_store, expected):
    adata = make_cells().copy()
    adata.X.data[5] += 1
    path = new_path(module_store)
    adata.write_h5ad(path)
    assert run(module_store, path).dataset_hash != expected.dataset_hash
