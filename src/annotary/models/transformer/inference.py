"""Logits of many cells: batches of like length, as large as memory allows."""

import numpy as np
import torch

from annotary.models.transformer.batches import make_batch
from annotary.models.transformer.config import NetworkConfig
from annotary.models.transformer.network import GeneTransformer
from annotary.models.transformer.tokens import TokenizedCells

# Tokens of a batch with its padding. Small batches stay in a processor's cache; a GPU needs large ones.
TOKEN_BUDGET = {"cpu": 4_096, "mps": 65_536, "cuda": 262_144}
# So many tokens that only the linear path takes count as one that attends.
_LINEAR_TOKENS = 16


def predict_logits(network: GeneTransformer, tokens: TokenizedCells, device: torch.device) -> np.ndarray:
    """Compute the logits of cells, longest first: if memory runs out, it does at the first batch.

    Where it does, the batch is halved, as are those after it.

    Parameters
    ----------
    network
        The network, on ``device`` and in evaluation mode.
    tokens
        Tokens of the cells.
    device
        Where it computes.

    Returns
    -------
    Logits, ``(n_cells, n_classes)``, float32.
    """
    logits = np.empty((len(tokens), network.config.n_classes), dtype=np.float32)
    lengths = count_attended(tokens, network.config)
    order = np.argsort(-lengths, kind="stable")
    budget = TOKEN_BUDGET[device.type]
    done = 0
    while done < len(order):
        rows = take_batch(order[done:], lengths, budget)
        try:
            with torch.inference_mode():
                batch = make_batch(tokens, rows, network.config).to(device)
                logits[rows] = network(batch).float().cpu().numpy()
        except torch.OutOfMemoryError:
            if len(rows) == 1:
                raise
            budget = len(rows) * int(lengths[rows[0]]) // 2
        else:
            done += len(rows)
    return logits


def count_attended(tokens: TokenizedCells, config: NetworkConfig) -> np.ndarray:
    """Count what each cell costs in tokens, ``(n_cells,)``: those that attend to each other.

    The linear path, which takes all tokens, costs next to nothing beside attention; but a cell costs at
    least a sixteenth of all its tokens, since a batch holds them.
    """
    lengths = tokens.lengths
    if config.n_attended == config.n_genes or not len(tokens):
        return lengths
    attended = np.add.reduceat((tokens.gene_ids < config.n_attended).astype(np.int64), tokens.indptr[:-1])
    return np.maximum(attended, -(-lengths // _LINEAR_TOKENS))


def take_batch(order: np.ndarray, lengths: np.ndarray, budget: int) -> np.ndarray:
    """Take the rows of a batch, ``(B,)``: the first of ``order``, longest first, of ``budget`` tokens."""
    return order[: max(1, budget // int(lengths[order[0]]))]
