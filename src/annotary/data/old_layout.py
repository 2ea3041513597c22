"""Files of anndata 0.6, with tables of records: all of their content, written anew in today's layout."""

from collections.abc import Mapping
from pathlib import Path

import anndata
import h5py

from annotary.data.h5ad_elements import open_rows
from annotary.data.hdf5 import open_hdf5, read_anndata
from annotary.data.rows import write_rows

_RAW = "raw.X"


def has_old_layout(top: Mapping[str, str]) -> bool:
    """Tell a file whose tables are of records, by what lies at its top."""
    return "records" in (top.get("obs"), top.get("var"))


def rewrite_old_layout(path: Path, copy: Path) -> None:
    """Write the content of a file of anndata 0.6 as an h5ad file of today, its matrices by rows.

    Raises
    ------
    InputFileError
        If it is damaged.
    OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError
        If a matrix in it is.
    """
    old = read_anndata(path, backed=True)
    try:
        raw_var = None if old.raw is None else old.raw.var
        raw_varm = {} if old.raw is None else dict(old.raw.varm)
        tables = anndata.AnnData(
            obs=old.obs, var=old.var, uns=dict(old.uns), obsm=dict(old.obsm), varm=dict(old.varm)
        )
    finally:
        old.file.close()
    write_tables(copy, tables)
    with open_hdf5(path) as file, h5py.File(copy, "a") as target:
        for name, address in _list_matrices(file):
            if address == "raw/X":
                group = target.create_group("raw")
                group.attrs["encoding-type"], group.attrs["encoding-version"] = "raw", "0.1.0"
                anndata.io.write_elem(group, "var", raw_var)
                anndata.io.write_elem(group, "varm", raw_varm)
            write_rows(target, address, open_rows(file[name], copy.parent))


def write_tables(copy: Path, tables: anndata.AnnData) -> None:
    """Write an object without counts as an h5ad file, with columns of every type that pandas has."""
    with anndata.settings.override(allow_write_nullable_strings=True):
        tables.write_h5ad(copy)
    with h5py.File(copy, "a") as file:
        if "X" in file:
            del file["X"]


def _list_matrices(file: h5py.File) -> list[tuple[str, str]]:
    """List the matrices of an old file, each with its address in a new one."""
    found = [("X", "X"), (_RAW, "raw/X"), ("raw/X", "raw/X")]
    found += [(f"layers/{name}", f"layers/{name}") for name in file.get("layers", {})]
    return [one for one in found if one[0] in file]
