"""Labelled counts as preprocess takes them."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix, vstack

from annotary.data import embedded
from annotary.data.counts import count_genes_per_cell, sum_depth
from annotary.data.genes import clean_gene_ids, sum_duplicate_genes
from annotary.data.h5ad import CountsFile, open_counts
from annotary.data.hashing import hash_source
from annotary.data.labels import read_label_table, read_labels
from annotary.data.obs import read_depth, read_obs_numbers
from annotary.errors import InputFileError
from annotary.progress import track

DEFAULT_LABEL_KEY = "cell_type"

_CHUNK_SIZE = 4096


@dataclass(frozen=True)
class Columns:
    """Which obs columns of an input mean what; empty ones are worked out from the counts.

    Attributes
    ----------
    label, depth, n_genes, group
        Label, counts over all genes, expressed genes, and group of a cell.
    """

    label: str
    depth: str
    n_genes: str
    group: str


@dataclass(frozen=True)
class LabelledCounts:
    """Raw counts of cells, some of which may have no label.

    Attributes
    ----------
    source
        File or folder that the user named.
    place
        File and element, for messages.
    counts
        Raw counts, ``(n_cells, n_genes)``, float32.
    cell_ids, gene_ids
        Unique ids, ``(n_cells,)`` and ``(n_genes,)``.
    labels
        Label of each cell, ``(n_cells,)``; None where it has none.
    depth, n_genes
        Counts and expressed genes of each cell over all genes, ``(n_cells,)``.
    groups
        Group of each cell, ``(n_cells,)``; None where no column was named.
    doublet_probability
        Probability of being a doublet, ``(n_cells,)``; None where nothing called them.
    n_read
        Cells in the file.
    sha256
        SHA-256 of the file's bytes.
    """

    source: Path
    place: str
    counts: csr_matrix
    cell_ids: pd.Index
    gene_ids: pd.Index
    labels: pd.Series
    depth: np.ndarray
    n_genes: np.ndarray
    groups: np.ndarray | None
    n_read: int
    sha256: str
    doublet_probability: np.ndarray | None = None

    def take_cells(self, kept: np.ndarray) -> "LabelledCounts":
        """Keep some cells, by a mask ``(n_cells,)``."""
        return replace(
            self,
            counts=self.counts[kept],
            cell_ids=self.cell_ids[kept],
            labels=self.labels[kept],
            depth=self.depth[kept],
            n_genes=self.n_genes[kept],
            groups=None if self.groups is None else self.groups[kept],
            doublet_probability=(
                None if self.doublet_probability is None else self.doublet_probability[kept]
            ),
        )

    def take_genes(self, kept: np.ndarray) -> "LabelledCounts":
        """Keep some genes, by a mask ``(n_genes,)``; the depth of cells stays."""
        return replace(self, counts=self.counts[:, kept], gene_ids=self.gene_ids[kept])


def name_columns(
    *, is_embedded: bool, label_key: str, depth_key: str, n_genes_key: str, group_key: str
) -> Columns:
    """Fill in the default columns of a file or of the embedded data."""
    if is_embedded:
        return Columns(
            label=label_key or embedded.LABEL_KEY,
            depth=depth_key or embedded.DEPTH_KEY,
            n_genes=n_genes_key or embedded.N_GENES_KEY,
            group=group_key,
        )
    return Columns(
        label=label_key or DEFAULT_LABEL_KEY, depth=depth_key, n_genes=n_genes_key, group=group_key
    )


def read_labelled_counts(
    path: Path, columns: Columns, *, source: Path, counts_layer: str, label_table: Path | None
) -> LabelledCounts:
    """Read and check every cell of an h5ad file.

    Parameters
    ----------
    path
        h5ad file.
    source
        What it was converted from, or the file itself: named in messages, and hashed.
    columns
        Which obs columns mean what.
    counts_layer
        Layer with the counts; empty looks for them.
    label_table
        csv or tsv table with barcodes and labels; None takes the labels from obs.

    Raises
    ------
    InputFileError, CountsError, LabelError
        If the file, its counts or its labels cannot be used.
    """
    with open_counts(path, counts_layer=counts_layer, shown_as=source) as file:
        cell_ids = _check_cell_ids(file)
        if label_table:
            labels = read_label_table(label_table, cell_ids, columns.label)
        else:
            labels = read_labels(file.obs, columns.label, place=str(source))
        depth = read_depth(file, columns.depth)
        n_genes = read_obs_numbers(file, columns.n_genes, option="--n-genes-key") if columns.n_genes else None
        groups = _read_groups(file, columns.group) if columns.group else None
        counts, gene_ids = sum_duplicate_genes(_read_all(file), clean_gene_ids(file.var.index))
        return LabelledCounts(
            source=source,
            place=file.place,
            counts=counts,
            cell_ids=cell_ids,
            gene_ids=gene_ids,
            labels=labels,
            depth=sum_depth(counts) if depth is None else depth,
            n_genes=count_genes_per_cell(counts) if n_genes is None else n_genes,
            groups=groups,
            n_read=file.n_cells,
            sha256=hash_source(source),
        )


def _read_groups(file: CountsFile, key: str) -> np.ndarray:
    """Read the group of each cell, ``(n_cells,)``."""
    place = f"{file.path}: obs[{key!r}]"
    remedy = "Name another column with --group-key."
    if key not in file.obs:
        found = "no such column among " + ", ".join(map(str, file.obs.columns))
        raise InputFileError(place, expected="to be a column with groups", found=found, remedy=remedy)
    if file.obs[key].isna().any():
        cell = file.obs.index[file.obs[key].isna()][0]
        raise InputFileError(
            place, expected="a group for each cell", found=f"none at cell {str(cell)!r}", remedy=remedy
        )
    return file.obs[key].astype(str).to_numpy()


def _check_cell_ids(file: CountsFile) -> pd.Index:
    """Refuse cell ids that occur twice: splits and reports go by them."""
    cell_ids = file.obs.index.astype(str)
    if not cell_ids.is_unique:
        repeated = cell_ids[cell_ids.duplicated()]
        raise InputFileError(
            f"{file.path}: obs",
            expected="a different id for each cell",
            found=f"{len(repeated)} repeated ids such as {repeated[0]!r}",
            remedy="Make them unique, for instance with adata.obs_names_make_unique().",
        )
    return cell_ids


def _read_all(file: CountsFile) -> csr_matrix:
    """Read all rows, chunk by chunk."""
    with track(None, f"reading {file.path.name}", total=file.n_cells, unit="cell") as bar:
        chunks = []
        for _, chunk in file.iter_chunks(_CHUNK_SIZE):
            chunks.append(chunk)
            bar.update(chunk.shape[0])
    return vstack(chunks, format="csr")
