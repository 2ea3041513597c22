"""h5ad files as older versions of anndata wrote them."""

from pathlib import Path

import h5py
import numpy as np

from malformed.cases import accepted, clean, edited


def _write_old_matrix(parent: h5py.Group, name: str, *, sparse: bool, log1p: bool = False) -> None:
    """Write the clean matrix as anndata 0.6 did."""
    matrix = clean().X.log1p() if log1p else clean().X
    if not sparse:
        parent[name] = matrix.toarray()
        return
    group = parent.create_group(name)
    group["data"], group["indices"], group["indptr"] = matrix.data, matrix.indices, matrix.indptr
    group.attrs["h5sparse_format"] = "csr"
    group.attrs["h5sparse_shape"] = np.array(matrix.shape)


def _write_old_tables(file: h5py.File, *, index: str) -> None:
    """Write obs and var as arrays of records, the categories in uns."""
    adata = clean()
    labels = adata.obs["cell_type"].astype("category")
    obs = np.zeros(adata.n_obs, dtype=[(index, "S12"), ("cell_type", "i1"), ("n_counts", "f4")])
    obs[index] = adata.obs_names.to_numpy(dtype="S")
    obs["cell_type"] = labels.cat.codes
    var = np.zeros(adata.n_vars, dtype=[(index, "S12")])
    var[index] = adata.var_names.to_numpy(dtype="S")
    file["obs"], file["var"] = obs, var
    file["uns/cell_type_categories"] = labels.cat.categories.to_numpy(dtype="S")


for _sparse in (True, False):
    for _index in ("index", "_index"):

        @accepted(f"anndata 0.6: tables of records, index {_index!r}, {'sparse' if _sparse else 'dense'}")
        def records(folder: Path, sparse: bool = _sparse, index: str = _index) -> Path:
            with h5py.File(folder / "cells.h5ad", "w") as file:
                _write_old_matrix(file, "X", sparse=sparse)
                _write_old_tables(file, index=index)
            return folder / "cells.h5ad"


@accepted("anndata 0.6: counts in raw.X")
def dotted_raw(folder: Path) -> Path:
    with h5py.File(folder / "cells.h5ad", "w") as file:
        _write_old_matrix(file, "X", sparse=True, log1p=True)
        _write_old_tables(file, index="index")
        _write_old_matrix(file, "raw.X", sparse=True)
        file["raw.var"] = file["var"][:]
    return folder / "cells.h5ad"


def _drop_encodings(file: h5py.File) -> None:
    """Take away what anndata writes since 0.8 about each element."""

    def drop(_: str, element: h5py.Group | h5py.Dataset) -> None:
        for name in ("encoding-type", "encoding-version"):
            if name in element.attrs:
                del element.attrs[name]

    drop("", file)
    file.visititems(drop)


def _write_references(file: h5py.File) -> None:
    """Write obs as anndata 0.7 did: codes that refer to ``__categories``."""
    obs = file["obs"]
    codes, categories = obs["cell_type/codes"][:], obs["cell_type/categories"][:]
    del obs["cell_type"]
    obs["cell_type"] = codes
    obs["__categories/cell_type"] = categories
    obs["__categories/cell_type"].attrs["ordered"] = False
    obs["cell_type"].attrs["categories"] = obs["__categories/cell_type"].ref


@accepted("anndata 0.7: tables with __categories")
def references(folder: Path) -> Path:
    with edited(folder) as file:
        _drop_encodings(file)
        _write_references(file)
        for name in ("obs", "var"):
            file[name].attrs.update({"encoding-type": "dataframe", "encoding-version": "0.1.0"})
        file["X"].attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0"})
    return folder / "cells.h5ad"


@accepted("no encoding of the file itself")
def no_root_encoding(folder: Path) -> Path:
    with edited(folder) as file:
        for name in list(file.attrs):
            del file.attrs[name]
    return folder / "cells.h5ad"


@accepted("anndata 0.7: raw written by today's anndata, without its encoding")
def raw_without_encoding(folder: Path) -> Path:
    adata = clean()
    adata.raw = adata.copy()
    adata.X = adata.X.log1p()
    with edited(folder, adata) as file:
        for name in list(file["raw"].attrs):
            del file["raw"].attrs[name]
    return folder / "cells.h5ad"


@accepted("written without obsm, varm, uns and layers")
def only_the_needed(folder: Path) -> Path:
    with edited(folder) as file:
        for name in set(file) - {"X", "obs", "var"}:
            del file[name]
    return folder / "cells.h5ad"
