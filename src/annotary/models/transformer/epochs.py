"""What is known of a training's epochs, and which of them is kept."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class EpochMetrics:
    """How one epoch went; what is said of validation cells is NaN where there are none.

    Attributes
    ----------
    epoch
        Counted from 1.
    train_loss
        The loss that is trained on, mean over the epoch's batches by their cells.
    validation_loss
        Class-weighted cross entropy of all validation cells after the epoch.
    validation_macro_f1
        Mean F1 of the classes that are in the validation labels or predictions.
    validation_accuracy
        Share of validation cells that are right.
    learning_rate
        Learning rate of the epoch's last step.
    seconds
        Wall time of training and validation.
    cells_per_second
        Training cells by the wall time of training alone.
    loading_share
        Share of the wall time of training that went into making batches, 0 to 1.
    """

    epoch: int
    train_loss: float
    validation_loss: float
    validation_macro_f1: float
    validation_accuracy: float
    learning_rate: float
    seconds: float
    cells_per_second: float
    loading_share: float


def best_epoch(history: list[EpochMetrics]) -> EpochMetrics:
    """Choose the epoch whose weights are kept: best macro-F1, then smallest loss, then earliest.

    Without validation cells it is the last one.
    """
    if math.isnan(history[-1].validation_macro_f1):
        return history[-1]
    return max(history, key=lambda epoch: (epoch.validation_macro_f1, -epoch.validation_loss))
