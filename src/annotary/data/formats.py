"""Other formats than h5ad: each becomes an h5ad file, so that all counts go the same way."""

import errno
import gzip
import pickle
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import zarr
from anndata.abc import CSRDataset
from scipy.sparse import csr_matrix

from annotary.data.atomic import replacing
from annotary.data.csr_writer import CsrWriter
from annotary.data.hdf5 import describe_damage, open_hdf5
from annotary.data.scratch import CHUNK_SIZE
from annotary.data.tenx import MATRIX_NAMES, read_market_rows, read_tenx_rows
from annotary.data.triplets import RowsOnDisk, turn_to_rows
from annotary.errors import InputFileError

_READERS_RAISE = (
    OSError,
    EOFError,
    KeyError,
    ValueError,
    TypeError,
    AttributeError,
    IndexError,
    zlib.error,
    pickle.UnpicklingError,
)
_DISK_IS_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_DENSE_BYTES = 1 << 26


def convert_to_h5ad(path: Path, folder: Path, *, name: str, allow_pickle: bool = False) -> Path:
    """Give an h5ad file with a source's content: the source, or ``NAME.h5ad`` written into a folder.

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
    write = _find_writer(path, allow_pickle=allow_pickle)
    if write is None:
        return path
    target = folder / f"{name.replace('/', '-')}.h5ad"
    with replacing(target) as temporary:
        try:
            write(path, temporary)
        except _READERS_RAISE as error:
            if isinstance(error, OSError) and error.errno in _DISK_IS_FULL:
                raise
            raise describe_damage(path, error, kind=_describe(path)) from error
    return target


def _find_writer(path: Path, *, allow_pickle: bool) -> Callable[[Path, Path], None] | None:
    """Find what turns a source into h5ad, by its name; None where it needs no turning."""
    if not path.exists():
        return None  # the h5ad reader says so
    if path.is_dir():
        if path.suffix == ".zarr":
            return _write_zarr
        return _write_10x_folder if any((path / name).exists() for name in MATRIX_NAMES) else None
    if path.suffix == ".npy":
        _check_pickle_allowed(path, allow_pickle)
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
    if not allow_pickle:
        raise InputFileError(
            path,
            expected="--allow-pickle to be read",
            found="a pickled array, which runs whatever code it holds when it is read",
            remedy="Pass --allow-pickle if you trust where the file comes from.",
        )


def _unzip(path: Path, copy: Path) -> None:
    with gzip.open(path, "rb") as packed, copy.open("wb") as plain:
        shutil.copyfileobj(packed, plain)


def _write_zarr(path: Path, copy: Path) -> None:
    store = zarr.open_group(path, mode="r")
    with h5py.File(copy, "w") as file:
        for name, value in store.attrs.items():
            file.attrs[name] = value
        for name in store:
            if name in ("X", "layers", "raw"):
                _copy_matrices(store[name], file, name, copy.parent)
            else:
                anndata.io.write_elem(file, name, anndata.io.read_elem(store[name]))


def _copy_matrices(element: zarr.Group | zarr.Array, file: h5py.File, name: str, scratch: Path) -> None:
    """Copy a matrix, or a group of them, in row chunks."""
    encoding = element.attrs.get("encoding-type")
    if isinstance(element, zarr.Group) and encoding in ("csr_matrix", "csc_matrix"):
        matrix = anndata.io.sparse_dataset(element)
        is_by_row = isinstance(matrix, CSRDataset)
        rows = matrix if is_by_row else turn_to_rows(matrix, scratch)
        _write_rows(file, name, rows, shape=matrix.shape, dtype=np.dtype(matrix.dtype))
    elif isinstance(element, zarr.Group) and (encoding in ("dict", "raw") or name in ("layers", "raw")):
        group = file.create_group(name)
        for attribute, value in element.attrs.items():
            group.attrs[attribute] = value
        for part in element:
            _copy_matrices(element[part], file, f"{name}/{part}", scratch)
    elif isinstance(element, zarr.Array) and element.ndim == 2:
        dense = file.create_dataset(name, shape=element.shape, dtype=element.dtype)
        for attribute, value in element.attrs.items():
            dense.attrs[attribute] = value
        step = max(1, _DENSE_BYTES // max(element.shape[1] * element.dtype.itemsize, 1))
        for start in range(0, element.shape[0], step):
            dense[start : start + step] = element[start : start + step]
    else:
        anndata.io.write_elem(file, name, anndata.io.read_elem(element))


def _write_rows(
    file: h5py.File, name: str, rows: RowsOnDisk, *, shape: tuple[int, int], dtype: np.dtype
) -> None:
    """Write a matrix that is read by rows."""
    with CsrWriter(file, name, shape[1], dtype=dtype, compressed=False) as writer:
        for start in range(0, shape[0], CHUNK_SIZE):
            writer.append(csr_matrix(rows[start : min(start + CHUNK_SIZE, shape[0])]))


def _write_h5ad(
    copy: Path, obs: pd.DataFrame, var: pd.DataFrame, rows: RowsOnDisk, *, dtype: np.dtype
) -> None:
    """Write tables and rows as an h5ad file."""
    anndata.AnnData(obs=obs, var=var).write_h5ad(copy)
    with h5py.File(copy, "a") as file:
        if "X" in file:
            del file["X"]
        _write_rows(file, "X", rows, shape=(len(obs), len(var)), dtype=dtype)


def _write_10x_folder(path: Path, copy: Path) -> None:
    with read_market_rows(path, copy.parent) as (obs, var, rows):
        _write_h5ad(copy, obs, var, rows, dtype=rows.dtype)


def _write_10x_h5(path: Path, copy: Path) -> None:
    with open_hdf5(path, shown_as=path, kind="10x HDF5 file") as file:
        if "matrix" in file and "features" in file["matrix"]:
            obs, var, rows = read_tenx_rows(file["matrix"])
            _write_h5ad(copy, obs, var, rows, dtype=rows.dtype)
            return
    import scanpy  # takes a second

    scanpy.read_10x_h5(path, gex_only=False).write_h5ad(copy)  # Cell Ranger 2, a group for each genome


def _write_npy(path: Path, copy: Path) -> None:
    content = np.load(path, allow_pickle=True).ravel()[0]
    counts = csr_matrix(content["UMI"])
    classes = np.asarray(content["classes"]).ravel().astype(str)
    gene_ids = np.asarray(content["gene_ids"]).ravel().astype(str)
    obs = pd.DataFrame({"cell_type": classes}, index=[f"cell{cell}" for cell in range(counts.shape[0])])
    anndata.AnnData(X=counts, obs=obs, var=pd.DataFrame(index=gene_ids)).write_h5ad(copy)
