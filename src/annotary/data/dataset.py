"""The dataset file: what preprocess writes and every later stage reads."""

import contextlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from annotary import keys
from annotary.data.atomic import replacing
from annotary.data.csr_writer import CsrWriter
from annotary.data.damage import UNREADABLE
from annotary.data.h5ad import open_counts
from annotary.data.hashing import CellHasher, hash_strings
from annotary.data.hdf5 import open_hdf5, read_anndata, read_element
from annotary.data.scratch import CHUNK_SIZE, open_store
from annotary.data.source import Cells
from annotary.data.splits import hash_split
from annotary.errors import InputFileError, SetupError

FILE_NAME = "dataset.h5ad"
_FORMAT = 2


@dataclass(frozen=True)
class DatasetRecord:
    """Where a dataset comes from and what it holds.

    Attributes
    ----------
    source, source_sha256
        Name of the input and SHA-256 of its bytes.
    label_key, depth_key
        obs columns of the input that gave the labels and, if not empty, the depth.
    label_names
        Labels in the order of their codes, ``(n_classes,)``.
    id_type
        ``symbol`` or ``ensembl``.
    counts_hash, split_hash, panel_hash
        Content hashes of cells with labels, of their sides and folds, and of the panel.
    leaky
        Whether test cells had a say in the panel, as in the ``seed`` preset.
    config
        Resolved configuration of the stage, as JSON.
    package_version
        annotary's version.
    doublets
        How many doublets were expected, called, left out and kept, as JSON; empty in files of older versions.
    """

    source: str
    source_sha256: str
    label_key: str
    depth_key: str
    label_names: tuple[str, ...]
    id_type: str
    counts_hash: str
    split_hash: str
    panel_hash: str
    leaky: bool
    config: str
    package_version: str
    doublets: str = ""

    @property
    def dataset_hash(self) -> str:
        """One hash for cells, labels, split and panel."""
        return hash_strings([self.counts_hash, self.split_hash, self.panel_hash])


@dataclass(frozen=True)
class LabelledCells:
    """Cells of some sides of a dataset.

    Attributes
    ----------
    counts
        Raw counts of all kept genes, ``(n_cells, n_genes)``.
    depth
        Counts over all genes of the input, ``(n_cells,)``.
    codes
        Encoded labels, ``(n_cells,)``.
    cell_ids
        Cell ids, ``(n_cells,)``.
    folds
        Cross-validation fold, ``(n_cells,)``; -1 for test cells.
    """

    counts: csr_matrix
    depth: np.ndarray
    codes: np.ndarray
    cell_ids: pd.Index
    folds: np.ndarray

    def take_rows(self, kept: np.ndarray) -> "LabelledCells":
        """Keep some cells, by a mask ``(n_cells,)``."""
        return LabelledCells(
            counts=self.counts[kept],
            depth=self.depth[kept],
            codes=self.codes[kept],
            cell_ids=self.cell_ids[kept],
            folds=self.folds[kept],
        )


@dataclass(frozen=True)
class DatasetTables:
    """A dataset but for its counts.

    Attributes
    ----------
    obs
        Label, side, fold, source, depth and number of genes of each cell, ``(n_cells, 6 or more)``.
    var
        Which genes are in the panel, and why, ``(n_genes, 1 or more)``.
    record
        Provenance and hashes.
    """

    obs: pd.DataFrame
    var: pd.DataFrame
    record: DatasetRecord

    @property
    def panel(self) -> pd.Index:
        """Panel genes in alphabetical order, ``(n_panel,)``."""
        return self.var.index[self.var[keys.IN_PANEL]].sort_values()


@dataclass(frozen=True)
class Dataset(DatasetTables):
    """Labelled raw counts with their split and gene panel.

    Attributes
    ----------
    counts
        Raw counts, ``(n_cells, n_genes)``, float32.
    """

    counts: csr_matrix

    def take(self, *sides: str) -> LabelledCells:
        """Take the cells of one or more sides, in the order of the file."""
        rows = np.flatnonzero(self.obs[keys.SPLIT].isin(sides))
        labels = pd.Index(self.record.label_names).get_indexer(self.obs[keys.LABEL].iloc[rows].astype(str))
        return LabelledCells(
            counts=self.counts[rows],
            depth=self.obs[keys.DEPTH].to_numpy(dtype=np.float64)[rows],
            codes=labels.astype(np.int64),
            cell_ids=self.obs.index[rows],
            folds=self.obs[keys.FOLD].to_numpy(dtype=np.int64)[rows],
        )


def hash_dataset_cells(counts: csr_matrix, obs: pd.DataFrame, gene_ids: pd.Index) -> str:
    """Hash the counts, depth and label of every cell."""
    hasher = CellHasher(gene_ids)
    hasher.add(counts, obs.index, obs=_list_hashed(obs))
    return hasher.digest()


def write_dataset(path: Path, chunks: Iterable[csr_matrix], tables: DatasetTables) -> DatasetTables:
    """Write a dataset file, whole or not at all, without holding its counts.

    Parameters
    ----------
    path
        File to write.
    chunks
        Raw counts of all cells in order, ``(any, n_genes)`` each.
    tables
        All but the counts; the hash of the counts in the record is worked out.

    Returns
    -------
    The tables with that hash.

    Raises
    ------
    OutputError
        If the operating system refuses to write.
    """
    obs, var = tables.obs, tables.var
    hasher = CellHasher(var.index)
    with replacing(path) as temporary, h5py.File(temporary, "w") as file:
        _write_frame(file, obs, var)
        n_written = 0
        with CsrWriter(file, "X", len(var), dtype=np.dtype(np.float32), compressed=True) as writer:
            for chunk in chunks:
                rows = slice(n_written, n_written + chunk.shape[0])
                hasher.add(chunk, obs.index[rows], obs=_list_hashed(obs.iloc[rows]))
                writer.append(chunk)
                n_written = rows.stop
        record = replace(tables.record, counts_hash=hasher.digest())
        text = json.dumps({"format": _FORMAT} | asdict(record))
        anndata.io.write_elem(file, "uns", {keys.RECORD: text})
    return replace(tables, record=record)


