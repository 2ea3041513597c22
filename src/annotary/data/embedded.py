"""The embedded default: 700 PBMCs that ship inside scanpy, with their exact counts."""

import warnings

import anndata
import numpy as np
from scipy.sparse import csr_matrix

from annotary import keys

NAME = "pbmc68k_reduced"
LABEL_KEY = "bulk_labels"
DEPTH_KEY = "n_counts"
N_GENES_KEY = "n_genes"

_TARGET_SUM = 1e4


def load_embedded() -> anndata.AnnData:
    """Recover the raw counts of ``scanpy.datasets.pbmc68k_reduced``.

    Its ``.raw`` holds log1p of counts scaled to 10,000 a cell over all genes
    of the original file, whose count sum is ``obs["n_counts"]``; undoing both
    gives the counts back to within 0.1 of an integer, since its values have
    three decimals. The file is cut to 765 genes, so a cell's
    depth and number of genes are the columns of obs, not sums over the matrix.

    Returns
    -------
    Counts in ``X``, ``(700, 765)``, with the original's label and QC columns in obs.
    """
    import scanpy  # takes a second, and only these data need it

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        original = scanpy.datasets.pbmc68k_reduced()
    log_expr = csr_matrix(original.raw.X, dtype=np.float64)
    depth = original.obs[DEPTH_KEY].to_numpy(dtype=np.float64)
    counts = log_expr.expm1().multiply(depth[:, None] / _TARGET_SUM).tocsr()
    counts.data = np.round(counts.data)
    counts.eliminate_zeros()
    obs = original.obs[[LABEL_KEY, N_GENES_KEY, DEPTH_KEY, "percent_mito"]].copy()
    var = original.raw.var[[]].copy()
    embedded = anndata.AnnData(X=counts.astype(np.float32), obs=obs, var=var)
    embedded.uns[f"{keys.RECORD}_source"] = (
        f"scanpy.datasets.{NAME}, 10x Genomics 68k PBMC (Zheng et al. 2017)"
    )
    return embedded
