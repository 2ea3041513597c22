"""Foreign bytes: nothing in them runs, and what they only claim takes no memory."""

import gzip
import json
import os
import pickle
import resource
import zlib
from collections.abc import Callable
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import zarr
from simulate import simulate_cells, write_cells

from annotary.data import claims, hdf5_filters, packed
from annotary.data.formats import convert_to_h5ad, needs_conversion, write_as_h5ad
from annotary.data.h5ad import open_counts
from annotary.data.hdf5 import open_hdf5, read_element
from annotary.data.zarr_gate import check_zarr
from annotary.errors import InputFileError, SetupError

pytestmark = pytest.mark.filterwarnings("ignore:Writing zarr v2", "ignore:zarr v3", "ignore:Consolidated")

HUGE = 2**30
TEXT = h5py.string_dtype()


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.mark),)


def open_file(path: Path) -> None:
    """Read a file as far as its counts."""
    with open_counts(path) as counts:
        for _ in counts.iter_chunks(100):
            pass


@pytest.fixture
def little_memory():
    """Make memory that only a claim asks for an error, far below what the claims of these tests say."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (3 << 29), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.parametrize("name", ["cells.npy", "CELLS.NPY", "cells.npz", "cells.pkl", "cells.pickle"])
def test_no_file_that_may_be_a_pickle_is_read_unasked(name, tmp_path):
    mark, path = tmp_path / "mark", tmp_path / name
    with path.open("wb") as file:
        np.save(file, np.array([Evil(mark)], dtype=object), allow_pickle=True)
    for read in (
        lambda: write_as_h5ad(path, tmp_path / "copy.h5ad"),
        lambda: convert_to_h5ad(path, tmp_path / "out", name="copy"),
    ):
        with pytest.raises(InputFileError, match="pickle"):
            read()
    assert not mark.exists()


def test_only_an_npy_is_unpickled_on_request(tmp_path):
    path = tmp_path / "cells.pkl"
    path.write_bytes(pickle.dumps(Evil(tmp_path / "mark")))
    with pytest.raises(InputFileError, match="pickle"):
        write_as_h5ad(path, tmp_path / "copy.h5ad", allow_pickle=True)
    assert not (tmp_path / "mark").exists()


def say_v2(store: Path, column: str, **said: object) -> None:
    path = store / "obs" / column / ".zarray"
    path.write_text(json.dumps(json.loads(path.read_text()) | said))


def say_v3(store: Path, column: str, **said: object) -> None:
    path = store / "obs" / column / "zarr.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | said))


SHARDS = [{"name": "sharding_indexed", "configuration": {"codecs": [{"name": "numcodecs.pickle"}]}}]
EVIL_ZARR: dict[str, tuple[int, Callable[[Path], None], str]] = {
    "pickle filter": (
        2,
        lambda store: say_v2(store, "n", dtype="|O", filters=[{"id": "pickle"}]),
        "codec 'pickle', which unpickles",
    ),
    "pickle compressor": (2, lambda store: say_v2(store, "n", compressor={"id": "pickle"}), "unpickles"),
    "objects": (2, lambda store: say_v2(store, "n", dtype="|O", filters=None), "array of Python objects"),
    "objects in records": (
        2,
        lambda store: say_v2(store, "n", dtype=[["a", "<i4"], ["b", "|O"]], filters=None),
        "array of Python objects",
    ),
    "unknown filter": (2, lambda store: say_v2(store, "n", filters=[{"id": "mine"}]), "the codec 'mine'"),
    "pickle codec": (3, lambda store: say_v3(store, "n", codecs=[{"name": "numcodecs.pickle"}]), "unpickles"),
    "codec in shards": (3, lambda store: say_v3(store, "n", codecs=SHARDS), "unpickles"),
    "transformer": (3, lambda store: say_v3(store, "n", storage_transformers=["mine"]), "the codec 'mine'"),
}


def write_zarr(path: Path, *, version: int) -> Path:
    cells = simulate_cells(30, 50)
    cells.obs["n"] = np.arange(30)
    with anndata.settings.override(zarr_write_format=version):
        cells.write_zarr(path)
    return path


@pytest.mark.parametrize("name", EVIL_ZARR)
def test_a_store_is_refused_by_what_it_says_before_zarr_opens_it(name, tmp_path, monkeypatch):
    version, spoil, found = EVIL_ZARR[name]
    store = write_zarr(tmp_path / "cells.zarr", version=version)
    spoil(store)
    opened = []
    monkeypatch.setattr(zarr, "open_group", lambda *_, **__: opened.append(1))
    with pytest.raises(InputFileError, match=found) as error:
        write_as_h5ad(store, tmp_path / "copy.h5ad")
    assert "obs/n" in error.value.place
    assert not opened


def test_a_codec_in_consolidated_metadata_is_refused_too(tmp_path):
    store = write_zarr(tmp_path / "cells.zarr", version=3)
    root = json.loads((store / "zarr.json").read_text())
    member = {"node_type": "array", "codecs": [{"name": "pickle"}], "data_type": "int8"}
    root["consolidated_metadata"] = {"kind": "inline", "metadata": {"obs/n": member}}
    (store / "zarr.json").write_text(json.dumps(root))
    with pytest.raises(InputFileError, match="unpickles"):
        check_zarr(store)


def test_a_folder_of_a_store_that_lies_elsewhere_is_refused(tmp_path):
    store = write_zarr(tmp_path / "cells.zarr", version=2)
    (store / "obs").rename(tmp_path / "elsewhere")
    (store / "obs").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputFileError, match="a link to"):
        check_zarr(store)


@pytest.mark.parametrize("version", [2, 3])
def test_codecs_that_zarr_has_are_let_through(version, tmp_path):
    store = write_zarr(tmp_path / "cells.zarr", version=version)
    check_zarr(store)
    assert needs_conversion(store)


def swap(file: h5py.File, name: str, **shape: object) -> None:
    """Put an array of which nothing is stored in another's place."""
    attributes = dict(file[name].attrs)
    del file[name]
    file.create_dataset(name, **shape).attrs.update(attributes)


