"""Matrices: values that are no counts, and every way to store the same counts."""

import itertools
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
from scipy.sparse import csc_matrix, csr_matrix

from annotary import keys
from annotary.data.dataset import Dataset
from malformed.cases import (
    LAST_CELL,
    N_CELLS,
    N_GENES,
    accepted,
    clean,
    dense,
    edited,
    many_cells,
    refused,
    replace_element,
    with_matrix,
    write,
    write_matrix,
)

_LAYER = "--counts-layer"
_AGAIN = r"[Cc]opy|[Ww]rite"
_STORES = {"dense": np.asarray, "CSR": csr_matrix, "CSC": csc_matrix}

NOT_COUNTS = {
    "NaN": (np.nan, "nan"),
    "negative": (-2, "-2"),
    "Inf": (np.inf, "inf"),
    "minus Inf": (-np.inf, "-inf"),
    "fraction": (0.37, "0.37"),
}

for _what, (_value, _shown) in NOT_COUNTS.items():
    for _kind, _store in _STORES.items():

        @refused(
            f"{_what} in the last chunk, {_kind}",
            place=": X",
            expected="non-negative integers",
            found=f"{_shown} at cell 'cell{LAST_CELL}', gene 'GENE0007'",
            remedy=_LAYER,
        )
        def not_a_count(folder: Path, value: float = _value, store: object = _store) -> Path:
            adata = many_cells()
            counts = adata.X.toarray()
            counts[LAST_CELL, 7] = value
            return write(folder, anndata.AnnData(store(counts), obs=adata.obs, var=adata.var))


@refused("scaled", place=": X", expected="non-negative integers|raw counts", found="-", remedy=_LAYER)
def scaled(folder: Path) -> Path:
    log_expr = np.log1p(dense())
    return write_matrix(folder, (log_expr - log_expr.mean(axis=0)) / (log_expr.std(axis=0) + 1e-3))


def _log1p(counts: np.ndarray) -> np.ndarray:
    return np.log1p(counts / counts.sum(axis=1, keepdims=True) * 1e4).astype(np.float32)


@refused("log1p with noise", place=": X", expected="integers|raw counts", found=r"\d", remedy=_LAYER)
def noisy_log1p(folder: Path) -> Path:
    noise = np.random.default_rng(0).uniform(0.9, 1.1, size=(N_CELLS, N_GENES))
    return write_matrix(folder, csr_matrix(_log1p(dense()) * noise))


@accepted("log1p of counts", says=("recover",))
def exact_log1p(folder: Path) -> Path:
    return write_matrix(folder, csr_matrix(_log1p(dense())))


@refused(
    "counts without log1p, normalised",
    place=": X",
    expected="integers|raw counts",
    found=r"\d",
    remedy=_LAYER,
)
def noisy_normalised(folder: Path) -> Path:
    counts = dense() * np.random.default_rng(0).uniform(0.9, 1.1, size=(N_CELLS, N_GENES))
    return write_matrix(folder, csr_matrix(counts / counts.sum(axis=1, keepdims=True) * 1e4))


@accepted("log1p in X, counts in a layer")
def counts_in_layer(folder: Path) -> Path:
    adata = clean()
    adata.layers["counts"] = adata.X.copy()
    adata.X = csr_matrix(_log1p(dense()))
    return write(folder, adata)


@accepted("log1p in X, counts in raw")
def counts_in_raw(folder: Path) -> Path:
    adata = clean()
    adata.raw = adata.copy()
    adata.X = csr_matrix(_log1p(dense()))
    return write(folder, adata)


@refused("0 cells", place=": X", expected="at least one cell", found="0 cells", remedy=r"\w")
def no_cells(folder: Path) -> Path:
    return write(folder, clean()[:0].copy())


@refused("0 genes", place=": X", expected="at least one gene", found="0 genes", remedy=r"\w")
def no_genes(folder: Path) -> Path:
    return write(folder, clean()[:, :0].copy())


_EMPTY = np.arange(0, 30, 10)


def without_empty_cells() -> anndata.AnnData:
    return clean()[np.setdiff1d(np.arange(N_CELLS), _EMPTY)].copy()


