"""What happens in an epoch: steps, measures, and the weights of the best one kept."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import lightning.pytorch as pl
import torch
import torch.nn.functional as F  # noqa: N812
from lightning.pytorch.callbacks import Callback
from sklearn.metrics import f1_score
from torch import Tensor

from annotary.models.transformer.batches import Batch
from annotary.models.transformer.network import GeneTransformer
from annotary.progress import track

MONITOR = "validation_macro_f1"


@dataclass(frozen=True)
class EpochMetrics:
    """How one epoch went.

    Attributes
    ----------
    epoch
        Counted from 1.
    train_loss
        Class-weighted cross entropy with dropout, mean over the epoch's batches by their cells.
    validation_loss
        Class-weighted cross entropy of all validation cells after the epoch.
    validation_macro_f1
        Mean F1 of the classes that are in the validation labels or predictions.
    validation_accuracy
        Share of validation cells that are right.
    seconds
        Wall time of training and validation.
    cells_per_second
        Training cells by the wall time of training alone.
    """

    epoch: int
    train_loss: float
    validation_loss: float
    validation_macro_f1: float
    validation_accuracy: float
    seconds: float
    cells_per_second: float


def best_epoch(history: list[EpochMetrics]) -> EpochMetrics:
    """Choose the epoch whose weights are kept: best macro-F1, then smallest loss, then earliest."""
    return max(history, key=lambda epoch: (epoch.validation_macro_f1, -epoch.validation_loss))


class TransformerTraining(pl.LightningModule):
    """Loss, optimiser, and what an epoch's steps add up to.

    Parameters
    ----------
    network
        The network to train.
    class_weights
        Weight of each class in the loss, ``(n_classes,)``.
    learning_rate
        Adam's learning rate.
    """

    class_weights: Tensor

    def __init__(self, network: GeneTransformer, class_weights: Tensor, *, learning_rate: float) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("class_weights", class_weights)
        self.learning_rate = learning_rate
        self.train_losses: list[Tensor] = []
        self.validation_outputs: list[tuple[Tensor, Tensor]] = []
        self.validation_loss = self.macro_f1 = self.accuracy = float("nan")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Take Adam with a constant rate."""
        return torch.optim.Adam(self.network.parameters(), lr=self.learning_rate)

    def on_train_epoch_start(self) -> None:
        """Forget the last epoch's losses."""
        self.train_losses.clear()

    def training_step(self, batch: Batch, _: int) -> Tensor:
        """Compute the loss of a batch."""
        *tokens, codes = batch
        loss = F.cross_entropy(self.network(*tokens).float(), codes, weight=self.class_weights)
        self.train_losses.append(loss.detach() * len(codes))
        return loss

    def validation_step(self, batch: Batch, _: int) -> None:
        """Keep the logits of a batch."""
        *tokens, codes = batch
        self.validation_outputs.append((self.network(*tokens).float(), codes))

    def on_validation_epoch_end(self) -> None:
        """Measure all validation cells at once: batch means would not add up to class-weighted ones."""
        logits, codes = (torch.cat(parts) for parts in zip(*self.validation_outputs, strict=True))
        self.validation_outputs.clear()
        self.validation_loss = F.cross_entropy(logits, codes, weight=self.class_weights).item()
        truth, predicted = codes.cpu().numpy(), logits.argmax(dim=1).cpu().numpy()
        self.macro_f1 = float(f1_score(truth, predicted, average="macro"))
        self.accuracy = float((truth == predicted).mean())
        self.log(MONITOR, self.macro_f1)


class EpochRecorder(Callback):
    """Time epochs, report them, and keep the weights of the best.

    Attributes
    ----------
    history
        Metrics of every epoch so far.
    best_weights
        State of the network after the best of them, on the CPU.
    bar
        Progress over epochs.
    """

    def __init__(self, n_cells: int, max_epochs: int, on_epoch: Callable[[EpochMetrics], None]) -> None:
        self.history: list[EpochMetrics] = []
        self.best_weights: dict[str, Tensor] = {}
        self.bar = track(range(max_epochs), "transformer", unit="epoch")
        self._n_cells = n_cells
        self._on_epoch = on_epoch
        self._started = self._trained = 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Start the clock."""
        self._started = time.perf_counter()

    def on_validation_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Note when training gave way to validation."""
        self._trained = time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, module: TransformerTraining) -> None:  # type: ignore[override]
        """Record the epoch: Lightning calls this after its validation."""
        metrics = EpochMetrics(
            epoch=trainer.current_epoch + 1,
            train_loss=torch.stack(module.train_losses).sum().item() / self._n_cells,
            validation_loss=module.validation_loss,
            validation_macro_f1=module.macro_f1,
            validation_accuracy=module.accuracy,
            seconds=time.perf_counter() - self._started,
            cells_per_second=self._n_cells / (self._trained - self._started),
        )
        self.history.append(metrics)
        if best_epoch(self.history) is metrics:
            state = module.network.state_dict()
            self.best_weights = {name: weight.to("cpu", copy=True) for name, weight in state.items()}
        self.bar.set_postfix(
            loss=f"{metrics.train_loss:.3f}", F1=f"{metrics.validation_macro_f1:.3f}", refresh=False
        )
        self.bar.update()
        self._on_epoch(metrics)
