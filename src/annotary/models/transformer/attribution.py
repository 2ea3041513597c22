"""Which genes speak for each label: gradient times input, for a biologist to check.

Attention weights say where a network looks, not what it makes of it (Jain and Wallace 2019,
arXiv:1902.10186), and a token of much attention may speak against a label. Gradient times input (Shrikumar
et al. 2016, arXiv:1605.01713) is signed and in units of the logit. The gradient is averaged on the way from
no expression to the cell's (integrated gradients, Sundararajan et al. 2017, arXiv:1703.01365): where a
network is sure its own gradient is near zero, whatever made it sure. What comes of a gene's mere presence,
which layer normalisation makes independent of its value, is not in it.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from annotary.models.transformer.batches import TokenBatch, make_batch
from annotary.models.transformer.device import choose_device
from annotary.models.transformer.network import GeneTransformer, pool_mean, take_attended
from annotary.models.transformer.tokens import TokenizedCells, tokenize
from annotary.quality.prepare import PreparedCells

CELLS_PER_LABEL = 50
"""Cells of each label that are looked at: a mean over more says little else, and takes longer."""

N_STEPS = 4
"""Places on the way at which a gradient is taken; with 32 the ranks of simulated markers were the same."""

# Tokens of a batch with its padding: the backward pass holds what each of them was on its way.
_TOKEN_BUDGET = 8_192


def weigh_genes(
    networks: Sequence[GeneTransformer],
    cells: PreparedCells,
    codes: np.ndarray,
    *,
    seed: int,
    device: str = "auto",
) -> np.ndarray:
    """Measure how much each gene speaks for each label in the cells that have it.

    A token's contribution is its vector, less what that would be without expression, times the gradient
    of the cell's own logit with respect to it, plus the linear path's weight times the gene's value. The
    logit is taken less the mean of all labels' logits: what raises all alike tells no label from another.
    Contributions are averaged over a sample of the cells that have the label, 0 where a cell does not
    express the gene: pass cells that the networks were not trained on, whose labels are known.

    Parameters
    ----------
    networks
        Networks of one shape; what they say is averaged.
    cells
        Panel counts, ``(n_cells, n_genes)``.
    codes
        Class codes, ``(n_cells,)``.
    seed
        Seed of the sample: at most ``CELLS_PER_LABEL`` cells of each label.
    device
        ``auto``, ``cpu``, ``cuda`` or ``mps``; the networks stay there.

    Returns
    -------
    Mean contribution, ``(n_genes, n_classes)``; NaN for a label that no cell has.
    """
    config = networks[0].config
    rows = draw_cells(codes, seed=seed)
    tokens, codes = tokenize(config, cells[rows]), codes[rows]
    target = choose_device(device)
    total = np.zeros((config.n_genes, config.n_classes))
    for network in networks:
        total += _add_up(network.to(target).eval(), tokens, codes, target)
    sizes = np.bincount(codes, minlength=config.n_classes)
    return np.divide(total, len(networks) * sizes, out=np.full(total.shape, np.nan), where=sizes > 0)


def draw_cells(codes: np.ndarray, *, seed: int) -> np.ndarray:
    """Draw at most ``CELLS_PER_LABEL`` cells of each label, ascending rows."""
    order = np.random.default_rng(seed).permutation(len(codes))
    drawn = [order[codes[order] == code][:CELLS_PER_LABEL] for code in np.unique(codes)]
    return np.sort(np.concatenate(drawn)) if drawn else order


def _add_up(
    network: GeneTransformer, tokens: TokenizedCells, codes: np.ndarray, device: torch.device
) -> np.ndarray:
    """Add contributions up over cells, by gene and the cells' label, ``(n_genes, n_classes)``."""
    n_genes, n_classes = network.config.n_genes, network.config.n_classes
    total = np.zeros((n_genes + 1) * n_classes)  # the last gene is "no gene expressed"
    order = np.argsort(-tokens.lengths, kind="stable")
    done = 0
    while done < len(order):
        rows = order[done : done + max(1, _TOKEN_BUDGET // int(tokens.lengths[order[done]]))]
        batch = make_batch(tokens, rows, network.config).to(device)
        shares = contribute(network, batch, torch.from_numpy(codes[rows]).to(device))
        places = batch.gene_ids * n_classes + torch.from_numpy(codes[rows]).to(device)[:, None]
        kept = batch.is_token
        total += np.bincount(
            places[kept].cpu().numpy(), weights=shares[kept].cpu().numpy(), minlength=len(total)
        )
        done += len(rows)
    return total.reshape(-1, n_classes)[:n_genes]


def contribute(network: GeneTransformer, batch: TokenBatch, codes: Tensor) -> Tensor:
    """Give the contribution of each token of a cell to the logit of a label, less the labels' mean.

    Parameters
    ----------
    network
        The network, in evaluation mode.
    batch
        Tokens of the cells.
    codes
        Label of each cell, ``(B,)``.

    Returns
    -------
    Contributions, ``(B, T)``; nothing that they mean where a place is padding.
    """
    attended = take_attended(batch, network.config)
    x = network.embedding(attended).detach()
    baseline = _make_baseline(network, attended, x)
    gradient = torch.zeros_like(x)
    for step in range(N_STEPS):
        place = (baseline + (step + 0.5) / N_STEPS * (x - baseline)).requires_grad_()
        own = _stand_out(network.classify(place, attended.is_token), codes).sum()
        gradient += torch.autograd.grad(own, place)[0] / N_STEPS
    n_places = attended.gene_ids.shape[1]
    genes = attended.gene_ids == batch.gene_ids[:, :n_places]
    shares = torch.zeros(batch.gene_ids.shape, device=x.device)
    shares[:, :n_places] = ((x - baseline) * gradient).sum(dim=-1).where(genes, 0.0)
    if network.linear_path is not None:
        weights = network.linear_path.weight(batch.gene_ids).detach()
        codes = codes[:, None].expand(batch.gene_ids.shape)
        shares = shares + batch.values * _stand_out(weights, codes)
    return shares


def _make_baseline(network: GeneTransformer, batch: TokenBatch, x: Tensor) -> Tensor:
    """Give what each token would be if its gene were not expressed; goes with (B, T, D).

    With continuous values that is the value 0. With a bin's vector it is that of bin 0 where every gene
    has a token; where only expressed genes have, the cell's mean token stands for one that is not there.
    """
    embedding = network.embedding
    if embedding.bin is None:
        return torch.zeros((), device=x.device)
    if network.config.tokens == "all":
        return embedding.gene(batch.gene_ids).detach() + embedding.bin.weight[0].detach()
    return pool_mean(x, batch.is_token)[:, None]


def _stand_out(logits: Tensor, codes: Tensor) -> Tensor:
    """Take the logit of a label less the mean of all, ``(..., C)`` and ``(...)`` to ``(...)``."""
    return logits.gather(-1, codes[..., None]).squeeze(-1) - logits.mean(dim=-1)