def nest(file: h5py.File) -> None:
    group = file["uns"]
    for _ in range(3000):
        group = group.create_group("g")


def pack_zeros(file: h5py.File) -> None:
    del file["obs/n"]
    column = file.create_dataset("obs/n", shape=(30, HUGE), dtype="i1", chunks=(1, HUGE), compression="gzip")
    column.id.write_direct_chunk((0, 0), b"x\x9c\x03\x00\x00\x00\x00\x01")


def claim_sparse(file: h5py.File) -> None:
    """Say in the matrix and in both tables that there are a thousand million cells."""
    file["X"].attrs["shape"] = [HUGE, 50]
    swap(file, "obs/_index", shape=(HUGE,), dtype=TEXT, chunks=(1 << 20,))
    swap(file, "X/indptr", shape=(HUGE + 1,), dtype="i8", chunks=(1 << 20,))


def claim_row(file: h5py.File) -> None:
    """Store zeros that packing makes small, and say that they are those of the first cell."""
    length, part = 1 << 28, 1 << 24
    for name, dtype in (("data", "f4"), ("indices", "i4")):
        swap(file, f"X/{name}", shape=(length,), dtype=dtype, chunks=(part,), compression="gzip")
        packed_zeros = zlib.compress(bytes(4 * part))
        for start in range(0, length, part):
            file[f"X/{name}"].id.write_direct_chunk((start,), packed_zeros)
    starts = file["X/indptr"][:]
    starts[1:] = length
    file["X/indptr"][:] = starts


