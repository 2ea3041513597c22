"""Other formats than h5ad: each becomes an h5ad file, so that all counts go the same way."""

import errno
import gzip
import pickle
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import scanpy
from scipy.sparse import csr_matrix

from annotary.data.atomic import replacing
from annotary.data.h5ad import describe_damage
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
_MATRIX_NAMES = ("matrix.mtx", "matrix.mtx.gz")


def convert_to_h5ad(path: Path, folder: Path, *, allow_pickle: bool = False) -> Path:
    """Give an h5ad file with a source's content: the source, or ``NAME.h5ad`` written into a folder.

    Parameters
    ----------
    path
        ``.h5ad``; ``.h5ad.gz``; 10x ``.h5``; a 10x folder with ``matrix.mtx`` or
        ``matrix.mtx.gz``; a ``.zarr`` store of AnnData; or ``.npy`` with a pickled
        dictionary of ``UMI`` (sparse cells x genes), ``gene_ids`` and ``classes``.
    folder
        Where the h5ad file is written, whole or not at all.
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
    target = folder / f"{path.name.removesuffix('.gz').removesuffix('.h5ad').removesuffix('.zarr')}.h5ad"
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
        return _write_10x_folder if any((path / name).exists() for name in _MATRIX_NAMES) else None
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
    anndata.read_zarr(path).write_h5ad(copy)


def _write_10x_folder(path: Path, copy: Path) -> None:
    scanpy.read_10x_mtx(path, make_unique=False, gex_only=False).write_h5ad(copy)


def _write_10x_h5(path: Path, copy: Path) -> None:
    scanpy.read_10x_h5(path, gex_only=False).write_h5ad(copy)


def _write_npy(path: Path, copy: Path) -> None:
    content = np.load(path, allow_pickle=True).ravel()[0]
    counts = csr_matrix(content["UMI"])
    classes = np.asarray(content["classes"]).ravel().astype(str)
    gene_ids = np.asarray(content["gene_ids"]).ravel().astype(str)
    obs = pd.DataFrame({"cell_type": classes}, index=[f"cell{cell}" for cell in range(counts.shape[0])])
    anndata.AnnData(X=counts, obs=obs, var=pd.DataFrame(index=gene_ids)).write_h5ad(copy)
