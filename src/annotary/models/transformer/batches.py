"""Which cells go into a batch: cells of like length together, so that little is padded."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from annotary.models.transformer.tokens import TokenizedCells, pad_batch

# Gene ids, bins, and which places hold a token, each (B, T), then class codes (B,).
Batch = tuple[Tensor, Tensor, Tensor, Tensor]

# Batches whose cells are sorted by length among themselves. Fewer would pad more; with all
# cells in one sort a batch would hold one length only, which follows the cell type.
POOL_BATCHES = 16


def batches_by_length(
    lengths: np.ndarray, batch_size: int, rng: np.random.Generator | None = None
) -> Iterator[np.ndarray]:
    """Group cells of like length into batches.

    Parameters
    ----------
    lengths
        Tokens of each cell, ``(n_cells,)``.
    batch_size
        Cells in a batch; the last cut may have fewer.
    rng
        For training: cells are shuffled, sorted by length within pools of
        ``POOL_BATCHES`` batches, and the batches come in random order, so that
        batch mates and order differ each time. None, for inference: one
        sort by length, shortest first.

    Yields
    ------
    Rows of a batch, ``(B,)``; every cell comes exactly once.
    """
    n_cells = len(lengths)
    if rng is None:
        order = np.argsort(lengths, kind="stable")
        batches = [order[start : start + batch_size] for start in range(0, n_cells, batch_size)]
    else:
        order = rng.permutation(n_cells)
        pool = POOL_BATCHES * batch_size
        batches = []
        for start in range(0, n_cells, pool):
            rows = order[start : start + pool]
            rows = rows[np.argsort(lengths[rows], kind="stable")]
            batches += [rows[cut : cut + batch_size] for cut in range(0, len(rows), batch_size)]
        batches = [batches[index] for index in rng.permutation(len(batches))]
    yield from batches


class LengthBatches:
    """Padded batches of labelled cells, in a new order each time where an ``rng`` is given."""

    def __init__(
        self,
        tokens: TokenizedCells,
        codes: np.ndarray,
        batch_size: int,
        rng: np.random.Generator | None = None,
    ) -> None:
        self.tokens = tokens
        self.codes = np.asarray(codes, dtype=np.int64)
        self.batch_size = batch_size
        self.rng = rng

    def __len__(self) -> int:
        return -(-len(self.tokens) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        for rows in batches_by_length(self.tokens.lengths, self.batch_size, self.rng):
            gene_ids, bin_ids, is_token = map(torch.from_numpy, pad_batch(self.tokens, rows))
            yield gene_ids, bin_ids, is_token, torch.from_numpy(self.codes[rows])
