"""Matrices of Cell Ranger: HDF5 files and folders."""

import gzip
import itertools
from collections.abc import Callable
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
from scipy.io import mmwrite
from scipy.sparse import csc_matrix, csr_matrix, hstack

from malformed.cases import N_CELLS, N_GENES, accepted, clean, refused
from malformed.label_tables import LABEL_TABLE, make_label_table, write_label_table

_AGAIN = r"[Cc]opy|[Ww]rite|[Dd]ownload|[Gg]ive"

# 10x HDF5


def _write_10x_h5(folder: Path, adata: anndata.AnnData, types: list[str]) -> Path:
    """Write Cell Ranger 3's HDF5: features x barcodes, column by column."""
    path = folder / "filtered_feature_bc_matrix.h5"
    matrix = csc_matrix(adata.X.T.astype(np.int32))
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        group["barcodes"] = adata.obs_names.to_numpy(dtype="S")
        group["data"], group["indices"], group["indptr"] = matrix.data, matrix.indices, matrix.indptr
        group["shape"] = np.array(matrix.shape, dtype=np.int32)
        features = group.create_group("features")
        features["id"] = np.array([f"ENSG{gene:011d}" for gene in range(adata.n_vars)], dtype="S")
        features["name"] = adata.var_names.to_numpy(dtype="S")
        features["feature_type"] = np.array(types, dtype="S")
        features["genome"] = np.array(["GRCh38"] * adata.n_vars, dtype="S")
    write_label_table(folder, make_label_table())
    return path


def _genes_only(folder: Path) -> Path:
    return _write_10x_h5(folder, clean(), ["Gene Expression"] * N_GENES)


@accepted("10x h5", options=LABEL_TABLE)
def tenx_h5(folder: Path) -> Path:
    return _genes_only(folder)


@accepted("10x h5 with Antibody Capture features", options=LABEL_TABLE)
def tenx_antibodies(folder: Path) -> Path:
    adata = clean()
    values = csr_matrix(np.full((N_CELLS, 3), 500, dtype=np.float32))
    var = pd.DataFrame(index=["CD3", "CD4", "CD8", *adata.var_names])
    wider = anndata.AnnData(hstack([values, adata.X], format="csr"), obs=adata.obs, var=var)
    return _write_10x_h5(folder, wider, ["Antibody Capture"] * 3 + ["Gene Expression"] * N_GENES)


@accepted("10x h5 with unsorted indices", options=LABEL_TABLE)
def tenx_unsorted(folder: Path) -> Path:
    path = _genes_only(folder)
    with h5py.File(path, "r+") as file:
        matrix = file["matrix"]
        indptr = matrix["indptr"][:]
        rows = itertools.pairwise(indptr)
        order = np.concatenate([np.arange(start, stop)[::-1] for start, stop in rows])
        for name in ("data", "indices"):
            matrix[name][:] = matrix[name][:][order]
    return path


@accepted("10x h5 of Cell Ranger 2", options=LABEL_TABLE)
def tenx_2(folder: Path) -> Path:
    path = _genes_only(folder)
    with h5py.File(path, "r+") as file:
        file.move("matrix", "GRCh38")
        group = file["GRCh38"]
        group["genes"], group["gene_names"] = group["features/id"][:], group["features/name"][:]
        del group["features"]
    return path


def _drop(name: str) -> Callable[[h5py.File], None]:
    def damage(file: h5py.File) -> None:
        del file[name]

    return damage


def _replace(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[h5py.File], None]:
    def damage(file: h5py.File) -> None:
        values = change(file[name][:])
        del file[name]
        file[name] = values

    return damage


def _link(file: h5py.File) -> None:
    del file["matrix/data"]
    file["matrix/data"] = h5py.ExternalLink("other.h5", "/matrix/data")


def _beyond(indices: np.ndarray) -> np.ndarray:
    return np.where(np.arange(len(indices)) == 900, N_GENES, indices)


BAD_10X: dict[str, tuple[Callable[[h5py.File], None], str, str]] = {
    "without barcodes": (_drop("matrix/barcodes"), "10x", "barcodes"),
    "without features": (_drop("matrix/features"), "10x", "features"),
    "without indptr": (_drop("matrix/indptr"), "10x", "indptr"),
    "without anything": (_drop("matrix"), "10x", r"\w"),
    "with fewer barcodes than columns": (_replace("matrix/barcodes", lambda x: x[:-7]), "10x|cells", r"\d"),
    "with fewer features than rows": (
        _replace("matrix/features/name", lambda x: x[:-7]),
        r"\w",
        r"\d|length",
    ),
    "with a shape that lies": (_replace("matrix/shape", lambda x: x[::-1].copy()), r"\w", r"\w"),
    "with an index out of range": (_replace("matrix/indices", _beyond), r"\w", r"ind|bounds|range|\d"),
    "with fewer values than indices": (_replace("matrix/data", lambda x: x[:-40]), r"\w", r"\w"),
    "with indptr that goes down": (
        _replace("matrix/indptr", lambda x: x[[0, 2, 1, *range(3, len(x))]]),
        r"\w",
        r"\w",
    ),
    "with negative counts": (_replace("matrix/data", lambda x: x * -1), "integers", "-"),
    "with an external link": (_link, r"inside|one file|own|itself|link|10x", "external link"),
}

