"""Other formats than h5ad: each becomes an h5ad file, so that all counts go the same way."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
from scipy.sparse import coo_matrix, csr_matrix, issparse

from annotary.data import modalities, pickles
from annotary.data.atomic import replacing
from annotary.data.damage import READERS_RAISE, describe_damage, is_not_the_file
from annotary.data.discovery import CONVERTED_SUFFIX, ZARR, find_ending
from annotary.data.hdf5 import list_top, open_hdf5
from annotary.data.old_layout import has_old_layout, rewrite_old_layout, write_tables
from annotary.data.packed import unpack
from annotary.data.rows import write_rows
from annotary.data.sparse import RowsOnDisk
from annotary.data.tenx import MATRIX_NAMES, read_market_rows, read_tenx_rows
from annotary.data.zarr_store import copy_zarr
from annotary.errors import InputFileError

_KINDS = {
    pickles.NPY: "pickled dictionary of UMI, gene_ids and classes",
    ".h5ad.gz": "gzipped h5ad file",
    ".h5ad": "h5ad file",
    modalities.ENDING: "MuData file",
    ".h5": "10x HDF5 file",
}


def convert_to_h5ad(path: Path, folder: Path, *, name: str, allow_pickle: bool = False) -> Path:
    """Give an h5ad file with a source's content: the source, or ``NAME.converted.h5ad`` in a folder.

    Parameters
    ----------
    path
        ``.h5ad``; ``.h5ad.gz``; 10x ``.h5``; a 10x folder with ``matrix.mtx`` or
        ``matrix.mtx.gz``; a ``.zarr`` store of AnnData; MuData; an ``.h5ad`` of anndata 0.6; or
        ``.npy`` with a pickled dictionary of ``UMI`` (sparse cells x genes), ``gene_ids`` and ``classes``.
    folder
        Where the h5ad file is written, whole or not at all.
    name
        Its name there, without ending.
    allow_pickle
        Whether a ``.npy`` may be read: unpickling runs whatever code the file holds.

    Raises
    ------
    InputFileError
        If the source cannot be read as what its name says.
    OutputError
        If the h5ad file cannot be written.
    """
    if not needs_conversion(path):
        return path
    target = folder / f"{name.replace('/', '-')}{CONVERTED_SUFFIX}"
    pickles.refuse_pickle(path, allow_pickle=allow_pickle)
    with replacing(target) as temporary:
        write_as_h5ad(path, temporary, allow_pickle=allow_pickle)
    return target


def needs_conversion(path: Path) -> bool:
    """Tell a source of another format; one that is not there is left to the h5ad reader, which says so."""
    return _find_writer(path) is not None


def write_as_h5ad(path: Path, copy: Path, *, allow_pickle: bool = False, shown_as: object = None) -> None:
    """Write the content of a source of another format as an h5ad file.

    Parameters
    ----------
    path
        The source.
    copy
        The h5ad file to write.
    allow_pickle
        Whether a ``.npy`` may be read: unpickling runs whatever code the file holds.
    shown_as
        Name of the source in messages; None takes the path.

    Raises
    ------
    InputFileError
        If the source cannot be read as what its name says.
    OSError
        If the disk is full.
    """
    write = _find_writer(path)
    if write is None:
        raise ValueError(f"{path} needs no conversion")
    pickles.refuse_pickle(path, allow_pickle=allow_pickle, shown_as=shown_as)
    try:
        write(path, copy)
    except READERS_RAISE as error:
        if is_not_the_file(error):
            raise
        raise describe_damage(path, error, kind=_describe(path)) from error


def _find_writer(path: Path) -> Callable[[Path, Path], None] | None:
    """Find what turns a source into h5ad, by its name and content; None where it needs no turning."""
    ending = find_ending(path.name)
    if path.is_dir():
        if ending == ZARR:
            return copy_zarr
        return _write_10x_folder if any((path / name).exists() for name in MATRIX_NAMES) else None
    if pickles.is_pickle(path.name):
        return _write_npy
    if not path.is_file():
        return None  # the h5ad reader says so
    by_name: dict[str, Callable[[Path, Path], None]] = {
        ".h5ad.gz": _write_unpacked,
        ".h5": _write_10x_h5,
        modalities.ENDING: modalities.copy_expression,
    }
    return by_name.get(ending) or _find_rewriter(path)


def _find_rewriter(path: Path) -> Callable[[Path, Path], None] | None:
    """Find what brings an HDF5 file of another layout into that of today's h5ad files."""
    top = list_top(path)
    if modalities.holds_modalities(top):
        return modalities.copy_expression
    return rewrite_old_layout if has_old_layout(top) else None


def _describe(path: Path) -> str:
    """Name the format of a source for people."""
    ending = find_ending(path.name)
    if path.is_dir():
        return "zarr store" if ending == ZARR else "10x matrix folder"
    return _KINDS.get(ending, "h5ad file")


def _write_unpacked(path: Path, copy: Path) -> None:
    """Unpack an h5ad file, and rewrite what lies in it where that is of another layout."""
    unpack(path, copy)
    if rewrite := _find_rewriter(copy):
        inner = copy.with_name(f"{copy.name}.unpacked")
        copy.rename(inner)
        try:
            rewrite(inner, copy)
        except InputFileError as error:
            raise InputFileError(
                error.place.replace(str(inner), str(path)),
                expected=error.expected,
                found=error.found,
                remedy=error.remedy,
            ) from error
        finally:
            inner.unlink()


def _write_h5ad(copy: Path, obs: pd.DataFrame, var: pd.DataFrame, rows: RowsOnDisk) -> None:
    """Write tables and rows as an h5ad file."""
    write_tables(copy, anndata.AnnData(obs=obs, var=var))
    with h5py.File(copy, "a") as file:
        write_rows(file, "X", rows)


def _write_10x_folder(path: Path, copy: Path) -> None:
    with read_market_rows(path, copy.parent) as (obs, var, rows):
        _write_h5ad(copy, obs, var, rows)


def _write_10x_h5(path: Path, copy: Path) -> None:
    with open_hdf5(path, kind="10x HDF5 file") as file:
        obs, var, rows = read_tenx_rows(file)
        _write_h5ad(copy, obs, var, rows)


def _write_npy(path: Path, copy: Path) -> None:
    content = pickles.unpickle_npy(path)
    counts = _check_rows(content["UMI"])
    classes = pd.Series(np.asarray(content["classes"], dtype=object).ravel())
    labels = pd.Categorical(classes.map(str).where(classes.notna()))  # None is no label, not a name
    gene_ids = np.asarray(content["gene_ids"]).ravel().astype(str)
    obs = pd.DataFrame({"cell_type": labels}, index=[f"cell{cell}" for cell in range(counts.shape[0])])
    anndata.AnnData(X=counts, obs=obs, var=pd.DataFrame(index=gene_ids)).write_h5ad(copy)


def _check_rows(matrix: Any) -> csr_matrix:
    """Make rows of a matrix that was unpickled, which scipy has not checked."""
    if issparse(matrix) and matrix.format in ("csr", "csc"):
        matrix.check_format(full_check=True)
    elif issparse(matrix) and matrix.format == "coo":
        matrix = coo_matrix((matrix.data, (matrix.row, matrix.col)), shape=matrix.shape)
    return csr_matrix(matrix)
