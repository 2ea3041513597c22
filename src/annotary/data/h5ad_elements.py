"""Elements of an h5ad file as every version of anndata wrote them: tables, and matrices by row."""

import tempfile
from pathlib import Path

import anndata.io
import h5py
import numpy as np
import pandas as pd
import zarr
from anndata.abc import CSRDataset

from annotary import keys
from annotary.data.claims import refuse_claims
from annotary.data.damage import READERS_RAISE, describe_damage
from annotary.data.hdf5 import read_anndata, read_element
from annotary.data.sparse import CompressedRows, DenseRows, RowsOnDisk, holds_numbers
from annotary.data.triplets import turn_to_rows
from annotary.errors import CountsError, InputFileError


def read_table(file: h5py.File, name: str, *, path: Path) -> pd.DataFrame:
    """Read ``obs`` or a ``var``.

    Parameters
    ----------
    file
        The open file.
    name
        Address of the table; ``raw.var`` in files of anndata 0.6.
    path
        Name of the file in messages.

    Raises
    ------
    InputFileError
        If it is damaged or no table.
    """
    try:
        element = file[name]
    except READERS_RAISE as error:
        raise describe_damage(path, error, element=name) from error
    if isinstance(element, h5py.Dataset) and element.dtype.names:
        return _read_records(file, name, path=path)
    table = read_element(element, path=path, name=name)
    if not isinstance(table, pd.DataFrame):
        found = TypeError(f"{type(table).__name__} where a table must be")
        raise describe_damage(path, found, element=name)
    return table


def count_rows(file: h5py.File, name: str) -> int | None:
    """Tell how many rows a table says it has, without reading it; None where it does not say."""
    element = file.get(name)
    if isinstance(element, h5py.Group):
        index = element.attrs.get("_index")
        if isinstance(index, bytes):
            index = index.decode(errors="replace")
        element = element.get(index) if isinstance(index, str) else None
        if isinstance(element, h5py.Group):  # a nullable index
            element = element.get("values")
    if isinstance(element, h5py.Dataset) and element.shape:
        return int(element.shape[0])
    return None


def _read_records(file: h5py.File, name: str, *, path: Path) -> pd.DataFrame:
    """Read a table of records, which anndata 0.6 wrote, with its categories in ``uns``."""
    adata = read_anndata(Path(file.filename), shown_as=path, backed=True)
    try:
        return {"obs": adata.obs, "var": adata.var}[name] if name in ("obs", "var") else adata.raw.var
    finally:
        adata.file.close()


def open_rows(element: h5py.Dataset | h5py.Group | zarr.Group, scratch: Path | None) -> RowsOnDisk:
    """Open a matrix by row.

    Parameters
    ----------
    element
        A dense array, or a group in CSR or CSC.
    scratch
        Folder for a working copy of a matrix that is stored by gene; None takes the system's.

    Raises
    ------
    ValueError, KeyError, IndexError
        If it is damaged or of another kind.
    """
    if isinstance(element, h5py.Dataset):
        return DenseRows(element)
    matrix = anndata.io.sparse_dataset(element)
    shape = matrix.shape
    if len(shape) != 2 or min(shape) < 0:
        raise ValueError(f"a matrix of the shape {shape}")
    if isinstance(matrix, CSRDataset):
        return CompressedRows(element, shape)
    columns = CompressedRows(element, shape[::-1])
    return turn_to_rows(columns, scratch or Path(tempfile.gettempdir()))


def open_matrix(
    file: h5py.File, address: str, shape: tuple[int, int], *, place: str, path: Path, scratch: Path | None
) -> RowsOnDisk:
    """Open a matrix of counts that must have a shape.

    Raises
    ------
    InputFileError
        If it is damaged, or its shape is another one.
    CountsError
        If it holds no numbers.
    """
    element = file[address]
    _check_numbers(element, place)
    try:
        refuse_claims(element, place, is_whole=False)
        _check_shape(_get_shape(element), shape, place)
        rows = open_rows(element, scratch)
    except READERS_RAISE as error:
        raise describe_damage(path, error, element=place.removeprefix(f"{path}: ")) from error
    _check_shape(rows.shape, shape, place)
    return rows


def _get_shape(element: h5py.Dataset | h5py.Group) -> tuple[int, ...]:
    """Get the shape that a matrix says it has."""
    if isinstance(element, h5py.Dataset):
        return tuple(element.shape or ())
    return tuple(map(int, anndata.io.sparse_dataset(element).shape))


def refuse_sizes(file: h5py.File, address: str, var_address: str, *, place: str) -> None:
    """Compare the sizes of a matrix and of its tables before any of them is read.

    Raises
    ------
    InputFileError
        If they say different numbers of cells or genes.
    """
    element = file[address]
    try:
        found = _get_shape(element)
        tables = count_rows(file, "obs"), count_rows(file, var_address)
    except READERS_RAISE:
        return  # reading it says what is wrong
    if len(found) != 2 or None in tables:
        return
    _check_shape(found, (int(tables[0] or 0), int(tables[1] or 0)), place)


def _check_numbers(element: h5py.Dataset | h5py.Group, place: str) -> None:
    """Refuse values that are no real numbers."""
    values = element.get("data") if isinstance(element, h5py.Group) else element
    if isinstance(values, h5py.Dataset) and not holds_numbers(values.dtype):
        raise CountsError(
            place,
            expected="numbers",
            found=f"values of the type {values.dtype}",
            remedy="Name the raw-count layer with --counts-layer.",
        )


def _check_shape(found: tuple[int, ...], shape: tuple[int, int], place: str) -> None:
    """Refuse a matrix of another shape than its tables, or without cells or genes."""
    if found != shape:
        raise InputFileError(
            place,
            expected=f"{shape[0]} cells x {shape[1]} genes, as its obs and var tables say",
            found=" x ".join(map(str, found)) or "a single number",
            remedy="Write the file again with anndata's write_h5ad.",
        )
    for axis, size in zip(("cell", "gene"), shape, strict=True):
        if size == 0:
            raise InputFileError(
                place,
                expected=f"at least one {axis}",
                found=f"{shape[0]} cells x {shape[1]} genes",
                remedy="Check how the file was written.",
            )


def find_genes(var: pd.DataFrame, path: Path) -> np.ndarray:
    """Find the columns that are gene expression, a mask ``(n_columns,)``; all where nothing is said.

    Raises
    ------
    InputFileError
        If there is none.
    """
    if keys.FEATURE_TYPES not in var:
        return np.ones(len(var), dtype=bool)
    is_gene = (var[keys.FEATURE_TYPES] == keys.GENE_EXPRESSION).to_numpy(dtype=bool)
    if not is_gene.any():
        raise InputFileError(
            f"{path}: var[{keys.FEATURE_TYPES!r}]",
            expected=f"features of the type {keys.GENE_EXPRESSION!r}",
            found=", ".join(sorted(map(str, var[keys.FEATURE_TYPES].unique()))),
            remedy="Give a file with gene expression.",
        )
    return is_gene