for _min_genes in (20, 0):

    @accepted(
        f"zero-count cells, --min-genes {_min_genes}",
        twin=without_empty_cells,
        says=(r"left out 3 cells: .*(genes|counts)",),
        options=("--min-genes", str(_min_genes)),
        twin_options=("--min-genes", str(_min_genes)),
    )
    def zero_count_cells(folder: Path) -> Path:
        counts = dense()
        counts[_EMPTY] = 0
        return write_matrix(folder, csr_matrix(counts))


for _min_genes in (20, 0):

    @refused(
        f"zero-count cells only, --min-genes {_min_genes}",
        place=": X",
        expected="cells|genes|counts",
        found=f"{N_CELLS}",
        remedy=r"\w",
        options=("--min-genes", str(_min_genes)),
    )
    def zeros_only(folder: Path) -> Path:
        return write_matrix(folder, csr_matrix((N_CELLS, N_GENES), dtype=np.float32))


@refused(
    "one gene", place=": X", expected="20 expressed genes", found="at most 1 genes", remedy="--min-genes"
)
def one_gene(folder: Path) -> Path:
    return write(folder, clean()[:, :1].copy())


def _has_one_gene(dataset: Dataset) -> None:
    assert dataset.counts.shape[1] == len(dataset.panel) == 1


@accepted("one gene, --min-genes 1", twin=None, check=_has_one_gene, options=("--min-genes", "1"))
def one_gene_allowed(folder: Path) -> Path:
    return write(folder, clean()[:, 20:21].copy())


@refused("one cell", expected="labels", found="1", remedy=r"\w", options=("--min-cells", "0"))
def one_cell(folder: Path) -> Path:
    return write(folder, clean()[:1].copy())


def _largest_is(value: int):
    def check(dataset: Dataset) -> None:
        assert dataset.counts.max() == value
        assert dataset.obs[keys.DEPTH].max() >= value

    return check


for _dtype, _kind in {"int64": "CSC", "uint32": "dense", "float32": "CSR"}.items():
    for _value in (65_536, 16_777_215):

        @accepted(f"a count of {_value}, {_dtype}, {_kind}", twin=None, check=_largest_is(_value))
        def large_count(folder: Path, dtype: str = _dtype, value: int = _value, kind: str = _kind) -> Path:
            counts = dense().astype(dtype)
            counts[3, np.argmax((counts > 0).sum(axis=0))] = value
            return write_matrix(folder, _STORES[kind](counts))


for _dtype, _value in {"int64": 2**31, "uint32": 2**31, "float32": 2**31, "uint64": 2**63}.items():

    @refused(
        f"a count of {_value}, {_dtype}",
        place=": X",
        expected=r"integers of at most \d+",
        found=r"\d at cell 'cell0003', gene 'GENE0005'",
        remedy=r"\w",
    )
    def too_large(folder: Path, dtype: str = _dtype, value: int = _value) -> Path:
        counts = dense().astype(dtype)
        counts[3, 5] = value
        return write_matrix(folder, csr_matrix(counts))


_DTYPES = ["int8", "int64", "uint8", "uint16", "uint64", "float16", "float64", ">i4", ">f8"]

for _dtype in _DTYPES:

    @accepted(f"dtype {_dtype}, CSR")
    def sparse_dtype(folder: Path, dtype: str = _dtype) -> Path:
        with edited(folder) as file:
            replace_element(file["X"], "data", file["X/data"][:].astype(dtype))
        return folder / "cells.h5ad"


for _dtype in ("uint16", "uint64", "float16", ">f8"):

    @accepted(f"dtype {_dtype}, dense")
    def dense_dtype(folder: Path, dtype: str = _dtype) -> Path:
        with edited(folder, with_dense()) as file:
            replace_element(file, "X", file["X"][:].astype(dtype))
        return folder / "cells.h5ad"


def with_dense() -> anndata.AnnData:
    adata = clean()
    adata.X = adata.X.toarray()
    return adata


def detected() -> anndata.AnnData:
    return with_matrix((dense() > 0).astype(np.float32))


for _kind, _store in _STORES.items():

    @accepted(f"boolean dtype, {_kind}", twin=detected)
    def boolean(folder: Path, store: object = _store) -> Path:
        return write_matrix(folder, store(dense() > 0))