def read_dataset(path: Path) -> Dataset:
    """Read a dataset file and check it against its hashes.

    Raises
    ------
    InputFileError
        If it is no dataset file, or was changed after it was written.
    """
    with _describing_damage(path):
        adata = read_anndata(path)
        record = _parse_record(adata.uns[keys.RECORD])
        dataset = Dataset(counts=csr_matrix(adata.X), obs=adata.obs, var=adata.var, record=record)
        counts_hash = hash_dataset_cells(dataset.counts, dataset.obs, dataset.var.index)
        found = {"counts_hash": counts_hash} | _hash_tables(dataset)
    _compare(record, found, path)
    return dataset


@contextlib.contextmanager
def reread_cells(path: Path, folder: Path) -> Iterator[Cells]:
    """Read the cells of a dataset file back without holding them, checked against its hashes.

    Parameters
    ----------
    path
        The dataset file.
    folder
        Where the counts lie until the block ends.

    Raises
    ------
    InputFileError
        If it is no dataset file, or was changed after it was written.
    """
    with contextlib.ExitStack() as stack:
        with _describing_damage(path):
            file = stack.enter_context(open_counts(path, counts_layer="X"))
            with open_hdf5(path) as opened:
                record = _parse_record(read_element(opened["uns"], path=path)[keys.RECORD])
            store = stack.enter_context(open_store(folder, len(file.var)))
            hasher = CellHasher(file.var.index)
            for start, chunk in file.iter_chunks(CHUNK_SIZE):
                rows = slice(start, start + chunk.shape[0])
                hasher.add(chunk, file.obs.index[rows], obs=_list_hashed(file.obs.iloc[rows]))
                store.append(chunk)
            tables = DatasetTables(obs=file.obs, var=file.var, record=record)
            found = {"counts_hash": hasher.digest()} | _hash_tables(tables)
        _compare(record, found, path)
        obs = file.obs.assign(**{keys.LABEL: file.obs[keys.LABEL].astype(object)})
        yield Cells(counts=store.view(), obs=obs, gene_ids=file.var.index, place=str(path))


@contextlib.contextmanager
def _describing_damage(path: Path) -> Iterator[None]:
    """Say of a file that cannot be read that it is no dataset file."""
    try:
        yield
    except SetupError:
        raise
    except UNREADABLE as error:
        what = error.found if isinstance(error, InputFileError) else type(error).__name__
        raise InputFileError(
            path,
            expected="to be a dataset file",
            found="no such file" if not path.exists() else f"another or a damaged file ({what})",
            remedy="Write it with annotary preprocess.",
        ) from error


def _compare(record: DatasetRecord, found: dict[str, str | tuple[str, ...]], path: Path) -> None:
    """Refuse a file whose content is not what its record says."""
    for name, value in found.items():
        expected = getattr(record, name)
        if value != expected:
            raise InputFileError(
                path,
                expected=f"the {name.replace('_', ' ')} of its record, {_shorten(expected)}",
                found=f"{_shorten(value)}: the file was changed after it was written",
                remedy="Write it again with annotary preprocess.",
            )


def _write_frame(file: h5py.File, obs: pd.DataFrame, var: pd.DataFrame) -> None:
    """Write all of an AnnData file but X and uns, without the copies that an AnnData object makes."""
    file.attrs["encoding-type"], file.attrs["encoding-version"] = "anndata", "0.1.0"
    for name, table in (("obs", obs), ("var", var)):
        anndata.io.write_elem(file, name, table)
    for name in ("layers", "obsm", "obsp", "varm", "varp"):
        anndata.io.write_elem(file, name, {})


def _list_hashed(obs: pd.DataFrame) -> pd.DataFrame:
    """List what is hashed of a cell besides its counts."""
    return pd.DataFrame(
        {
            keys.LABEL: obs[keys.LABEL].astype(str),
            keys.DEPTH: obs[keys.DEPTH].astype(np.float64).map(repr),
        },
        index=obs.index,
    )


def _parse_record(text: str) -> DatasetRecord:
    """Read the record of a dataset file of this format."""
    values = json.loads(text)
    if values.pop("format") != _FORMAT:
        raise ValueError("another dataset format")
    return DatasetRecord(**values | {"label_names": tuple(values["label_names"])})


def _hash_tables(tables: DatasetTables) -> dict[str, str | tuple[str, ...]]:
    """Work out of the tables what the record should say of them."""
    return {
        "split_hash": hash_split(
            tables.obs.index,
            tables.obs[keys.SPLIT].to_numpy(dtype=object),
            tables.obs[keys.FOLD].to_numpy(dtype=np.int64),
        ),
        "panel_hash": hash_strings(tables.panel),
        "label_names": tuple(sorted(tables.obs[keys.LABEL].astype(str).unique())),
    }


def _shorten(value: str | tuple[str, ...]) -> str:
    """Show the start of a hash, or names."""
    return value[:12] if isinstance(value, str) else ", ".join(value)
