"""Other formats than h5ad: each becomes an h5ad file, so that all counts go the same way."""

import errno
import gzip
import pickle
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
from scipy.sparse import coo_matrix, csr_matrix, issparse

from annotary.data.atomic import replacing
from annotary.data.discovery import CONVERTED_SUFFIX
from annotary.data.hdf5 import describe_damage, open_hdf5
from annotary.data.sparse import RowsOnDisk
from annotary.data.tenx import MATRIX_NAMES, read_market_rows, read_tenx_rows
from annotary.data.zarr_store import copy_zarr, write_rows
from annotary.errors import InputFileError

_READERS_RAISE = (
    OSError,
    EOFError,
    KeyError,
    ValueError,
    TypeError,
    AttributeError,
    IndexError,
    RuntimeError,
    ImportError,
    zlib.error,
    pickle.UnpicklingError,
)
_DISK_IS_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def convert_to_h5ad(path: Path, folder: Path, *, name: str, allow_pickle: bool = False) -> Path:
    """Give an h5ad file with a source's content: the source, or ``NAME.converted.h5ad`` in a folder.

    Parameters
    ----------
    path
        ``.h5ad``; ``.h5ad.gz``; 10x ``.h5``; a 10x folder with ``matrix.mtx`` or
        ``matrix.mtx.gz``; a ``.zarr`` store of AnnData; or ``.npy`` with a pickled
        dictionary of ``UMI`` (sparse cells x genes), ``gene_ids`` and ``classes``.
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
    _check_pickle_allowed(path, allow_pickle)
    target = folder / f"{name.replace('/', '-')}{CONVERTED_SUFFIX}"
    with replacing(target) as temporary:
        write_as_h5ad(path, temporary)
    return target


def needs_conversion(path: Path) -> bool:
    """Tell a source of another format; one that is not there is left to the h5ad reader, which says so."""
    return _find_writer(path) is not None


def write_as_h5ad(path: Path, copy: Path) -> None:
    """Write the content of a source of another format as an h5ad file; pickles are trusted.

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
    try:
        write(path, copy)
    except _READERS_RAISE as error:
        if isinstance(error, OSError) and error.errno in _DISK_IS_FULL:
            raise
        raise describe_damage(path, error, kind=_describe(path)) from error


def _find_writer(path: Path) -> Callable[[Path, Path], None] | None:
    """Find what turns a source into h5ad, by its name; None where it needs no turning."""
    if not path.exists():
        return None  # the h5ad reader says so
    if path.is_dir():
        if path.suffix == ".zarr":
            return copy_zarr
        return _write_10x_folder if any((path / name).exists() for name in MATRIX_NAMES) else None
    if path.suffix == ".npy":
        return _write_npy
    if path.name.endswith(".h5ad.gz"):
        return _unzip
    return _write_10x_h5 if path.suffix == ".h5" else None


def _describe(path: Path) -> str:
    """Name the format of a source for people."""
    if path.is_dir():
        return "zarr store" if path.suffix == ".zarr" else "10x matrix folder"
    names = {".npy": "pickled dictionary of UMI, gene_ids and classes", ".gz": "gzipped h5ad file"}
    return names.get(path.suffix, "10x HDF5 file")


def _check_pickle_allowed(path: Path, allow_pickle: bool) -> None:
    """Refuse a pickle that was not asked for."""
    if path.suffix == ".npy" and not allow_pickle:
        raise InputFileError(
            path,
            expected="--allow-pickle to be read",
            found="a pickled array, which runs whatever code it holds when it is read",
            remedy="Pass --allow-pickle if you trust where the file comes from.",
        )


def _unzip(path: Path, copy: Path) -> None:
    with gzip.open(path, "rb") as packed, copy.open("wb") as plain:
        shutil.copyfileobj(packed, plain)


def _write_h5ad(copy: Path, obs: pd.DataFrame, var: pd.DataFrame, rows: RowsOnDisk) -> None:
    """Write tables and rows as an h5ad file."""
    anndata.AnnData(obs=obs, var=var).write_h5ad(copy)
    with h5py.File(copy, "a") as file:
        if "X" in file:
            del file["X"]
        write_rows(file, "X", rows)


def _write_10x_folder(path: Path, copy: Path) -> None:
    with read_market_rows(path, copy.parent) as (obs, var, rows):
        _write_h5ad(copy, obs, var, rows)


def _write_10x_h5(path: Path, copy: Path) -> None:
    with open_hdf5(path, shown_as=path, kind="10x HDF5 file") as file:
        obs, var, rows = read_tenx_rows(file)
        _write_h5ad(copy, obs, var, rows)


def _write_npy(path: Path, copy: Path) -> None:
    content = np.load(path, allow_pickle=True).ravel()[0]
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
