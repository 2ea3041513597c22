"""The most variable genes of one lane, for calling doublets."""

import numpy as np

from annotary import keys
from annotary.data.source import Cells
from annotary.errors import CountsError
from annotary.quality.gene_tally import GeneTally, PanelMethod
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
    """Add up what genes are ranked by, labels aside."""
    tally = GeneTally(len(cells.gene_ids), 1, method)
    depth = cells.obs[keys.DEPTH].to_numpy(dtype=np.float64)
    for rows, chunk in cells.iter_chunks():
        tally.count(chunk)
        tally.add(chunk, depth=depth[rows], codes=np.zeros(chunk.shape[0], dtype=np.int64))
    return tally
