"""The gene panel: highly variable genes, chosen on training cells only."""

import anndata
import numpy as np
import pandas as pd
import scanpy
from scipy.sparse import csr_matrix

from annotary import keys
from annotary.quality.prepare import TARGET_SUM, PreparedCells, log_normalize


def choose_panel(
    counts: csr_matrix, gene_ids: pd.Index, depth: np.ndarray, *, n_top_genes: int
) -> pd.DataFrame:
    """Choose the most variable genes by scanpy's dispersion ranking (Satija et al. 2015).

    Parameters
    ----------
    counts
        Raw counts of the training cells, ``(n_cells, n_genes)``.
    gene_ids
        Unique ids of the columns, ``(n_genes,)``.
    depth
        Counts of each cell over all its genes, ``(n_cells,)``.
    n_top_genes
        Size of the panel; all genes are taken where there are fewer.

    Returns
    -------
    ``in_panel``, ``means``, ``dispersions`` and ``dispersions_norm`` of each gene, ``(n_genes, 4)``.
    """
    log_expr = log_normalize(PreparedCells(counts=counts, depth=depth), target_sum=TARGET_SUM)
    n_top_genes = min(n_top_genes, len(gene_ids))
    table = scanpy.pp.highly_variable_genes(
        anndata.AnnData(X=log_expr, var=pd.DataFrame(index=gene_ids)),
        n_top_genes=n_top_genes,
        flavor="seurat",
        inplace=False,
    )
    if n_top_genes == len(gene_ids):
        table["highly_variable"] = True  # a gene that no training cell expresses has no dispersion
    table.index = gene_ids
    columns = ["means", "dispersions", "dispersions_norm"]
    return table[columns].assign(**{keys.IN_PANEL: table["highly_variable"].to_numpy(dtype=bool)})
