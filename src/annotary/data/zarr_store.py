"""Zarr stores of AnnData, copied into h5ad files; a chunk that is not there would be read as zeros."""

from pathlib import Path

import anndata.io
import h5py
import numpy as np
import zarr

from annotary.data.csr_writer import CsrWriter
from annotary.data.h5ad_elements import open_rows
from annotary.data.scratch import CHUNK_SIZE
from annotary.data.sparse import Group, RowsOnDisk

_DENSE_BYTES = 1 << 26


def copy_zarr(path: Path, copy: Path) -> None:
    """Write the content of a zarr store of AnnData as an h5ad file.

    Raises
    ------
    OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError
        If the store is damaged, or chunks of counts or of ids are lost.
    """
    store: Group = zarr.open_group(
        path, mode="r", use_consolidated=False
    )  # what is there, not what was written
    with h5py.File(copy, "w") as file:
        for name, value in store.attrs.items():
            file.attrs[name] = value
        for name in store:
            if name in ("X", "layers", "raw"):
                _copy_matrices(store[name], file, name, copy.parent)
                continue
            if name in ("obs", "var"):
                _check_ids(store[name])
            anndata.io.write_elem(file, name, anndata.io.read_elem(store[name]))


def write_rows(file: h5py.File, name: str, rows: RowsOnDisk) -> None:
    """Write a matrix that is read by rows as CSR."""
    n_cells, n_genes = rows.shape
    with CsrWriter(file, name, n_genes, dtype=rows.dtype, compressed=False) as writer:
        for start in range(0, n_cells, CHUNK_SIZE):
            writer.append(rows[start : min(start + CHUNK_SIZE, n_cells)])


def _copy_matrices(element: Group, file: h5py.File, name: str, scratch: Path) -> None:
    """Copy a matrix, or a group of them, in row chunks."""
    encoding, is_group = element.attrs.get("encoding-type"), isinstance(element, zarr.Group)
    if is_group and encoding in ("csr_matrix", "csc_matrix"):
        n_cells, n_genes = element.attrs["shape"]
        _check_values(element, n_genes if encoding == "csr_matrix" else n_cells)
        rows = open_rows(element, scratch)
        write_rows(file, name, rows)
    elif is_group and (encoding in ("dict", "raw") or name in ("layers", "raw")):
        group = file.create_group(name)
        for attribute, value in element.attrs.items():
            group.attrs[attribute] = value
        for part in element:
            if part == "var":
                _check_ids(element[part])
            _copy_matrices(element[part], file, f"{name}/{part}", scratch)
    elif not is_group and element.ndim == 2:
        dense = file.create_dataset(name, shape=element.shape, dtype=element.dtype)
        for attribute, value in element.attrs.items():
            dense.attrs[attribute] = value
        step = max(1, _DENSE_BYTES // max(element.shape[1] * element.dtype.itemsize, 1))
        for start in range(0, element.shape[0], step):
            dense[start : start + step] = element[start : start + step]
    else:
        anndata.io.write_elem(file, name, anndata.io.read_elem(element))


def _check_ids(table: Group) -> None:
    """Refuse a table whose ids are not all there; no id is empty, so none of their chunks may be left out."""
    index = table.attrs.get("_index")
    if isinstance(index, str) and index in table and not isinstance(table[index], zarr.Group):
        _refuse_lost(table[index])


def _check_values(matrix: Group, n_columns: int) -> None:
    """Refuse a sparse matrix that lacks chunks.

    Zarr leaves out chunks that hold zeros only: of ``indices`` where there is one column,
    and the first ones of ``indptr`` where their rows hold nothing.
    """
    _refuse_lost(matrix["data"])
    if n_columns > 1:
        _refuse_lost(matrix["indices"])
    starts = matrix["indptr"][...]
    first = int(np.argmax(starts > 0))
    is_plausible = starts[first] <= n_columns if starts.any() else matrix["data"].shape[0] == 0
    n_empty = (first or len(starts)) // matrix["indptr"].chunks[0] if is_plausible else 0
    _refuse_lost(matrix["indptr"], but_for=n_empty)


def _refuse_lost(array: zarr.Array, *, but_for: int = 0) -> None:
    """Refuse an array of which more chunks are not there than may hold zeros only."""
    n_lost = array.nchunks - array.nchunks_initialized
    if n_lost > but_for:
        raise ValueError(f"{n_lost} of {array.nchunks} chunks of {array.path} are lost")
