"""From panel counts to tokens: which genes a cell expresses, and how strongly.

A token is a gene with its count, and the bin that the count falls into. Tokens
of all cells lie end to end in flat arrays, as the values of a CSR matrix do, and
are padded only when a batch is made. The arrays may lie in files that are
mapped into memory, so that a training set of any size costs what its batches do.
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from annotary.errors import GeneOverlapError
from annotary.models.transformer.config import NetworkConfig
from annotary.quality.prepare import PreparedCells


@dataclass(frozen=True)
class TokenizedCells:
    """Tokens of some cells, without padding.

    Attributes
    ----------
    gene_ids
        Panel position of each token's gene, ``(n_tokens,)``, uint16 or uint32;
        ``n_genes`` stands for "no gene expressed".
    counts
        Raw count of each token, ``(n_tokens,)``, uint16 or uint32.
    bins
        Expression bin of each token, ``(n_tokens,)``, uint8; zero where the network takes no bins.
    indptr
        Tokens of cell ``i`` are ``indptr[i]`` to ``indptr[i + 1]``, ``(n_cells + 1,)``.
    depth
        Counts of each cell over all its genes, ``(n_cells,)``, float64.
    """

    gene_ids: np.ndarray
    counts: np.ndarray
    bins: np.ndarray
    indptr: np.ndarray
    depth: np.ndarray

    def __len__(self) -> int:
        return len(self.indptr) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each cell, at least 1, ``(n_cells,)``."""
        return np.diff(self.indptr)


def tokenize(network: NetworkConfig, cells: PreparedCells) -> TokenizedCells:
    """Tokenise cells as a network takes them.

    Tokens of a cell come in panel order, however the matrix stores them. With ``expressed`` tokens each
    non-zero count becomes one, and a cell without any gets one "no gene" token in bin 0; with ``all``
    tokens every panel gene becomes one, in bin 0 where its count is zero.

    Parameters
    ----------
    network
        Which tokens, how many bins, and how many tokens a cell may have.
    cells
        Panel counts ``(n_cells, n_genes)`` and depth ``(n_cells,)``; left untouched.

    Raises
    ------
    GeneOverlapError
        If the counts have another number of genes than the network.
    """
    n_cells, n_genes = cells.counts.shape
    if n_genes != network.n_genes:
        raise GeneOverlapError(
            "panel counts",
            expected=f"the {network.n_genes} genes that the network was trained on, in their order",
            found=f"{n_genes} genes",
            remedy="Prepare the cells with the InputSpec that is stored beside the model.",
        )
    expressed = cells.counts.copy()
    expressed.sum_duplicates()
    expressed.eliminate_zeros()
    bins = np.zeros(expressed.nnz, dtype=np.uint8)
    if network.values == "bins":
        # float64 whatever the input: with float32 edges a count that lies on an edge
        # falls into another bin now and then.
        values = expressed.data.astype(np.float64)
        bins = bin_counts(values, np.diff(expressed.indptr), network.n_bins)
    columns, counts, lengths = expressed.indices, expressed.data, np.diff(expressed.indptr)
    if network.tokens == "all":
        place = np.repeat(np.arange(n_cells), lengths) * n_genes + columns
        columns = np.tile(np.arange(n_genes), n_cells)
        counts, bins = (_spread(values, place, n_cells * n_genes) for values in (counts, bins))
        lengths = np.full(n_cells, n_genes)
    elif network.max_tokens:
        kept = find_largest(counts, lengths, network.max_tokens)
        columns, counts, bins = columns[kept], counts[kept], bins[kept]
        lengths = np.minimum(lengths, network.max_tokens)
    gene_ids = columns.astype(_smallest_type(n_genes))
    counts = counts.astype(_smallest_type(counts.max(initial=0)))
    empty = (np.cumsum(lengths) - lengths)[lengths == 0]
    if len(empty):
        gene_ids = np.insert(gene_ids, empty, n_genes)
        counts, bins = np.insert(counts, empty, 0), np.insert(bins, empty, 0)
    return TokenizedCells(
        gene_ids=gene_ids,
        counts=counts,
        bins=bins,
        indptr=_offsets(np.maximum(lengths, 1)),
        depth=np.asarray(cells.depth, dtype=np.float64),
    )


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


def find_largest(counts: np.ndarray, lengths: np.ndarray, max_tokens: int) -> np.ndarray:
    """Find each cell's tokens with the largest counts; of equal ones those that come first in the panel.

    Parameters
    ----------
    counts
        Counts, cell after cell in panel order, ``(n_tokens,)``.
    lengths
        Tokens of each cell, ``(n_cells,)``.
    max_tokens
        Tokens that a cell may keep.

    Returns
    -------
    Ascending positions of the tokens to keep, ``(n_kept,)``.
    """
    owner = np.repeat(np.arange(len(lengths)), lengths)
    order = np.lexsort((-counts, owner))  # stable: equal counts stay in panel order
    rank = np.arange(len(counts)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return np.sort(order[rank < max_tokens])


def store_tokens(tokens: TokenizedCells, folder: Path) -> None:
    """Write tokens into a folder, one ``.npy`` file for each array."""
    folder.mkdir(parents=True)
    for field in fields(tokens):
        np.save(folder / f"{field.name}.npy", getattr(tokens, field.name))


def store_chunks(
    network: NetworkConfig, chunks: Iterable[PreparedCells], folder: Path, *, most_tokens: int
) -> TokenizedCells:
    """Tokenise cells chunk by chunk into files in a folder, and map these into memory.

    Parameters
    ----------
    network
        As :func:`tokenize` takes it.
    chunks
        The cells, some at a time.
    folder
        Where the files lie.
    most_tokens
        Tokens of all cells, or more: that much disk space is asked for, and only what is used is taken.
    """
    types = {"gene_ids": _smallest_type(network.n_genes), "counts": np.uint32, "bins": np.uint8}
    arrays = {
        name: np.lib.format.open_memmap(folder / f"{name}.npy", mode="w+", dtype=dtype, shape=(most_tokens,))
        for name, dtype in types.items()
    }
    lengths, depth, done = [np.zeros(0, dtype=np.int64)], [np.zeros(0)], 0
    for chunk in chunks:
        tokens = tokenize(network, chunk)
        for name, array in arrays.items():
            array[done : done + tokens.indptr[-1]] = getattr(tokens, name)
        done += int(tokens.indptr[-1])
        lengths.append(tokens.lengths)
        depth.append(tokens.depth)
    return TokenizedCells(
        **{name: array[:done] for name, array in arrays.items()},
        indptr=_offsets(np.concatenate(lengths)),
        depth=np.concatenate(depth),
    )


def map_tokens(folder: Path) -> TokenizedCells:
    """Map what :func:`store_tokens` wrote into memory, read-only; pages are read when a batch needs them."""
    arrays = {
        field.name: np.load(folder / f"{field.name}.npy", mmap_mode="r") for field in fields(TokenizedCells)
    }
    return TokenizedCells(**arrays | {"indptr": np.asarray(arrays["indptr"])})


def _spread(values: np.ndarray, place: np.ndarray, size: int) -> np.ndarray:
    """Put values at their places among zeros, ``(size,)``."""
    spread = np.zeros(size, dtype=values.dtype)
    spread[place] = values
    return spread


def _smallest_type(largest: float) -> type[np.unsignedinteger]:
    """Choose the smaller type that holds 0 to ``largest``."""
    return np.uint16 if largest <= np.iinfo(np.uint16).max else np.uint32


def _offsets(lengths: np.ndarray) -> np.ndarray:
    """Sum lengths up to offsets, ``(n_cells + 1,)``, int64."""
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)
