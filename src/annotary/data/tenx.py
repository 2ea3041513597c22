"""Cell Ranger's two forms of counts, read by row: the HDF5 file and the matrix market folder."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pandas as pd

from annotary import keys
from annotary.data.claims import refuse_claims
from annotary.data.packed import open_text, read_line
from annotary.data.sparse import CompressedRows
from annotary.data.triplets import RowBuckets

MATRIX_NAMES = ("matrix.mtx", "matrix.mtx.gz")

_LINES_AT_A_TIME = 1 << 20


def read_tenx_rows(file: h5py.File) -> tuple[pd.DataFrame, pd.DataFrame, CompressedRows]:
    """Read the tables of a 10x HDF5 file and open its rows; it is stored by barcode.

    Cell Ranger 3 and later write one group ``matrix``, Cell Ranger 2 one for each genome.

    Returns
    -------
    Barcodes ``(n_cells, 0)``; features by name with ``gene_ids`` and, from Cell Ranger 3 on,
    ``feature_types``, ``(n_genes, 1 or 2)``; rows.

    Raises
    ------
    ValueError, KeyError
        If a part is missing, or the parts do not agree.
    """
    if "matrix" in file:
        group = file["matrix"]
        features = group["features"]
        columns = {"gene_ids": features["id"], keys.FEATURE_TYPES: features["feature_type"]}
        names = features["name"]
    else:
        group = _find_genome(file)
        columns, names = {"gene_ids": group["genes"]}, group["gene_names"]
    n_genes, n_cells = _read_shape(group, n_features=names.shape[0], n_barcodes=group["barcodes"].shape[0])
    for name in ("data", "indices", "indptr"):
        refuse_claims(group[name], f"{file.filename}: {group.name}/{name}", is_whole=name == "indptr")
    var = pd.DataFrame(
        {name: _read_text(column) for name, column in columns.items()}, index=_read_text(names)
    )
    obs = pd.DataFrame(index=_read_text(group["barcodes"]))
    return obs, var, CompressedRows(group, (n_cells, n_genes))


def _read_shape(group: h5py.Group, *, n_features: int, n_barcodes: int) -> tuple[int, int]:
    """Read genes and cells of a matrix, which must be as many as there are names of them."""
    shape = group["shape"]
    if shape.shape != (2,):
        raise ValueError(f"a shape of {shape.shape} numbers")
    n_genes, n_cells = (int(size) for size in shape[...])
    if (n_genes, n_cells) != (n_features, n_barcodes):
        raise ValueError(f"{n_genes} x {n_cells} values, {n_features} features and {n_barcodes} barcodes")
    return n_genes, n_cells


def _find_genome(file: h5py.File) -> h5py.Group:
    """Find the only genome of a file of Cell Ranger 2."""
    genomes = [name for name in file if isinstance(file[name], h5py.Group) and "gene_names" in file[name]]
    if len(genomes) != 1:
        what = f"several genomes ({', '.join(genomes)})" if genomes else f"no matrix among {list(file)}"
        raise ValueError(what)
    return file[genomes[0]]


def _read_text(array: h5py.Dataset) -> np.ndarray:
    """Read text, ``(n,)``."""
    refuse_claims(array, f"{array.file.filename}: {array.name}")
    return array.asstr()[...]


@contextlib.contextmanager
def read_market_rows(folder: Path, scratch: Path) -> Iterator[tuple[pd.DataFrame, pd.DataFrame, RowBuckets]]:
    """Read a matrix market folder: barcodes, features (or genes), and rows sorted on disk.

    Yields
    ------
    Barcodes ``(n_cells, 0)``; features by name with ``gene_ids`` and ``feature_types``,
    ``(n_genes, 2)``; rows, which lie in ``scratch`` until the block ends.

    Raises
    ------
    ValueError, OSError
        If a file is missing, or the three do not agree.
    """
    barcodes = _read_table(folder, "barcodes.tsv")
    try:
        features = _read_table(folder, "features.tsv")
    except FileNotFoundError:
        try:
            features = _read_table(folder, "genes.tsv")
        except FileNotFoundError:
            raise FileNotFoundError("no features.tsv or genes.tsv, packed or not") from None
    names = features[1] if features.shape[1] > 1 else features[0]
    var = pd.DataFrame({"gene_ids": features[0].to_numpy()}, index=pd.Index(names.to_numpy()))
    var[keys.FEATURE_TYPES] = features[2].to_numpy() if features.shape[1] > 2 else keys.GENE_EXPRESSION
    path = _find(folder, "matrix.mtx")
    rows = _read_triplets(path, (len(barcodes), len(var)), scratch)
    try:
        yield pd.DataFrame(index=pd.Index(barcodes[0].to_numpy())), var, rows
    finally:
        rows.close()


def _find(folder: Path, name: str) -> Path:
    """Find a file, plain or gzipped."""
    for path in (folder / name, folder / f"{name}.gz"):
        if path.exists():
            return path
    raise FileNotFoundError(f"no {name} or {name}.gz")


def _read_table(folder: Path, name: str) -> pd.DataFrame:
    """Read a table without header, all text."""
    with open_text(_find(folder, name)) as file:
        return pd.read_csv(file, sep="\t", header=None, dtype=str, keep_default_na=False, quoting=3)


def _read_triplets(path: Path, shape: tuple[int, int], scratch: Path) -> RowBuckets:
    """Read a matrix market file, genes x barcodes, into rows of barcodes."""
    with open_text(path) as file:
        kind = read_line(file).split()
        if kind[:3] != ["%%MatrixMarket", "matrix", "coordinate"] or kind[3] not in ("integer", "real"):
            raise ValueError(f"{' '.join(kind)[:60]!r} is no matrix market header of numbers")
        line = read_line(file)
        while line.startswith("%"):
            line = read_line(file)
        n_genes, n_cells, n_stored = map(int, line.split())
        if (n_cells, n_genes) != shape:
            raise ValueError(
                f"{n_genes} x {n_cells} in {path.name}, {shape[1]} features and {shape[0]} barcodes"
            )
        rows = RowBuckets(scratch, shape, n_stored=n_stored, dtype=np.dtype(np.float64))
        n_found = 0
        chunks = pd.read_csv(
            file,
            sep=r"\s+",
            header=None,
            names=["gene", "cell", "value"],
            dtype={"gene": np.int64, "cell": np.int64, "value": np.float64},
            chunksize=_LINES_AT_A_TIME,
        )
        for chunk in chunks if n_stored else ():
            n_found += len(chunk)
            cells, genes = chunk["cell"].to_numpy() - 1, chunk["gene"].to_numpy() - 1
            rows.add(cells, genes, chunk["value"].to_numpy())
    if n_found != n_stored:
        raise ValueError(f"{n_found} values where the header says {n_stored}")
    return rows
