"""Zarr stores of AnnData, copied into h5ad files; a chunk that is not there would be read as zeros."""

from pathlib import Path
from typing import Any

import anndata
import anndata.io
import h5py
import numpy as np
import zarr

from annotary.data.damage import READERS_RAISE, describe_damage
from annotary.data.h5ad_elements import open_rows
from annotary.data.rows import write_rows
from annotary.data.sparse import Group
from annotary.data.zarr_gate import check_zarr

_DENSE_BYTES = 1 << 26


def copy_zarr(path: Path, copy: Path) -> None:
    """Write the content of a zarr store of AnnData as an h5ad file.

    Raises
    ------
    InputFileError
        If the store would run code, claims far more than it stores, or an element cannot be read.
    OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError
        If the store is damaged, or chunks of counts or of ids are lost.
    """
    check_zarr(path)
    store: Group = zarr.open_group(
        path, mode="r", use_consolidated=False
    )  # what is there, not what was written
    with h5py.File(copy, "w") as file:
        for name, value in store.attrs.items():
            file.attrs[name] = value
        for name in sorted(store, key=lambda one: one not in ("obs", "var")):  # small ones first
            if name in ("X", "layers"):
                _check_shapes(store, name)
            if name in ("X", "layers", "raw"):
                _copy_matrices(store[name], file, name, copy.parent)
                continue
            if name in ("obs", "var"):
                _check_ids(store[name])
            _copy_element(file, name, store[name], path=path)


def _copy_element(file: h5py.File, name: str, element: Any, *, path: Path) -> None:
    """Copy what anndata wrote, columns of pandas' nullable types too."""
    try:
        value = anndata.io.read_elem(element)
    except READERS_RAISE as error:
        raise describe_damage(path, error, kind="zarr store", element=name) from error
    with anndata.settings.override(allow_write_nullable_strings=True):
        anndata.io.write_elem(file, name, value)


def _check_shapes(store: Group, name: str) -> None:
    """Refuse a matrix of another number of cells or genes than the store has ids, before it is copied."""
    ids = [_find_ids(store[table]) for table in ("obs", "var") if table in store]
    if len(ids) != 2 or None in ids:
        return
    wanted = tuple(int(one.shape[0]) for one in ids if one is not None)
    parts = (
        {name: store[name]} if name == "X" else {f"{name}/{part}": store[name][part] for part in store[name]}
    )
    for address, part in parts.items():
        shape: Any = part.attrs.get("shape") if isinstance(part, zarr.Group) else part.shape
        if shape is not None and tuple(map(int, shape)) != wanted:
            raise ValueError(f"{address} of {tuple(shape)} cells and genes, of which there are {wanted}")


def _find_ids(table: Group) -> zarr.Array | None:
    """Find the array of a table's ids."""
    index = table.attrs.get("_index")
    found = table[index] if isinstance(index, str) and index in table else None
    return found if isinstance(found, zarr.Array) else None


def _copy_matrices(element: Group, file: h5py.File, name: str, scratch: Path) -> None:
    """Copy a matrix, or a group of them, in row chunks."""
    encoding, is_group = element.attrs.get("encoding-type"), isinstance(element, zarr.Group)
    if is_group and encoding in ("csr_matrix", "csc_matrix"):
        n_cells, n_genes = element.attrs["shape"]
        n_rows = n_cells if encoding == "csr_matrix" else n_genes
        if element["indptr"].shape != (n_rows + 1,):
            raise ValueError(f"indptr of {element['indptr'].shape} values for {n_rows} rows")
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
        _copy_element(file, name, element, path=Path(str(element.store_path)))


def _check_ids(table: Group) -> None:
    """Refuse a table whose ids are not all there; no id is empty, so none of their chunks may be left out."""
    ids = _find_ids(table)
    if ids is not None:
        _refuse_lost(ids)


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
