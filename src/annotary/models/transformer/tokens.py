"""From panel counts to tokens: which genes a cell expresses, and how strongly.

A token is a gene with the bin of its count. Tokens of all cells lie end to
end in flat arrays, as the values of a CSR matrix do, and are padded only when
a batch is made.
"""

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix

from annotary.errors import GeneOverlapError
from annotary.models.transformer.config import NetworkConfig, TokenMode


@dataclass(frozen=True)
class TokenizedCells:
    """Tokens of some cells, without padding.

    Attributes
    ----------
    gene_ids
        Panel position of each token's gene, ``(n_tokens,)``, uint16 or uint32;
        ``n_genes`` stands for "no gene expressed".
    bins
        Expression bin of each token, ``(n_tokens,)``, uint8.
    indptr
        Tokens of cell ``i`` are ``indptr[i]`` to ``indptr[i + 1]``, ``(n_cells + 1,)``.
    """

    gene_ids: np.ndarray
    bins: np.ndarray
    indptr: np.ndarray

    def __len__(self) -> int:
        return len(self.indptr) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each cell, at least 1, ``(n_cells,)``."""
        return np.diff(self.indptr)


def tokenize_for(network: NetworkConfig, counts: csr_matrix) -> TokenizedCells:
    """Tokenise counts as a network takes them.

    Raises
    ------
    GeneOverlapError
        If the counts have another number of genes than the network.
    """
    if counts.shape[1] != network.n_genes:
        raise GeneOverlapError(
            "panel counts",
            expected=f"the {network.n_genes} genes that the network was trained on, in their order",
            found=f"{counts.shape[1]} genes",
            remedy="Prepare the cells with the InputSpec that is stored beside the model.",
        )
    return tokenize(counts, n_bins=network.n_bins, mode=network.tokens)


def tokenize(counts: csr_matrix, n_bins: int, mode: TokenMode = "expressed") -> TokenizedCells:
    """Turn panel counts into tokens.

    Tokens of a cell come in panel order, however the matrix stores them.

    Parameters
    ----------
    counts
        Counts of the panel genes, ``(n_cells, n_genes)``; left untouched.
    n_bins
        Intervals between a cell's smallest and largest non-zero count.
    mode
        ``expressed`` makes tokens of non-zero counts, and one "no gene" token
        in bin 0 for a cell without any; ``all`` makes one of every panel gene,
        in bin 0 where the count is zero.
    """
    # float64 whatever the input: with float32 edges a count that lies on an edge
    # falls into another bin now and then.
    expressed = counts.astype(np.float64)
    expressed.sum_duplicates()
    expressed.eliminate_zeros()
    lengths = np.diff(expressed.indptr)
    bins = bin_counts(expressed.data, lengths, n_bins)
    add_tokens = _tokens_of_all_genes if mode == "all" else _tokens_of_expressed_genes
    return add_tokens(expressed.indices, bins, lengths, n_genes=counts.shape[1])


def bin_counts(values: np.ndarray, lengths: np.ndarray, n_bins: int) -> np.ndarray:
    """Bin non-zero counts, each cell between its own smallest and largest.

    The binning of scGPT (Cui et al. 2024, doi:10.1038/s41592-024-02201-0) with
    equal widths: a value's bin is the number of edges that are not above it.

    Parameters
    ----------
    values
        Non-zero counts, cell after cell, ``(n_values,)``, float64.
    lengths
        Values of each cell, ``(n_cells,)``; a cell may have none.
    n_bins
        Intervals. The largest value lies on the last edge: bin ``n_bins + 1``.

    Returns
    -------
    Bins from 1 to ``n_bins + 1``, ``(n_values,)``, uint8; all 1 in a cell whose values are equal.
    """
    bins = np.zeros(len(values), dtype=np.uint8)
    if n_bins == 1:
        # A single interval tells nothing apart, so its upper edge opens no second bin.
        return bins + np.uint8(1)
    lengths = lengths[lengths > 0]
    if not len(lengths):
        return bins
    starts = np.cumsum(lengths) - lengths
    low = np.minimum.reduceat(values, starts)
    high = np.maximum.reduceat(values, starts)
    # Equal values lie on the first edge of any interval, so in bin 1. The interval must not be empty:
    # numpy rounds the edges of ALL rows differently when one row has a step of zero.
    high = np.where(high > low, high, low + 1)
    for edge in np.linspace(low, high, n_bins + 1):
        bins += values >= np.repeat(edge, lengths)
    return bins


def pad_batch(tokens: TokenizedCells, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Make a rectangle of some cells' tokens.

    Parameters
    ----------
    tokens
        Tokens of ``n_cells`` cells.
    rows
        Which of them, ``(B,)``.

    Returns
    -------
    Gene ids and bins, ``(B, T)``, int64, zero where padded, and whether each
    place holds a token, ``(B, T)``, bool; ``T`` is the longest cell's length.
    """
    lengths = tokens.lengths[rows]
    place = np.arange(lengths.max(initial=0))
    is_token = place < lengths[:, None]
    source = (tokens.indptr[rows][:, None] + place)[is_token]
    gene_ids = np.zeros(is_token.shape, dtype=np.int64)
    bin_ids = np.zeros(is_token.shape, dtype=np.int64)
    gene_ids[is_token] = tokens.gene_ids[source]
    bin_ids[is_token] = tokens.bins[source]
    return gene_ids, bin_ids, is_token


def _tokens_of_expressed_genes(
    columns: np.ndarray, bins: np.ndarray, lengths: np.ndarray, *, n_genes: int
) -> TokenizedCells:
    """Give each non-zero count a token, and a cell without any the "no gene" token."""
    place_of_empty = (np.cumsum(lengths) - lengths)[lengths == 0]
    return TokenizedCells(
        gene_ids=np.insert(columns.astype(_id_type(n_genes)), place_of_empty, n_genes),
        bins=np.insert(bins, place_of_empty, 0),
        indptr=_offsets(np.maximum(lengths, 1)),
    )


def _tokens_of_all_genes(
    columns: np.ndarray, bins: np.ndarray, lengths: np.ndarray, *, n_genes: int
) -> TokenizedCells:
    """Give each panel gene a token."""
    n_cells = len(lengths)
    all_bins = np.zeros((n_cells, n_genes), dtype=np.uint8)
    all_bins[np.repeat(np.arange(n_cells), lengths), columns] = bins
    return TokenizedCells(
        gene_ids=np.tile(np.arange(n_genes, dtype=_id_type(n_genes)), n_cells),
        bins=all_bins.ravel(),
        indptr=_offsets(np.full(n_cells, n_genes)),
    )


def _id_type(n_genes: int) -> type[np.unsignedinteger]:
    """Choose the smallest type for ids 0 to ``n_genes``."""
    return np.uint16 if n_genes <= np.iinfo(np.uint16).max else np.uint32


def _offsets(lengths: np.ndarray) -> np.ndarray:
    """Sum lengths up to offsets, ``(n_cells + 1,)``, int64."""
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)
