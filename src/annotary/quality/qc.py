"""Which cells and genes are good enough to learn from."""

import numpy as np
from scipy.sparse import csr_matrix

from annotary.data.counts import count_cells_per_gene
from annotary.errors import CountsError


def find_good_cells(n_genes: np.ndarray, *, min_genes: int, place: str) -> np.ndarray:
    """Find the cells that express enough genes.

    Parameters
    ----------
    n_genes
        Expressed genes of each cell, ``(n_cells,)``.
    min_genes
        Fewest genes of a good cell.
    place
        File and element, for the message.

    Returns
    -------
    True for good cells, ``(n_cells,)``.

    Raises
    ------
    CountsError
        If there is none.
    """
    good = n_genes >= min_genes
    if not good.any():
        raise CountsError(
            place,
            expected=f"cells with at least {min_genes} expressed genes",
            found=f"at most {n_genes.max(initial=0):.0f} in {len(good)} labelled cells",
            remedy="Lower --min-genes, or name the obs column with the whole number with --n-genes-key.",
        )
    return good


def find_common_genes(counts: csr_matrix, *, min_cells: int, place: str) -> np.ndarray:
    """Find the genes that enough cells express.

    Parameters
    ----------
    counts
        Raw counts, ``(n_cells, n_genes)``.
    min_cells
        Fewest cells of a common gene.
    place
        File and element, for the message.

    Returns
    -------
    True for common genes, ``(n_genes,)``.

    Raises
    ------
    CountsError
        If there is none.
    """
    common = count_cells_per_gene(counts) >= min_cells
    if not common.any():
        raise CountsError(
            place,
            expected=f"genes that at least {min_cells} cells express",
            found=f"none among {counts.shape[1]} genes in {counts.shape[0]} cells",
            remedy="Lower --min-cells, or give more cells.",
        )
    return common
