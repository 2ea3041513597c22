"""Optimisers: AdamW for what all tokens share, and an Adam for each gene's own weights.

AdamW divides each weight's step by the size of that weight's own gradients. For weights that belong to a
gene this makes rare genes learn as fast as common ones, which is what scaling genes to unit variance does to
a linear model, and costs as much. An embedding's steps are divided by the size of all its gradients instead,
one number for the whole matrix, after Adam-mini (Zhang et al. 2024, arXiv:2406.16793).
"""

from collections.abc import Iterable

import torch
from torch import nn

from annotary.models.transformer.config import TrainingConfig
from annotary.models.transformer.network import GeneTransformer

_BETAS = (0.9, 0.98)
_EPS = 1e-12


class MatrixAdam(torch.optim.Optimizer):
    """Adam with one second moment for each tensor.

    Parameters
    ----------
    groups
        Tensors, or groups of them with their own ``lr`` and ``weight_decay``.
    lr
        Root mean square of a step's change, of weights whose gradients keep their size.
    """

    def __init__(
        self,
        groups: Iterable[nn.Parameter] | list[dict[str, object]],
        *,
        lr: float,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(groups, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take a step along the gradients."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["step"] = torch.zeros((), device=weight.device)
                    state["mean"] = torch.zeros_like(weight)
                    state["square"] = torch.zeros((), device=weight.device)
                state["step"] += 1
                state["mean"].lerp_(weight.grad, 1 - _BETAS[0])
                state["square"].lerp_(weight.grad.square().mean(), 1 - _BETAS[1])
                mean_share, square_share = (1 - beta ** state["step"] for beta in _BETAS)
                size = (state["square"] / square_share).sqrt() * mean_share + _EPS
                weight.sub_(state["mean"] * (group["lr"] / size))


def make_optimizers(
    network: GeneTransformer, training: TrainingConfig
) -> tuple[torch.optim.AdamW, MatrixAdam]:
    """Make the optimisers of what tokens share and of what is each gene's.

    Each group has the ``highest_lr`` that a schedule takes its share of.
    """
    rates = {id(network.embedding.gene.weight): training.gene_learning_rate}
    if network.linear_path is not None:
        rates[id(network.linear_path.weight.weight)] = training.linear_learning_rate
    weights = list(network.parameters())
    shared = [weight for weight in weights if id(weight) not in rates]
    adam = torch.optim.AdamW(
        [
            {"params": [one for one in shared if one.ndim > 1], "weight_decay": training.weight_decay},
            {"params": [one for one in shared if one.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=training.learning_rate,
        betas=_BETAS,
    )
    own = [{"params": [one], "lr": rates[id(one)]} for one in weights if id(one) in rates]
    matrix_adam = MatrixAdam(own, lr=training.gene_learning_rate)
    for group in (*adam.param_groups, *matrix_adam.param_groups):
        group["highest_lr"] = group["lr"]
    return adam, matrix_adam