for _what, (_edit, _expected, _found) in BAD_10X.items():

    @refused(f"10x h5 {_what}", expected=_expected, found=_found, remedy=r"\w", options=LABEL_TABLE)
    def bad_10x(folder: Path, edit: Callable[[h5py.File], None] = _edit) -> Path:
        path = _genes_only(folder)
        with h5py.File(path, "r+") as file:
            edit(file)
        return path


@refused("10x h5 cut at half", expected="10x", found="unreadable", remedy=_AGAIN, options=LABEL_TABLE)
def cut_10x(folder: Path) -> Path:
    path = _genes_only(folder)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return path


@refused("10x h5 named .h5ad", expected="obs|AnnData", found="matrix|10x", remedy=r"\w", options=LABEL_TABLE)
def misnamed_10x(folder: Path) -> Path:
    path = _genes_only(folder)
    return path.rename(folder / "cells.h5ad")


# 10x folders


def _write_10x_folder(folder: Path) -> Path:
    """Write what Cell Ranger 3 writes, unpacked."""
    target = folder / "filtered_feature_bc_matrix"
    target.mkdir()
    adata = clean()
    mmwrite(target / "matrix.mtx", adata.X.T.astype(int))
    features = pd.DataFrame(
        {
            "id": [f"ENSG{gene:011d}" for gene in range(N_GENES)],
            "name": adata.var_names,
            "type": "Gene Expression",
        }
    )
    features.to_csv(target / "features.tsv", sep="\t", header=False, index=False)
    (target / "barcodes.tsv").write_text("\n".join(adata.obs_names) + "\n")
    for path in list(target.iterdir()):
        _pack(path)
    write_label_table(folder, make_label_table())
    return target


def _pack(path: Path) -> None:
    path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()


def _edit_lines(path: Path, change: Callable[[list[str]], list[str]]) -> None:
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    path.write_bytes(gzip.compress("\n".join([*change(lines), ""]).encode()))


@accepted("10x folder", options=LABEL_TABLE)
def tenx_folder(folder: Path) -> Path:
    return _write_10x_folder(folder)


@accepted("10x folder with hidden files of the file manager", options=LABEL_TABLE)
def tenx_hidden(folder: Path) -> Path:
    target = _write_10x_folder(folder)
    (target / ".DS_Store").write_bytes(bytes(8))
    (target / "._matrix.mtx.gz").write_bytes(bytes(8))
    return target


@accepted("10x folder with repeated entries, added up", options=LABEL_TABLE)
def tenx_repeated(folder: Path) -> Path:
    target = _write_10x_folder(folder)

    def split_first(lines: list[str]) -> list[str]:
        size = next(place for place, line in enumerate(lines) if not line.startswith("%"))
        n_genes, n_cells, n_entries = map(int, lines[size].split())
        entries = [line.split() for line in lines[size + 1 :]]
        large = next(place for place, entry in enumerate(entries) if int(entry[2]) >= 2)
        gene, cell, count = entries[large]
        entries[large] = [gene, cell, "1"]
        entries.append([gene, cell, str(int(count) - 1)])
        header = [*lines[:size], f"{n_genes} {n_cells} {n_entries + 1}"]
        return header + [" ".join(entry) for entry in entries]

    _edit_lines(target / "matrix.mtx.gz", split_first)
    return target


for _name in ("barcodes.tsv.gz", "features.tsv.gz"):

    @refused(
        f"10x folder without {_name}",
        expected="10x",
        found=_name.split(".")[0],
        remedy=_AGAIN,
        options=LABEL_TABLE,
    )
    def missing_part(folder: Path, name: str = _name) -> Path:
        target = _write_10x_folder(folder)
        (target / name).unlink()
        return target


FOLDER_EDITS: dict[str, tuple[str, Callable[[list[str]], list[str]], str]] = {
    "fewer barcodes than columns": ("barcodes.tsv.gz", lambda lines: lines[:-7], r"113|120|[Ll]ength"),
    "more barcodes than columns": ("barcodes.tsv.gz", lambda lines: [*lines, "extra"], r"121|120|[Ll]ength"),
    "fewer features than rows": ("features.tsv.gz", lambda lines: lines[:-7], r"143|150|[Ll]ength"),
    "fewer entries than it says": ("matrix.mtx.gz", lambda lines: lines[:-7], r"\w"),
    "an entry out of range": (
        "matrix.mtx.gz",
        lambda lines: [*lines[:-1], f"{N_GENES + 1} 1 1"],
        r"range|bounds|\d",
    ),
    "no header": ("matrix.mtx.gz", lambda lines: lines[1:], r"\w"),
    "words for counts": ("matrix.mtx.gz", lambda lines: [*lines[:-1], "1 1 many"], r"\w"),
    "a negative count": ("matrix.mtx.gz", lambda lines: [*lines[:-1], "1 1 -4"], "-4"),
}

for _what, (_name, _change, _found) in FOLDER_EDITS.items():

    @refused(
        f"10x folder with {_what}",
        expected=r"10x|integers|cells",
        found=_found,
        remedy=r"\w",
        options=LABEL_TABLE,
    )
    def bad_folder(
        folder: Path, name: str = _name, change: Callable[[list[str]], list[str]] = _change
    ) -> Path:
        target = _write_10x_folder(folder)
        _edit_lines(target / name, change)
        return target


@refused("10x folder with a cut matrix", expected="10x", found=r"\w", remedy=_AGAIN, options=LABEL_TABLE)
def cut_folder(folder: Path) -> Path:
    target = _write_10x_folder(folder)
    matrix = target / "matrix.mtx.gz"
    matrix.write_bytes(matrix.read_bytes()[: matrix.stat().st_size // 2])
    return target
