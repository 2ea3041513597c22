"""The most variable genes of one lane, for calling doublets."""

import numpy as np

from annotary.data.source import Cells
from annotary.errors import CountsError
from annotary.quality.gene_tally import GeneTally, PanelMethod, tally_genes
from annotary.quality.panel import score_genes

_MIN_CELLS = 3


def find_variable_genes(cells: Cells, *, n_top_genes: int) -> np.ndarray:
    """Find the most variable genes by seurat_v3, or by dispersion where its loess fit breaks down.

    Parameters
    ----------
    cells
        Cells of one lane, ``(n_cells, n_genes)``.
    n_top_genes
        How many genes; those that fewer than 3 cells express are none of them.

    Returns
    -------
    Their ascending positions, ``(at most n_top_genes,)``.
    """
    tally = _add_up(cells, "seurat_v3")
    common = np.flatnonzero(tally.n_expressing >= _MIN_CELLS)
    if len(common) <= n_top_genes:
        return common
    try:
        score = score_genes(tally, common)
    except CountsError:
        score = score_genes(_add_up(cells, "seurat"), common)
    best = np.argsort(-np.where(np.isnan(score), -np.inf, score), kind="stable")
    return np.sort(common[best[:n_top_genes]])


def _add_up(cells: Cells, method: PanelMethod) -> GeneTally:
    """Add up what genes are ranked by, over all cells and labels aside."""
    n_cells = len(cells.obs)
    every, nothing = np.ones(n_cells, dtype=bool), np.zeros(n_cells, dtype=np.int64)
    return tally_genes(cells, nothing, every, method=method)