for _dtype, _shown in {"complex64": "complex", "S4": "S4|bytes|string|text"}.items():
    for _kind in ("CSR", "dense"):

        @refused(
            f"dtype {_dtype}, {_kind}",
            place=": X",
            expected="integers|numbers|counts|numeric",
            found=_shown,
            remedy=r"\w",
        )
        def no_numbers(folder: Path, dtype: str = _dtype, kind: str = _kind) -> Path:
            if kind == "dense":
                with edited(folder, with_dense()) as file:
                    replace_element(file, "X", dense().astype(int).astype(dtype))
            else:
                with edited(folder) as file:
                    replace_element(file["X"], "data", file["X/data"][:].astype(int).astype(dtype))
            return folder / "cells.h5ad"


@accepted("CSC")
def csc(folder: Path) -> Path:
    return write_matrix(folder, csc_matrix(dense()))


@accepted("dense")
def plain_dense(folder: Path) -> Path:
    return write_matrix(folder, dense())


@accepted("dense, in small compressed chunks")
def chunked_dense(folder: Path) -> Path:
    with edited(folder, with_dense()) as file:
        del file["X"]
        file.create_dataset("X", data=dense(), chunks=(7, 11), compression="lzf", shuffle=True)
    return folder / "cells.h5ad"


def _row_order(file: h5py.File) -> np.ndarray:
    """Give the positions of the stored values with each row's backwards, ``(n_stored,)``."""
    indptr = file["X/indptr"][:]
    rows = itertools.pairwise(indptr)
    return np.concatenate([np.arange(start, stop)[::-1] for start, stop in rows])


for _kind, _matrix in {"CSR": csr_matrix, "CSC": csc_matrix}.items():

    @accepted(f"unsorted {_kind} indices")
    def unsorted(folder: Path, matrix: type = _matrix) -> Path:
        with edited(folder, anndata.AnnData(matrix(dense()), obs=clean().obs, var=clean().var)) as file:
            order = _row_order(file)
            for name in ("data", "indices"):
                replace_element(file["X"], name, file["X"][name][:][order])
        return folder / "cells.h5ad"

    @accepted(f"duplicate {_kind} indices, added up")
    def duplicated(folder: Path, matrix: type = _matrix) -> Path:
        with edited(folder, anndata.AnnData(matrix(dense()), obs=clean().obs, var=clean().var)) as file:
            data, indices, indptr = (file["X"][name][:] for name in ("data", "indices", "indptr"))
            twice = np.where(data >= 2, 2, 1)
            first = np.cumsum(twice) - twice
            spread = np.repeat(data, twice)
            spread[first[data >= 2]] = 1
            spread[first[data >= 2] + 1] = data[data >= 2] - 1
            replace_element(file["X"], "data", spread)
            replace_element(file["X"], "indices", np.repeat(indices, twice))
            replace_element(file["X"], "indptr", np.concatenate([[0], np.cumsum(twice)])[indptr])
        return folder / "cells.h5ad"


@accepted("explicit zeros and negative zeros")
def explicit_zeros(folder: Path) -> Path:
    counts = dense()
    rows, columns = np.indices(counts.shape)
    full = csr_matrix((N_CELLS, N_GENES), dtype=np.float32)
    values = np.where((counts == 0) & (columns % 2 == 0), -0.0, counts)
    full = csr_matrix((values.ravel(), (rows.ravel(), columns.ravel())), shape=counts.shape)
    assert full.nnz == counts.size
    return write_matrix(folder, full)


@accepted("64-bit indices")
def wide_indices(folder: Path) -> Path:
    with edited(folder) as file:
        for name in ("indices", "indptr"):
            replace_element(file["X"], name, file["X"][name][:].astype(np.int64))
    return folder / "cells.h5ad"


@accepted("unsigned indices")
def unsigned_indices(folder: Path) -> Path:
    with edited(folder) as file:
        replace_element(file["X"], "indices", file["X/indices"][:].astype(np.uint16))
        replace_element(file["X"], "indptr", file["X/indptr"][:].astype(np.uint64))
    return folder / "cells.h5ad"


@accepted("written backed, row block by row block")
def backed(folder: Path) -> Path:
    counts = clean().X
    with edited(folder, anndata.AnnData(counts[:50], obs=clean().obs[:50], var=clean().var)) as file:
        matrix = anndata.io.sparse_dataset(file["X"])
        matrix.append(counts[50:80])
        matrix.append(counts[80:])
        del file["obs"]
        anndata.io.write_elem(file, "obs", clean().obs)
    return folder / "cells.h5ad"


