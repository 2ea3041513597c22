"""Batches: cells of like length together, so that little is padded; in training with counts left out.

Every random number is drawn from a stream that the seed and the number of the epoch or step begin: a training
that goes on after a kill draws what it would have drawn, and so does one process of several.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from annotary.models.transformer.config import NetworkConfig, TrainingConfig
from annotary.models.transformer.tokens import TokenizedCells, bin_counts

# Batches whose cells are sorted by length among themselves. Fewer would pad more; with all
# cells in one sort a batch would hold one length only, which follows the cell type.
POOL_BATCHES = 16


class TokenBatch(NamedTuple):
    """Tokens of some cells as a rectangle; ``T`` is the longest cell's length.

    Attributes
    ----------
    gene_ids, bin_ids
        Gene and bin of each token, ``(B, T)``, int64; zero where padded, and all bins where the network
        takes continuous values.
    values
        ``log1p`` of the count scaled to the network's target sum, ``(B, T)``, float32; zero where padded.
    is_token
        Whether a place holds a token, ``(B, T)``, bool.
    """

    gene_ids: Tensor
    bin_ids: Tensor
    values: Tensor
    is_token: Tensor

    def take(self, rows: slice) -> "TokenBatch":
        """Take some of the cells."""
        return TokenBatch(*(part[rows] for part in self))

    def take_places(self, n_places: int) -> "TokenBatch":
        """Take the first places of every cell."""
        return TokenBatch(*(part[:, :n_places] for part in self))

    def to(self, device: torch.device) -> "TokenBatch":
        """Move to a device."""
        return TokenBatch(*(part.to(device) for part in self))


@dataclass(frozen=True)
class FlatTokens:
    """Tokens of a batch before they are padded: ``gene_ids``, ``counts``, ``bins`` and the ``owner`` of each.

    Attributes
    ----------
    gene_ids, counts, bins, owner
        Gene, count, bin and row of the batch, ``(n_tokens,)``; a row's tokens are neighbours.
    depth
        Counts of each cell over all its genes, ``(B,)``.
    """

    gene_ids: np.ndarray
    counts: np.ndarray
    bins: np.ndarray
    owner: np.ndarray
    depth: np.ndarray


def order_by_length(lengths: np.ndarray, batch_size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Group cells of like length into training batches.

    Cells are shuffled, sorted by length within pools of ``POOL_BATCHES`` batches, and the batches come in
    random order, so that batch mates and order differ each time.

    Parameters
    ----------
    lengths
        Tokens of each cell, ``(n_cells,)``.
    batch_size
        Cells in a batch; the last cut of a pool may have fewer.
    rng
        Where the order comes from.

    Returns
    -------
    Rows of each batch, ``(B,)``; every cell comes exactly once.
    """
    order = rng.permutation(len(lengths))
    pool = POOL_BATCHES * batch_size
    batches = []
    for start in range(0, len(order), pool):
        rows = order[start : start + pool]
        rows = rows[np.argsort(lengths[rows], kind="stable")]
        batches += [rows[cut : cut + batch_size] for cut in range(0, len(rows), batch_size)]
    return [batches[index] for index in rng.permutation(len(batches))]


def make_batch(
    tokens: TokenizedCells,
    rows: np.ndarray,
    network: NetworkConfig,
    *,
    training: TrainingConfig | None = None,
    rng: np.random.Generator | None = None,
) -> TokenBatch:
    """Make the batch of some cells.

    Parameters
    ----------
    tokens
        Tokens of all cells.
    rows
        Which of them, ``(B,)``.
    network
        How values and bins are made.
    training, rng
        Given for training: how much of a cell is left out, and what decides it.
    """
    flat = gather(tokens, rows)
    if training is not None and rng is not None:
        flat = leave_out(flat, network, training, rng)
    return pad(flat, network)


def gather(tokens: TokenizedCells, rows: np.ndarray) -> FlatTokens:
    """Copy the tokens of some cells ``(B,)`` out of the flat arrays."""
    starts, lengths = tokens.indptr[rows], tokens.lengths[rows]
    owner = np.repeat(np.arange(len(rows)), lengths)
    source = np.arange(len(owner)) + np.repeat(starts - (np.cumsum(lengths) - lengths), lengths)
    return FlatTokens(
        gene_ids=tokens.gene_ids[source],
        counts=tokens.counts[source],
        bins=tokens.bins[source],
        owner=owner,
        depth=np.asarray(tokens.depth[rows]),
    )


def leave_out(
    flat: FlatTokens, network: NetworkConfig, training: TrainingConfig, rng: np.random.Generator
) -> FlatTokens:
    """Make the cells of a batch shallower, then hide some of their genes.

    Thinning keeps each molecule with a probability that a cell draws from ``1 - thinning`` to 1: what a
    shallower sequencing of the same cell would have found. Dropping genes then hides a share of the tokens
    that each cell draws from 0 to ``gene_dropout``. Bins are made anew of what is left; a cell that would
    lose all its tokens keeps them all.
    """
    n_cells = len(flat.depth)
    counts, depth = flat.counts, flat.depth
    if training.thinning:
        share = 1 - training.thinning * rng.random(n_cells)
        counts = rng.binomial(counts.astype(np.int64), share[flat.owner])
        depth = depth * share
    kept = counts > 0 if network.tokens == "expressed" else np.ones(len(counts), dtype=bool)
    if training.gene_dropout:
        share = training.gene_dropout * rng.random(n_cells)
        kept &= rng.random(len(counts)) >= share[flat.owner]
    lost = np.bincount(flat.owner[kept], minlength=n_cells) == 0
    counts = np.where(lost[flat.owner], flat.counts, counts)
    depth = np.where(lost, flat.depth, depth)
    kept |= lost[flat.owner]
    counts, owner = counts[kept], flat.owner[kept]
    return FlatTokens(
        gene_ids=flat.gene_ids[kept],
        counts=counts,
        bins=_bin_again(counts, owner, n_cells, network),
        owner=owner,
        depth=depth,
    )


def _bin_again(counts: np.ndarray, owner: np.ndarray, n_cells: int, network: NetworkConfig) -> np.ndarray:
    """Bin the counts of what is left of some cells, ``(n_tokens,)``; zeros stay in bin 0."""
    bins = np.zeros(len(counts), dtype=np.uint8)
    if network.values == "bins":
        expressed = counts > 0
        lengths = np.bincount(owner[expressed], minlength=n_cells)
        bins[expressed] = bin_counts(counts[expressed].astype(np.float64), lengths, network.n_bins)
    return bins


def pad(flat: FlatTokens, network: NetworkConfig) -> TokenBatch:
    """Make a rectangle of some cells' tokens, each cell's in front."""
    lengths = np.bincount(flat.owner, minlength=len(flat.depth))
    is_token = np.arange(lengths.max(initial=0)) < lengths[:, None]
    scale = np.divide(network.target_sum, flat.depth, out=np.zeros(len(flat.depth)), where=flat.depth > 0)
    values = np.log1p(flat.counts * scale[flat.owner])

    def spread(flat_values: np.ndarray, dtype: type) -> Tensor:
        rectangle: np.ndarray = np.zeros(is_token.shape, dtype=dtype)
        rectangle[is_token] = flat_values
        return torch.from_numpy(rectangle)

    has_bins = network.values == "bins"
    return TokenBatch(
        gene_ids=spread(flat.gene_ids, np.int64),
        bin_ids=spread(flat.bins, np.int64) if has_bins else torch.zeros(is_token.shape, dtype=torch.int64),
        values=spread(values, np.float32),
        is_token=torch.from_numpy(is_token),
    )
