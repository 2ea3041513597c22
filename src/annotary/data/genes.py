"""Gene ids: their type, their spelling, and bringing a matrix to a model's genes."""

import re
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from annotary.data.counts import move_columns
from annotary.errors import GeneOverlapError

ENSEMBL = "ensembl"
SYMBOL = "symbol"
MIN_SHARED = 0.1
"""Least share of the smaller file's genes that files which are joined have in common."""

_MITO_SYMBOL = re.compile(r"mt[-._]", re.IGNORECASE)
_ALTERED_SIGN = re.compile(r"[^\w.]")
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


def find_mito_genes(gene_ids: pd.Index) -> np.ndarray:
    """Find mitochondrial genes by their symbols (``MT-`` or ``mt-``; ``MT.`` of R): a mask ``(n_genes,)``."""
    return np.array([_MITO_SYMBOL.match(str(gene)) is not None for gene in gene_ids], dtype=bool)


def find_mito_columns(var: pd.DataFrame, gene_ids: pd.Index) -> np.ndarray:
    """Find a file's mitochondrial genes: by their ids, or else by the symbols in a column of ``var``.

    Parameters
    ----------
    var
        The file's gene table, ``(n_genes, any)``.
    gene_ids
        Ids of the same genes, ``(n_genes,)``.

    Returns
    -------
    A mask ``(n_genes,)``; all False where nothing tells.
    """
    is_mito = find_mito_genes(gene_ids)
    for _, column in _iter_texts(var):
        if is_mito.any():
            break
        is_mito = find_mito_genes(column)
    return is_mito


def _iter_texts(var: pd.DataFrame) -> Iterator[tuple[str, pd.Index]]:
    """Take the columns of a gene table that hold text, by position, as names may be repeated."""
    for position, name in enumerate(var.columns):
        column = var.iloc[:, position]
        if isinstance(column.dtype, pd.CategoricalDtype) or column.dtype.kind in "OTU":
            yield str(name), pd.Index(column.astype(str))


def alter_name(gene: str) -> str:
    """Alter a name as R's ``make.names`` does: ``HLA-A`` to ``HLA.A``, ``7SK`` to ``X7SK``."""
    altered = _ALTERED_SIGN.sub(".", gene)
    return f"X{altered}" if altered[:1].isdigit() or altered[:1] == "_" else altered


def restore_names(gene_ids: pd.Index, panel: pd.Index) -> pd.Index:
    """Give genes the panel's names where the two differ only by what R alters.

    Parameters
    ----------
    gene_ids
        Ids of a file's genes, ``(n_input_genes,)``.
    panel
        Unique panel ids, ``(n_panel,)``.

    Returns
    -------
    Ids, ``(n_input_genes,)``: a gene that is not in the panel takes the name of the only panel gene that it
    may be, if the file has no gene of this name and no other one that may be it.
    """
    absent = panel[~panel.isin(gene_ids)]
    meant = _name_once([(alter_name(str(gene)), gene) for gene in absent])
    if not meant:
        return gene_ids
    known = set(panel)
    strangers = [(alter_name(str(gene)), gene) for gene in gene_ids.unique() if gene not in known]
    found = {gene: meant[altered] for altered, gene in _name_once(strangers).items() if altered in meant}
    return pd.Index([found.get(gene, gene) for gene in gene_ids]) if found else gene_ids


def count_restored(var: pd.DataFrame, gene_ids: pd.Index) -> int:
    """Count the genes whose index in ``var`` is an altered name of ``gene_ids``, ``(n_genes,)``."""
    own = clean_gene_ids(var.index)
    differs = np.flatnonzero(own != gene_ids)
    return sum(alter_name(str(own[at])) == alter_name(str(gene_ids[at])) for at in differs)


def note_restored(var: pd.DataFrame, gene_ids: pd.Index, *, place: str, whose: str) -> list[str]:
    """Tell of genes that have the names ``gene_ids``, ``(n_genes,)``, but for what R alters; or nothing."""
    n_restored = count_restored(var, gene_ids)
    if not n_restored:
        return []
    return [
        f"{place}: {n_restored:,} genes have names as R or another tool altered them, such as HLA.A for "
        f"HLA-A; they are taken as the {whose}."
    ]


def _name_once(pairs: list[tuple[str, str]]) -> dict[str, str]:
    """Take the pairs whose first name occurs once."""
    counts = Counter(altered for altered, _ in pairs)
    return {altered: gene for altered, gene in pairs if counts[altered] == 1}


def find_shared_genes(gene_ids: list[pd.Index], *, places: list[str]) -> pd.Index:
    """Find the genes that all files have.

    Parameters
    ----------
    gene_ids
        Ids of each file's columns, ``(n_columns,)`` each; a file may repeat an id, whose columns
        are then added up, so that column order never decides which one counts.
    places
        File and element of each, for the message.

    Returns
    -------
    Unique ids in alphabetical order, ``(n_shared,)``.

    Raises
    ------
    GeneOverlapError
        If a file has fewer than a tenth of another one's genes.
    """
    shared = gene_ids[0].unique()
    for position, ids in enumerate(gene_ids[1:], start=1):
        smaller = min(len(shared), ids.nunique())
        both = shared[shared.isin(ids)]
        if len(both) < MIN_SHARED * smaller or not len(both):
            raise GeneOverlapError(
                places[position],
                expected=f"at least {MIN_SHARED:.0%} of the genes of {places[0]} (such as {shared[0]!r})",
                found=f"{len(both)} of {smaller} (its own are such as {str(ids[0])!r})",
                remedy="Give files of the same species with the same type of gene ids.",
            )
        shared = both
    return shared.sort_values()


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
    Cleaned ids, ``(n_input_genes,)``, with the panel's names where R altered them; the index wins a tie.
    """
    best = restore_names(clean_gene_ids(var.index), panel)
    for _, column in _iter_texts(var):
        ids = restore_names(clean_gene_ids(column), panel)
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
    return move_columns(counts, panel.get_indexer(gene_ids), n_columns=len(panel))
