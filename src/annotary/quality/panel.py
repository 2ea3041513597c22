"""The gene panel, chosen on training cells only: highly variable genes, or those that tell labels apart."""

import warnings
from typing import Literal

import anndata
import numpy as np
import pandas as pd
import scanpy
from scipy.sparse import csr_matrix
from sklearn.feature_selection import f_classif

from annotary import keys
from annotary.errors import CountsError
from annotary.quality.prepare import TARGET_SUM, PreparedCells, log_normalize

PanelMethod = Literal["seurat", "seurat_v3", "cell_ranger", "f_test"]

MEAN = "mean_log_expr"
SCORE = "score"

_SCORE_COLUMN = {
    "seurat": "dispersions_norm",
    "cell_ranger": "dispersions_norm",
    "seurat_v3": "variances_norm",
}


def choose_panel(
    counts: csr_matrix,
    gene_ids: pd.Index,
    *,
    depth: np.ndarray,
    codes: np.ndarray,
    method: PanelMethod,
    n_top_genes: int,
) -> pd.DataFrame:
    """Choose the genes that a model sees.

    Parameters
    ----------
    counts
        Raw counts of the training cells, ``(n_cells, n_genes)``.
    gene_ids
        Unique ids of the columns, ``(n_genes,)``.
    depth
        Counts of each cell over all its genes, ``(n_cells,)``.
    codes
        Encoded labels, ``(n_cells,)``; only ``f_test`` looks at them.
    method
        ``seurat``, ``cell_ranger`` and ``seurat_v3`` rank by scanpy's measures of
        variability (Satija et al. 2015; Zheng et al. 2017; Stuart et al. 2019),
        ``f_test`` by the F statistic of log-normalised expression between labels.
    n_top_genes
        Size of the panel; 0, or more than there are, takes all genes.

    Returns
    -------
    ``mean_log_expr``, ``score`` (what the method ranks by; NaN where it has none) and
    ``in_panel`` of each gene, ``(n_genes, 3)``. Ties go to the gene whose id comes first.
    """
    log_expr = log_normalize(PreparedCells(counts=counts, depth=depth), target_sum=TARGET_SUM)
    if method == "f_test":
        score = _score_by_label(log_expr, codes)
    else:
        score = _score_by_variability(counts, log_expr, method)
    in_panel = np.zeros(len(gene_ids), dtype=bool)
    in_panel[_find_best(score, gene_ids, n_top_genes or len(gene_ids))] = True
    mean = np.asarray(log_expr.mean(axis=0), dtype=np.float64).ravel()
    return pd.DataFrame({MEAN: mean, SCORE: score, keys.IN_PANEL: in_panel}, index=gene_ids)


def rank_by_variability(counts: csr_matrix, depth: np.ndarray) -> np.ndarray:
    """Score genes by seurat_v3, or by dispersion where its loess fit breaks down on few cells.

    Parameters
    ----------
    counts
        Raw counts, ``(n_cells, n_genes)``.
    depth
        Counts of each cell, ``(n_cells,)``.

    Returns
    -------
    Score of each gene, ``(n_genes,)``; the higher, the more variable.
    """
    log_expr = log_normalize(PreparedCells(counts=counts, depth=depth), target_sum=TARGET_SUM)
    try:
        score = _score_by_variability(counts, log_expr, "seurat_v3")
    except CountsError:
        score = _score_by_variability(counts, log_expr, "seurat")
    return np.where(np.isnan(score), -np.inf, score)


def _score_by_label(log_expr: csr_matrix, codes: np.ndarray) -> np.ndarray:
    """Compute the ANOVA F statistic of each gene, ``(n_genes,)``."""
    with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):
        warnings.simplefilter("ignore")  # a gene that no training cell expresses has no F
        return f_classif(log_expr.astype(np.float64), codes)[0]


def _score_by_variability(counts: csr_matrix, log_expr: csr_matrix, method: str) -> np.ndarray:
    """Compute scanpy's measure of each gene's variability, ``(n_genes,)``."""
    adata = anndata.AnnData(X=counts if method == "seurat_v3" else log_expr)
    # The measure does not depend on how many genes are taken; scanpy wants a number all the same.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            table = scanpy.pp.highly_variable_genes(
                adata, n_top_genes=adata.n_vars, flavor=method, inplace=False
            )
        except ValueError as error:  # skmisc's loess on too few different values
            raise CountsError(
                f"--panel-method {method}",
                expected="more cells or genes to fit its trend",
                found=f"{counts.shape[0]} cells x {counts.shape[1]} genes ({error})",
                remedy="Pass --panel-method seurat or f_test.",
            ) from error
    return table[_SCORE_COLUMN[method]].to_numpy(dtype=np.float64)


def _find_best(score: np.ndarray, gene_ids: pd.Index, n_top_genes: int) -> np.ndarray:
    """Find the best genes, ``(at most n_top_genes,)``."""
    known = np.where(np.isnan(score), -np.inf, score)
    order = np.lexsort((gene_ids.to_numpy(dtype=str), -known))
    return order[:n_top_genes]
