"""The dataset file: what preprocess writes and every later stage reads."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from annotary import keys
from annotary.data.atomic import replacing
from annotary.data.hashing import hash_cells, hash_strings
from annotary.data.splits import hash_split
from annotary.errors import InputFileError

FILE_NAME = "dataset.h5ad"
_FORMAT = 1


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
        Content hashes of cells with labels, of their sides, and of the panel.
    config
        Resolved configuration of the stage, as JSON.
    package_version
        annotary's version.
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
    config: str
    package_version: str

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
    """

    counts: csr_matrix
    depth: np.ndarray
    codes: np.ndarray
    cell_ids: pd.Index

    def take_rows(self, kept: np.ndarray) -> "LabelledCells":
        """Keep some cells, by a mask ``(n_cells,)``."""
        return LabelledCells(
            counts=self.counts[kept],
            depth=self.depth[kept],
            codes=self.codes[kept],
            cell_ids=self.cell_ids[kept],
        )


@dataclass(frozen=True)
class Dataset:
    """Labelled raw counts with their split and gene panel.

    Attributes
    ----------
    counts
        Raw counts, ``(n_cells, n_genes)``, float32.
    obs
        Label, side, depth and number of genes of each cell, ``(n_cells, 4 or more)``.
    var
        Which genes are in the panel, and why, ``(n_genes, 1 or more)``.
    record
        Provenance and hashes.
    """

    counts: csr_matrix
    obs: pd.DataFrame
    var: pd.DataFrame
    record: DatasetRecord

    @property
    def panel(self) -> pd.Index:
        """Panel genes in alphabetical order, ``(n_panel,)``."""
        return self.var.index[self.var[keys.IN_PANEL]].sort_values()

    def take(self, *sides: str) -> LabelledCells:
        """Take the cells of one or more sides, in the order of the file."""
        rows = np.flatnonzero(self.obs[keys.SPLIT].isin(sides))
        labels = pd.Index(self.record.label_names).get_indexer(self.obs[keys.LABEL].iloc[rows].astype(str))
        return LabelledCells(
            counts=self.counts[rows],
            depth=self.obs[keys.DEPTH].to_numpy(dtype=np.float64)[rows],
            codes=labels.astype(np.int64),
            cell_ids=self.obs.index[rows],
        )


def hash_dataset_cells(counts: csr_matrix, obs: pd.DataFrame, gene_ids: pd.Index) -> str:
    """Hash the counts, depth and label of every cell."""
    belongs = pd.DataFrame(
        {
            keys.LABEL: obs[keys.LABEL].astype(str),
            keys.DEPTH: obs[keys.DEPTH].astype(np.float64).map(repr),
        },
        index=obs.index,
    )
    return hash_cells(counts, obs.index, gene_ids, obs=belongs)


def write_dataset(dataset: Dataset, path: Path) -> None:
    """Write a dataset file, whole or not at all."""
    adata = anndata.AnnData(X=dataset.counts, obs=dataset.obs, var=dataset.var)
    adata.uns[keys.RECORD] = json.dumps({"format": _FORMAT} | asdict(dataset.record))
    with replacing(path) as temporary:
        adata.write_h5ad(temporary, compression="gzip", compression_opts=1)


def read_dataset(path: Path) -> Dataset:
    """Read a dataset file and check it against its hashes.

    Raises
    ------
    InputFileError
        If it is no dataset file, or was changed after it was written.
    """
    try:
        adata = anndata.read_h5ad(path)
        record = _parse_record(adata.uns[keys.RECORD])
        dataset = Dataset(counts=csr_matrix(adata.X), obs=adata.obs, var=adata.var, record=record)
        found = _hash_content(dataset)
    except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputFileError(
            path,
            expected="to be a dataset file",
            found="no such file"
            if not path.exists()
            else f"another or a damaged file ({type(error).__name__})",
            remedy="Write it with annotary preprocess.",
        ) from error
    for name, value in found.items():
        expected = getattr(record, name)
        if value != expected:
            raise InputFileError(
                path,
                expected=f"the {name.replace('_', ' ')} of its record, {_shorten(expected)}",
                found=f"{_shorten(value)}: the file was changed after it was written",
                remedy="Write it again with annotary preprocess.",
            )
    return dataset


def _parse_record(text: str) -> DatasetRecord:
    """Read the record of a dataset file of this format."""
    values = json.loads(text)
    if values.pop("format") != _FORMAT:
        raise ValueError("another dataset format")
    return DatasetRecord(**values | {"label_names": tuple(values["label_names"])})


def _hash_content(dataset: Dataset) -> dict[str, str | tuple[str, ...]]:
    """Work out of the content what the record should say of it."""
    return {
        "counts_hash": hash_dataset_cells(dataset.counts, dataset.obs, dataset.var.index),
        "split_hash": hash_split(dataset.obs.index, dataset.obs[keys.SPLIT].to_numpy(dtype=object)),
        "panel_hash": hash_strings(dataset.panel),
        "label_names": tuple(sorted(dataset.obs[keys.LABEL].astype(str).unique())),
    }


def _shorten(value: str | tuple[str, ...]) -> str:
    """Show the start of a hash, or names."""
    return value[:12] if isinstance(value, str) else ", ".join(value)
