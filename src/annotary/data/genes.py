"""Gene ids: their type, their spelling, and bringing a matrix to a model's genes."""

import re

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from annotary.errors import GeneOverlapError

ENSEMBL = "ensembl"
SYMBOL = "symbol"

_ENSEMBL_GENE = re.compile(r"ENS[A-Z]*G\d{11}(\.\d+)?")


def detect_id_type(gene_ids: pd.Index) -> str:
    """Tell Ensembl gene ids from symbols, by the majority."""
    matches = sum(_ENSEMBL_GENE.fullmatch(str(gene)) is not None for gene in gene_ids)
    return ENSEMBL if 2 * matches > len(gene_ids) else SYMBOL


def clean_gene_ids(gene_ids: pd.Index) -> pd.Index:
    """Drop the version of Ensembl ids (``ENSG00000167286.10``); symbols stay as they are."""
    return pd.Index(
        [gene.split(".")[0] if _ENSEMBL_GENE.fullmatch(gene) else gene for gene in gene_ids.astype(str)]
    )


def sum_duplicate_genes(counts: csr_matrix, gene_ids: pd.Index) -> tuple[csr_matrix, pd.Index]:
    """Add up columns of the same gene id, so that column order never decides which one counts.

    Parameters
    ----------
    counts
        Raw counts, ``(n_cells, n_columns)``.
    gene_ids
        Ids of the columns, ``(n_columns,)``, possibly repeated.

    Returns
    -------
    Counts ``(n_cells, n_genes)`` and unique ids ``(n_genes,)`` in order of first appearance.
    """
    if gene_ids.is_unique:
        return counts, gene_ids
    unique = gene_ids.unique()
    return _move_columns(counts, unique.get_indexer(gene_ids), n_columns=len(unique)), unique


def count_shared(gene_ids: pd.Index, panel: pd.Index) -> int:
    """Count the panel genes that are among ``gene_ids``."""
    return int(panel.isin(gene_ids).sum())


def choose_gene_column(var: pd.DataFrame, panel: pd.Index) -> pd.Index:
    """Take the ids of a file from where they match the panel best: the index, or a column of ``var``.

    Parameters
    ----------
    var
        The file's gene table, ``(n_input_genes, any)``.
    panel
        Unique panel ids, ``(n_panel,)``.

    Returns
    -------
    Cleaned ids, ``(n_input_genes,)``; the index wins a tie.
    """
    best = clean_gene_ids(var.index)
    for position in range(var.shape[1]):  # by position: names may be repeated
        column = var.iloc[:, position]
        if not isinstance(column.dtype, pd.CategoricalDtype) and column.dtype.kind not in "OTU":
            continue
        ids = clean_gene_ids(pd.Index(column.astype(str)))
        if count_shared(ids, panel) > count_shared(best, panel):
            best = ids
    return best


def check_overlap(gene_ids: pd.Index, panel: pd.Index, *, min_overlap: float, place: str) -> None:
    """Refuse data with too few of a model's genes.

    Raises
    ------
    GeneOverlapError
        If fewer than ``min_overlap`` (0 to 1) of the panel genes are among ``gene_ids``.
    """
    shared = count_shared(gene_ids, panel)
    if shared >= min_overlap * len(panel):
        return
    raise GeneOverlapError(
        place,
        expected=f"at least {min_overlap:.0%} of the model's {len(panel)} genes (such as {panel[0]!r})",
        found=f"{shared} ({shared / len(panel):.1%}) among its {len(gene_ids)} genes "
        f"(such as {str(gene_ids[0])!r})"
        if len(gene_ids)
        else "no genes",
        remedy="Give a file of the same species with the same type of gene ids, not cut to other genes.",
    )


def align_genes(counts: csr_matrix, gene_ids: pd.Index, panel: pd.Index) -> csr_matrix:
    """Reorder columns to the panel, filling absent genes with zero.

    Parameters
    ----------
    counts
        Raw counts, ``(n_cells, n_input_genes)``.
    gene_ids
        Ids of the columns, ``(n_input_genes,)``; columns of the same id are added up.
    panel
        Unique panel ids, ``(n_panel,)``.

    Returns
    -------
    Counts in panel order, ``(n_cells, n_panel)``; dtype kept, input untouched.
    """
    return _move_columns(counts, panel.get_indexer(gene_ids), n_columns=len(panel))


def _move_columns(counts: csr_matrix, target: np.ndarray, *, n_columns: int) -> csr_matrix:
    """Move column j to ``target[j]``, dropping those with -1 and adding up those that meet."""
    columns = target[counts.indices]
    kept = columns >= 0
    before = np.concatenate([[0], np.cumsum(kept)])
    moved = csr_matrix(
        (counts.data[kept], columns[kept], before[counts.indptr]), shape=(counts.shape[0], n_columns)
    )
    moved.sum_duplicates()
    return moved
