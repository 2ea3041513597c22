"""The loss: cross entropy that rare classes have a fair say in."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from annotary.network_options import LossMode


@dataclass(frozen=True)
class ClassLoss:
    """Cross entropy of class codes.

    Attributes
    ----------
    weights
        Weight of each class, ``(n_classes,)``.
    offsets
        Added to the logits in training, ``(n_classes,)``: with the logarithm of the class shares the
        network learns logits for classes of equal size (Menon et al. 2021, arXiv:2007.07314).
    label_smoothing
        Share of the target spread over all classes, 0 to 1.
    """

    weights: Tensor
    offsets: Tensor
    label_smoothing: float

    def to(self, device: torch.device) -> "ClassLoss":
        """Move to a device."""
        return ClassLoss(self.weights.to(device), self.offsets.to(device), self.label_smoothing)

    def __call__(self, logits: Tensor, codes: Tensor, *, total_weight: float) -> Tensor:
        """Add up the losses of some cells, over the weight of the whole batch.

        Parameters
        ----------
        logits, codes
            ``(B, C)`` and ``(B,)``.
        total_weight
            Weights of all cells of the batch added up; these may be a part of it.
        """
        total = F.cross_entropy(
            logits.float() + self.offsets,
            codes,
            weight=self.weights,
            label_smoothing=self.label_smoothing,
            reduction="sum",
        )
        return total / total_weight


def make_loss(codes: np.ndarray, n_classes: int, *, mode: LossMode, label_smoothing: float) -> ClassLoss:
    """Make the loss of training cells with these codes ``(n_cells,)``."""
    sizes = np.bincount(codes, minlength=n_classes)
    weights, offsets = np.ones(n_classes), np.zeros(n_classes)
    if mode == "balanced":
        weights = balance_classes(codes, n_classes)
    elif mode == "logit_adjusted":
        offsets = np.log(np.maximum(sizes, 1) / len(codes))
    return ClassLoss(
        weights=torch.tensor(weights, dtype=torch.float32),
        offsets=torch.tensor(offsets, dtype=torch.float32),
        label_smoothing=label_smoothing,
    )


def balance_classes(codes: np.ndarray, n_classes: int) -> np.ndarray:
    """Weigh classes against their size, as scikit-learn's ``balanced`` does, ``(n_classes,)``."""
    sizes = np.bincount(codes, minlength=n_classes)
    return len(codes) / (n_classes * np.maximum(sizes, 1))