@accepted("changed in backed mode")
def backed_view(folder: Path) -> Path:
    adata = with_dense()
    adata.X[:10] = 0
    path = write(folder, adata)
    backed_file = anndata.read_h5ad(path, backed="r+")
    backed_file.X[:10] = dense()[:10]
    backed_file.file.close()
    return path


def _set(name: str, at: int, value: int):
    def damage(file: h5py.File) -> None:
        file["X"][name][at] = value

    return damage


def _swap_indptr(file: h5py.File) -> None:
    indptr = file["X/indptr"][:]
    indptr[[10, 11]] = indptr[[11, 10]]
    file["X/indptr"][:] = indptr


def _shorten(name: str):
    def damage(file: h5py.File) -> None:
        replace_element(file["X"], name, file["X"][name][:-40])

    return damage


def _lie(shape: tuple[int, int]):
    def damage(file: h5py.File) -> None:
        file["X"].attrs["shape"] = np.array(shape)

    return damage


_BROKEN = r"unreadable|out|ind(ex|ices|ptr)|negative|order|shape|x \d+|\d+ "

DAMAGED = {
    "a column index out of range": _set("indices", 900, N_GENES),
    "a column index far out of range": _set("indices", 900, 2**31 - 1),
    "a negative column index": _set("indices", 900, -1),
    "indptr that goes down": _swap_indptr,
    "indptr that does not start at 0": _set("indptr", 0, 5),
    "indptr that ends after the values": _set("indptr", -1, 10**6),
    "negative indptr": _set("indptr", 40, -3),
    "fewer values than indices": _shorten("data"),
    "fewer indices than values": _shorten("indices"),
    "too short indptr": _shorten("indptr"),
    "a shape with more cells": _lie((N_CELLS + 10, N_GENES)),
    "a shape with fewer cells": _lie((N_CELLS - 10, N_GENES)),
    "a shape with more genes": _lie((N_CELLS, N_GENES + 10)),
    "a shape with fewer genes": _lie((N_CELLS, N_GENES - 10)),
    "a shape of three axes": _lie((N_CELLS, N_GENES, 1)),
    "a negative shape": _lie((-1, N_GENES)),
}

for _what, _damage in DAMAGED.items():
    for _kind, _matrix in {"CSR": csr_matrix, "CSC": csc_matrix}.items():

        @refused(f"{_what}, {_kind}", expected=r"whole h5ad|cells x \d+ genes", found=_BROKEN, remedy=_AGAIN)
        def damaged(folder: Path, damage: object = _damage, matrix: type = _matrix) -> Path:
            with edited(folder, anndata.AnnData(matrix(dense()), obs=clean().obs, var=clean().var)) as file:
                damage(file)
            return folder / "cells.h5ad"


@refused("no indptr", expected="whole h5ad", found=r"unreadable.*indptr", remedy=_AGAIN)
def no_indptr(folder: Path) -> Path:
    with edited(folder) as file:
        del file["X/indptr"]
    return folder / "cells.h5ad"


for _axes, _shape in {"one axis": (N_CELLS,), "three axes": (N_CELLS, N_GENES, 1), "no axis": ()}.items():

    @refused(
        f"a dense matrix of {_axes}",
        place=": X",
        expected=r"cells x \d+ genes",
        found=r"\d|a single number",
        remedy=_AGAIN,
    )
    def axes(folder: Path, shape: tuple[int, ...] = _shape) -> Path:
        with edited(folder, with_dense()) as file:
            replace_element(file, "X", np.ones(shape, dtype=np.float32))
        return folder / "cells.h5ad"


for _what, _axis in {"obs": 0, "var": 1}.items():

    @refused(
        f"{_what} shorter than X",
        place=": X",
        expected=r"cells x \d+ genes",
        found=r"120 x 150",
        remedy=_AGAIN,
    )
    def short_table(folder: Path, name: str = _what) -> Path:
        with edited(folder) as file:
            table: pd.DataFrame = anndata.io.read_elem(file[name])
            del file[name]
            anndata.io.write_elem(file, name, table.iloc[:-20])
        return folder / "cells.h5ad"