BOMBS: dict[str, tuple[Callable[[h5py.File], None], str]] = {
    "cells": (
        lambda file: swap(file, "obs/_index", shape=(HUGE,), dtype=TEXT, chunks=(1 << 20,)),
        "needs 1073741824 cells x 50 genes",
    ),
    "genes": (
        lambda file: swap(file, "var/_index", shape=(HUGE,), dtype=TEXT, chunks=(1 << 20,)),
        "needs 30 cells x 1073741824 genes",
    ),
    "cells everywhere": (claim_sparse, "claim of 1,073,741,824"),
    "a column": (
        lambda file: swap(file, "obs/n", shape=(HUGE,), dtype="f8", chunks=(1 << 20,)),
        "obs/n.*claim of 1,073,741,824",
    ),
    "categories": (
        lambda file: swap(file, "obs/cell_type/categories", shape=(HUGE,), dtype=TEXT, chunks=(1 << 20,)),
        "claim of 1,073,741,824",
    ),
    "long texts": (
        lambda file: swap(file, "obs/n", shape=(30,), dtype=f"S{1 << 26}", chunks=(1,)),
        "claim of 30 values",
    ),
    "a chunk": (pack_zeros, r"one chunk of it.*claim of 1 x 1,073,741,824"),
    "values": (
        lambda file: swap(file, "X/data", shape=(HUGE,), dtype="f4", chunks=(1 << 20,)),
        "claim of 1,073,741,824",
    ),
    "a dense matrix": (
        lambda file: (
            file.__delitem__("X"),
            file.create_dataset("X", shape=(30, 50), dtype="f4", chunks=(30, 50)),
            swap(file, "X", shape=(HUGE, 50), dtype="f4", chunks=(1 << 10, 50)),
            swap(file, "obs/_index", shape=(HUGE,), dtype=TEXT, chunks=(1 << 20,)),
        ),
        "claim of 1,073,741,824",
    ),
    "a row": (claim_row, "row 0 of 268435456 values in 50 columns"),
    "nesting": (nest, "at most 64 groups within each other"),
}


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.usefixtures("little_memory")
def test_a_claim_is_refused_with_what_the_file_says(name, tmp_path):
    spoil, found = BOMBS[name]
    cells = simulate_cells(30, 50)
    cells.obs["n"] = np.arange(30)
    cells.write_h5ad(tmp_path / "cells.h5ad")
    with h5py.File(tmp_path / "cells.h5ad", "r+") as file:
        spoil(file)
    with pytest.raises(InputFileError, match=found):
        open_file(tmp_path / "cells.h5ad")


def test_what_nobody_reads_may_claim_what_it_likes(tmp_path):
    path = write_cells(tmp_path / "cells.h5ad", n_cells=30)
    with h5py.File(path, "r+") as file:
        file.create_dataset("uns/bomb", shape=(HUGE,), dtype="f8", chunks=(1 << 20,))
    open_file(path)
    with open_hdf5(path) as file, pytest.raises(InputFileError, match="uns/bomb"):
        read_element(file["uns"], path=path)


def test_tables_of_zeros_that_are_packed_well_are_read(tmp_path):
    cells = simulate_cells(30, 50)
    for number in range(40):
        cells.obs[f"zero {number}"] = np.zeros(30)
    cells.write_h5ad(tmp_path / "cells.h5ad", compression="gzip", compression_opts=9)
    open_file(tmp_path / "cells.h5ad")


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("name", ["n", "_index"])
def test_a_claim_of_a_store_is_refused(name, version, tmp_path):
    store = write_zarr(tmp_path / "cells.zarr", version=version)
    if version == 2:
        say_v2(store, name, shape=[HUGE], chunks=[HUGE])
    else:
        grid = {"name": "regular", "configuration": {"chunk_shape": [HUGE]}}
        say_v3(store, name, shape=[HUGE], chunk_grid=grid)
    with pytest.raises(InputFileError, match=f"obs/{name}.*claim of 1,073,741,824"):
        write_as_h5ad(store, tmp_path / "copy.h5ad")


@pytest.mark.usefixtures("little_memory")
def test_a_dense_matrix_that_a_store_only_claims_is_not_written_out(tmp_path):
    store = write_zarr(tmp_path / "cells.zarr", version=2)
    for path in sorted((store / "X").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    about = {"zarr_format": 2, "shape": [HUGE, 50], "chunks": [1024, 50], "dtype": "<f4", "fill_value": 0}
    (store / "X" / ".zarray").write_text(
        json.dumps(about | {"order": "C", "compressor": None, "filters": None})
    )
    with pytest.raises(InputFileError, match=r"X of .1073741824, 50. cells and genes"):
        write_as_h5ad(store, tmp_path / "copy.h5ad")


@pytest.mark.usefixtures("little_memory")
def test_a_10x_file_that_claims_barcodes_is_refused(tmp_path):
    path = tmp_path / "cells.h5"
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        group.create_dataset("barcodes", shape=(HUGE,), dtype="S18", chunks=(1 << 20,))
        for name in ("id", "name", "feature_type"):
            group[f"features/{name}"] = np.array(["a", "b"], dtype="S")
        group["shape"] = np.array([2, HUGE])
        for name in ("data", "indices"):
            group[name] = np.zeros(1, dtype="i4")
        group.create_dataset("indptr", shape=(HUGE + 1,), dtype="i8", chunks=(1 << 20,))
    with pytest.raises(InputFileError, match="claim of 1,073,741,82"):
        write_as_h5ad(path, tmp_path / "copy.h5ad")


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("1000000000 1000000000 5000000000", "1 features and 1 barcodes"),
        ("1 1 5000000000", "1 values where the header says 5000000000"),
    ],
)
def test_a_matrix_market_header_that_claims_is_refused(header, found, tmp_path):
    folder = tmp_path / "tenx"
    folder.mkdir()
    (folder / "barcodes.tsv").write_text("AAAC\n")
    (folder / "features.tsv").write_text("ENSG1\tA\tGene Expression\n")
    (folder / "matrix.mtx").write_text(f"%%MatrixMarket matrix coordinate integer general\n{header}\n1 1 3\n")
    with pytest.raises(InputFileError, match=found):
        write_as_h5ad(folder, tmp_path / "copy.h5ad")


