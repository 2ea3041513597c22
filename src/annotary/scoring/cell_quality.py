"""Which cells would have been too poor to train on."""

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from annotary.data.counts import count_genes_per_cell
from annotary.quality.qc import QualityThresholds, find_flaws

PASS = "pass"


def flag_quality(
    counts: csr_matrix, depth: np.ndarray, *, thresholds: QualityThresholds, is_mito: np.ndarray, is_cut: bool
) -> pd.Categorical:
    """Hold cells against the thresholds of the training cells.

    Parameters
    ----------
    counts
        Counts of all genes of the file, ``(n_cells, n_genes)``.
    depth
        Counts of each cell over all its genes, ``(n_cells,)``.
    thresholds
        What a training cell had to have.
    is_mito
        1 for mitochondrial genes, 0 for others, ``(n_genes,)``, float64.
    is_cut
        Whether cells have genes that the file lacks: then how many they express is not known.

    Returns
    -------
    ``pass``, or the first threshold that the cell fails, ``(n_cells,)``.
    """
    n_genes = np.full(counts.shape[0], np.inf) if is_cut else count_genes_per_cell(counts)
    pct_mito = np.zeros(counts.shape[0])
    if thresholds.max_pct_mito < 100:  # else it need not be computed
        np.divide(100 * (counts @ is_mito), depth, out=pct_mito, where=depth > 0)
    flaws = find_flaws(n_genes, depth, pct_mito, thresholds=thresholds)
    codes = np.zeros(counts.shape[0], dtype=np.int8)
    for code, is_flawed in enumerate(flaws.values(), start=1):
        codes[is_flawed & (codes == 0)] = code
    return pd.Categorical.from_codes(codes, categories=[PASS, *flaws])
