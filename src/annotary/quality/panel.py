"""The gene panel, chosen on training cells only: highly variable genes, or those that tell labels apart."""

import warnings

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from annotary import keys
from annotary.errors import CountsError
from annotary.quality.gene_tally import GeneTally, PanelMethod

MEAN = "mean_log_expr"
SCORE = "score"

_N_BINS = 20
_MAD_TO_SD = 0.6744897501960817
_LOESS_SPAN = 0.3


def choose_panel(
    counts: csr_matrix,
    gene_ids: pd.Index,
    *,
    depth: np.ndarray,
    codes: np.ndarray,
    method: PanelMethod,
    n_top_genes: int,
) -> pd.DataFrame:
    """Choose the genes that a model sees from cells in memory.

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
    method, n_top_genes
        As :func:`rank_genes` takes them.

    Returns
    -------
    What :func:`rank_genes` gives.
    """
    tally = GeneTally(counts.shape[1], int(codes.max(initial=0)) + 1, method)
    tally.add(counts, depth=depth, codes=codes)
    return rank_genes(tally, gene_ids, n_top_genes=n_top_genes)


def rank_genes(
    tally: GeneTally, gene_ids: pd.Index, *, n_top_genes: int, among: np.ndarray | None = None
) -> pd.DataFrame:
    """Choose the genes that a model sees from statistics of the training cells.

    ``seurat``, ``cell_ranger`` and ``seurat_v3`` rank by the measures of variability of
    Satija et al. 2015, Zheng et al. 2017 and Stuart et al. 2019 as scanpy computes them
    (a test holds them equal); ``f_test`` by the F statistic of log-normalised expression
    between labels.

    Parameters
    ----------
    tally
        Statistics of the training cells.
    gene_ids
        Unique ids of the genes, ``(n_genes,)``.
    n_top_genes
        Size of the panel; 0, or more than there are, takes all genes.
    among
        Genes that may be chosen, a mask ``(n_genes,)``; None for all.

    Returns
    -------
    ``mean_log_expr``, ``score`` (what the method ranks by; NaN where it has none) and
    ``in_panel`` of each of these genes, ``(n_among, 3)``. Ties go to the gene whose id comes first.

    Raises
    ------
    CountsError
        If there is too little to fit the method's trend to.
    """
    kept = np.arange(len(gene_ids)) if among is None else np.flatnonzero(among)
    score = score_genes(tally, kept)
    gene_ids = gene_ids[kept]
    in_panel = np.zeros(len(gene_ids), dtype=bool)
    in_panel[_find_best(score, gene_ids, n_top_genes or len(gene_ids))] = True
    table = {MEAN: tally.log_expr.mean[kept], SCORE: score, keys.IN_PANEL: in_panel}
    return pd.DataFrame(table, index=gene_ids)


def rank_by_score(table: pd.DataFrame) -> pd.Index:
    """List the genes of a panel's table, best first; of equal scores in the order of the alphabet."""
    return table.sort_index().sort_values(SCORE, ascending=False, kind="stable").index


def score_genes(tally: GeneTally, kept: np.ndarray) -> np.ndarray:
    """Compute what genes are ranked by, ``(n_kept,)``; the higher, the better, NaN where there is nothing.

    Raises
    ------
    CountsError
        If there is too little to fit the method's trend to.
    """
    try:
        with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):
            warnings.simplefilter("ignore")
            if tally.method == "f_test":
                return _score_by_label(tally)[kept]
            if tally.method == "seurat_v3":
                return _score_by_variance(tally, kept)
            moments = tally.scaled if tally.method == "seurat" else tally.log_expr
            return _score_by_dispersion(moments.mean[kept], moments.variance[kept], tally.method)
    except ValueError as error:  # skmisc's loess, or bins, on too few different values
        raise CountsError(
            f"--panel-method {tally.method}",
            expected="more cells or genes to fit its trend",
            found=f"{tally.n_cells} cells x {len(kept)} genes ({error})",
            remedy="Pass --panel-method seurat or f_test.",
        ) from error


def _score_by_label(tally: GeneTally) -> np.ndarray:
    """Compute the one-way ANOVA F statistic of each gene, ``(n_genes,)``."""
    sizes = tally.cells_per_label
    present = sizes > 0
    moments = tally.log_expr
    correction = moments.total**2 / moments.n
    between = (tally.label_totals[present] ** 2 / sizes[present, None]).sum(axis=0) - correction
    within = moments.squares - correction - between
    n_labels = int(present.sum())
    score = (between / (n_labels - 1)) / (within / (moments.n - n_labels))
    return np.where(moments.total > 0, score, np.nan)


def _score_by_dispersion(mean: np.ndarray, variance: np.ndarray, method: str) -> np.ndarray:
    """Compare each gene's dispersion with genes of about the same mean, ``(n_genes,)``."""
    mean = np.where(mean == 0, 1e-12, mean)
    dispersion = variance / mean
    if method == "seurat":
        dispersion = np.log(np.where(dispersion == 0, np.nan, dispersion))
        bins = pd.cut(np.log1p(mean), _N_BINS)
        by_bin = pd.Series(dispersion).groupby(bins, observed=True)
        centre, spread = by_bin.transform("mean"), by_bin.transform("std")
        alone = spread.isna()  # one gene in its bin: scanpy gives it 1
        centre, spread = centre.where(~alone, 0), spread.where(~alone, centre)
    else:
        edges = np.r_[-np.inf, np.percentile(mean, np.arange(10, 105, 5)), np.inf]
        by_bin = pd.Series(dispersion).groupby(pd.cut(mean, edges), observed=True)
        centre = by_bin.transform("median")
        spread = by_bin.transform(lambda values: (values - values.median()).abs().median() / _MAD_TO_SD)
    return ((dispersion - centre) / spread).to_numpy(dtype=np.float64)


def _score_by_variance(tally: GeneTally, kept: np.ndarray) -> np.ndarray:
    """Compute each gene's variance after standardising by the trend of all, ``(n_kept,)``."""
    from skmisc.loess import loess

    n_cells, mean, variance = tally.n_cells, tally.raw.mean[kept], tally.raw.variance[kept]
    varies = variance > 0
    trend = np.zeros(len(kept))
    model = loess(np.log10(mean[varies]), np.log10(variance[varies]), span=_LOESS_SPAN, degree=2)
    model.fit()
    trend[varies] = model.outputs.fitted_values
    deviation = np.sqrt(10**trend)
    limits = np.full(tally.n_genes, np.inf)
    limits[kept] = deviation * np.sqrt(n_cells) + mean
    clipped = tally.clip(limits)
    centred = n_cells * mean**2 + clipped.squares[kept] - 2 * clipped.total[kept] * mean
    return centred / ((n_cells - 1) * deviation**2)


def _find_best(score: np.ndarray, gene_ids: pd.Index, n_top_genes: int) -> np.ndarray:
    """Find the best genes, ``(at most n_top_genes,)``."""
    known = np.where(np.isnan(score), -np.inf, score)
    order = np.lexsort((gene_ids.to_numpy(dtype=str), -known))
    return order[:n_top_genes]