@pytest.mark.parametrize("name", ["cells.h5ad.gz", "tenx/matrix.mtx.gz", "tenx/barcodes.tsv.gz"])
def test_a_packed_file_is_unpacked_no_further_than_its_kind_goes(name, tmp_path, monkeypatch):
    monkeypatch.setattr(packed, "MOST_UNPACKED", 1 << 16)
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    for other in ("barcodes.tsv", "features.tsv", "matrix.mtx"):
        if path.parent != tmp_path:
            (path.parent / other).write_text("a\n")
    if "barcodes" in name:
        (path.parent / "barcodes.tsv").unlink()
    elif "mtx" in name:
        (path.parent / "matrix.mtx").unlink()
    path.write_bytes(gzip.compress(b"1 1 1 " * (1 << 20)))
    source = path if path.parent == tmp_path else path.parent
    with pytest.raises(InputFileError, match=r"as no (text|h5ad) does|of more than 1,048,576 letters"):
        write_as_h5ad(source, tmp_path / "copy.h5ad")


def test_a_filter_that_is_missing_is_named_with_its_package(tmp_path, monkeypatch):
    path = write_cells(tmp_path / "cells.h5ad", n_cells=30)
    with h5py.File(path, "r+") as file:
        values = file["X/data"][:]
        attributes = dict(file["X/data"].attrs)
        del file["X/data"]
        settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        settings.set_chunk((len(values),))
        settings.set_filter(32001, h5py.h5z.FLAG_OPTIONAL, (0, 0, 4, len(values), 5, 1, 1))
        space = h5py.h5s.create_simple((len(values),))
        kind = h5py.h5t.py_create(values.dtype)
        array = h5py.h5d.create(file["X"].id, b"data", kind, space, settings)
        array.write_direct_chunk((0,), values.tobytes())
        h5py.Dataset(array).attrs.update(attributes)
    asked = []
    monkeypatch.setattr(hdf5_filters.importlib, "import_module", asked.append)
    with pytest.raises(SetupError, match=r"filter blosc \(number 32001\).*pip install hdf5plugin"):
        open_file(path)
    assert asked == ["hdf5plugin"], "a package that is there must be tried"


@pytest.mark.parametrize("element", ["obs/cell_type", "var", "obs"])
def test_an_encoding_that_anndata_does_not_know_is_damage_with_its_element(element, tmp_path):
    path = write_cells(tmp_path / "cells.h5ad", n_cells=30)
    with h5py.File(path, "r+") as file:
        file[element].attrs["encoding-type"] = "from the future"
    with pytest.raises(InputFileError, match=f"unreadable element.*{element.rsplit('/', 1)[-1]}"):
        open_file(path)


@pytest.mark.parametrize("place", ["uns", "obsm"])
def test_an_unknown_encoding_beside_the_counts_does_not_matter(place, tmp_path):
    path = write_cells(tmp_path / "cells.h5ad", n_cells=30)
    with h5py.File(path, "r+") as file:
        file[f"{place}/odd"] = np.zeros((30, 2))
        file[f"{place}/odd"].attrs["encoding-type"] = "from the future"
        file[f"{place}/odd"].attrs["encoding-version"] = "9"
    open_file(path)


def test_limits_are_far_above_what_real_tables_need():
    assert claims.MOST_UNCHECKED >= 1 << 28
    table = pd.DataFrame({"n": np.zeros(1000)}).to_csv().encode()
    assert len(table) / len(gzip.compress(table)) < packed.MOST_PER_PACKED["text"]
