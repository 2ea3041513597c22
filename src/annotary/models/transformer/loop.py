"""The training loop on Lightning Fabric: steps, epochs, checkpoints.

Every random number of a step comes from the seed and the step's number, so that a training that was killed
goes on with the numbers that it would have had.
"""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
import torch
from lightning.fabric import Fabric
from scipy.special import log_softmax
from sklearn.metrics import f1_score
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from annotary.data.atomic import replacing
from annotary.models.transformer.batches import make_batch, order_by_length
from annotary.models.transformer.config import NetworkConfig, TrainingConfig
from annotary.models.transformer.device import multiply_in_bfloat16
from annotary.models.transformer.epochs import EpochMetrics, best_epoch
from annotary.models.transformer.inference import predict_logits
from annotary.models.transformer.losses import balance_classes, make_loss
from annotary.models.transformer.network import GeneTransformer
from annotary.models.transformer.optimizer import make_optimizers
from annotary.models.transformer.tokens import TokenizedCells

_CHECKPOINT_S = 30.0


@dataclass(frozen=True)
class TrainingCells:
    """Cells with their labels.

    Attributes
    ----------
    tokens
        Tokens of the cells.
    codes
        Class codes, ``(n_cells,)``, int64.
    """

    tokens: TokenizedCells
    codes: np.ndarray


@dataclass
class Progress:
    """How far a training has come; with weights and optimiser, all that a checkpoint holds.

    Attributes
    ----------
    step
        Optimiser steps done.
    epoch_loss, epoch_seconds, loading_seconds
        Loss times cells, wall time, and wall time of making batches, added up since the epoch began.
    n_parts
        Parts that a batch is computed in, one after the other; doubled where memory runs out.
    history
        Metrics of every epoch that ended.
    best_weights
        Averaged weights after the best of them, on the CPU.
    """

    step: int = 0
    epoch_loss: float = 0.0
    epoch_seconds: float = 0.0
    loading_seconds: float = 0.0
    n_parts: int = 1
    history: list[EpochMetrics] = field(default_factory=list)
    best_weights: dict[str, Tensor] = field(default_factory=dict)


class TrainingLoop:
    """Train a network on some cells, and keep the averaged weights that label other cells best.

    Parameters
    ----------
    fabric
        Device, and the processes that share each batch.
    network
        The network, with its first weights.
    training
        How it is trained.
    cells, validation_cells
        Cells to train on, and cells that decide when to stop and which epoch to keep; without these all
        epochs are trained, and the last is kept.
    checkpoint
        File that the training is written to every half a minute, and goes on from if it is there; None
        for no such file.
    """

    def __init__(
        self,
        fabric: Fabric,
        network: GeneTransformer,
        training: TrainingConfig,
        cells: TrainingCells,
        validation_cells: TrainingCells | None,
        *,
        checkpoint: Path | None = None,
    ) -> None:
        self.fabric = fabric
        self.config: NetworkConfig = network.config
        self.training = training
        self.cells = cells
        self.validation_cells = validation_cells
        self.progress = Progress()
        self._checkpoint = checkpoint
        self.raw_network = network
        self.network, *self.optimizers = fabric.setup(network, *make_optimizers(network, training))
        self.average = AveragedModel(network, multi_avg_fn=average_weights(training.ema_decay))
        self.loss = make_loss(
            cells.codes,
            self.config.n_classes,
            mode=training.loss,
            label_smoothing=training.label_smoothing,
        ).to(fabric.device)

    @property
    def n_batches(self) -> int:
        """Batches of an epoch."""
        return -(-len(self.cells.codes) // self.training.batch_size)

    def run(self, on_epoch: Callable[[EpochMetrics], None]) -> None:
        """Train to the end, from a checkpoint if there is one; report each epoch as it ends."""
        self._restore()
        while not self._is_done():
            self._train_epoch()
            metrics = self._end_epoch()
            self.save()
            on_epoch(metrics)

    def _is_done(self) -> bool:
        """Tell whether the last epoch is over, or nothing got better for too long."""
        history = self.progress.history
        if not history:
            return False
        waited = history[-1].epoch - best_epoch(history).epoch
        return len(history) >= self.training.max_epochs or waited >= self.training.patience

    def _train_epoch(self) -> None:
        """Take the steps of an epoch that are not done yet."""
        epoch = len(self.progress.history)
        rng = np.random.default_rng([self.training.seed, epoch])
        batches = order_by_length(self.cells.tokens.lengths, self.training.batch_size, rng)
        saved = time.monotonic()
        self.network.train()
        for rows in batches[self.progress.step - epoch * self.n_batches :]:
            started = time.perf_counter()
            self.progress.epoch_loss += self.take_step(rows) * len(rows)
            self.progress.step += 1
            self.progress.epoch_seconds += time.perf_counter() - started
            if time.monotonic() - saved > _CHECKPOINT_S:
                self.save()
                saved = time.monotonic()

    def take_step(self, rows: np.ndarray) -> float:
        """Take one optimiser step on a batch of cells ``(B,)``; return its loss.

        Where memory runs out the step begins again with the batch in twice as many parts, whose gradients
        add up to the same.
        """
        while True:
            try:
                return self._try_step(rows)
            except torch.OutOfMemoryError:
                self.progress.n_parts *= 2
                if self.progress.n_parts >= 2 * len(rows):
                    raise
                self.network.zero_grad()

    def _try_step(self, rows: np.ndarray) -> float:
        """Take a step, part by part."""
        training, fabric, step = self.training, self.fabric, self.progress.step
        share = schedule(step, self.n_batches, training)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = share * group["highest_lr"]
        own = rows[fabric.global_rank :: fabric.world_size]
        stream = np.random.SeedSequence([training.seed, step, fabric.global_rank])
        torch.manual_seed(int(stream.generate_state(1)[0]))
        started = time.perf_counter()
        rng = np.random.default_rng(stream)
        batch = make_batch(self.cells.tokens, own, self.config, training=training, rng=rng).to(fabric.device)
        codes = torch.from_numpy(self.cells.codes[own]).to(fabric.device)
        self.progress.loading_seconds += time.perf_counter() - started
        # Processes average their gradients; a process's own share of the batch may be a cell larger.
        weights = self.loss.weights[torch.from_numpy(self.cells.codes[rows]).to(fabric.device)]
        total_weight = weights.sum().item() / fabric.world_size
        parts = np.array_split(np.arange(len(own)), min(self.progress.n_parts, max(len(own), 1)))
        loss = 0.0
        for part in parts:
            cut = slice(int(part[0]), int(part[-1]) + 1) if len(part) else slice(0, 0)
            with fabric.no_backward_sync(self.network, enabled=part is not parts[-1]):
                with multiply_in_bfloat16(fabric.device):
                    logits = self.network(batch.take(cut))
                own_loss = self.loss(logits, codes[cut], total_weight=total_weight)
                fabric.backward(own_loss)
            loss += own_loss.item()
        fabric.clip_gradients(self.network, self.optimizers[0], max_norm=training.max_gradient_norm)
        for optimizer in self.optimizers:
            optimizer.step()
        self.network.zero_grad()
        self.average.update_parameters(self.raw_network)
        return cast(Tensor, fabric.all_reduce(torch.tensor(loss), reduce_op="mean")).item()

    def _end_epoch(self) -> EpochMetrics:
        """Label the validation cells with the averaged weights, and keep these if they are the best."""
        started = time.perf_counter()
        network = cast(GeneTransformer, self.average.module.eval())
        progress = self.progress
        loss, macro_f1, accuracy = self._validate(network)
        metrics = EpochMetrics(
            epoch=len(progress.history) + 1,
            train_loss=progress.epoch_loss / len(self.cells.codes),
            validation_loss=loss,
            validation_macro_f1=macro_f1,
            validation_accuracy=accuracy,
            learning_rate=self.optimizers[0].param_groups[0]["lr"],
            seconds=progress.epoch_seconds + time.perf_counter() - started,
            cells_per_second=len(self.cells.codes) / progress.epoch_seconds,
            loading_share=progress.loading_seconds / progress.epoch_seconds,
        )
        progress.history.append(metrics)
        if best_epoch(progress.history) is metrics:
            state = network.state_dict()
            progress.best_weights = {name: weight.to("cpu", copy=True) for name, weight in state.items()}
        progress.epoch_loss = progress.epoch_seconds = progress.loading_seconds = 0.0
        return metrics

    def _validate(self, network: GeneTransformer) -> tuple[float, float, float]:
        """Label the validation cells: loss, macro-F1 and accuracy, NaN where there are none."""
        cells = self.validation_cells
        if cells is None:
            return math.nan, math.nan, math.nan
        with multiply_in_bfloat16(self.fabric.device):
            logits = predict_logits(network, cells.tokens, self.fabric.device)
        predicted = logits.argmax(axis=1)
        return (
            _compute_loss(logits, cells.codes, self.cells.codes),
            float(f1_score(cells.codes, predicted, average="macro")),
            float((predicted == cells.codes).mean()),
        )

    def save(self) -> None:
        """Write the checkpoint, whole or not at all; only the first of several processes does."""
        if self._checkpoint is None or not self.fabric.is_global_zero:
            return
        progress = asdict(self.progress) | {"best_weights": self.progress.best_weights}
        with replacing(self._checkpoint) as temporary:
            torch.save({name: one.state_dict() for name, one in self._list_states()} | progress, temporary)

    def _restore(self) -> None:
        """Go on from the checkpoint, if there is one."""
        if self._checkpoint is None or not self._checkpoint.is_file():
            return
        saved = torch.load(self._checkpoint, map_location=self.fabric.device, weights_only=True)
        for name, one in self._list_states():
            one.load_state_dict(saved.pop(name))
        history = [EpochMetrics(**metrics) for metrics in saved.pop("history")]
        best = {name: weight.cpu() for name, weight in saved.pop("best_weights").items()}
        self.progress = Progress(**saved, history=history, best_weights=best)

    def _list_states(self) -> list[tuple[str, nn.Module | torch.optim.Optimizer]]:
        """List what has a state of its own."""
        optimizers = [(f"optimizer_{number}", one) for number, one in enumerate(self.optimizers)]
        return [("network", self.raw_network), ("average", self.average), *optimizers]


Weights = tuple[Tensor, ...] | list[Tensor]


def average_weights(decay: float) -> Callable[[Weights, Weights, Tensor | int], None]:
    """Make a running mean of weights whose decay grows to ``decay``: the first weights are soon forgotten."""

    @torch.no_grad()
    def update(averaged: Weights, current: Weights, n_averaged: Tensor | int) -> None:
        n_steps = float(n_averaged)
        share = 1 - min(decay, (1 + n_steps) / (10 + n_steps))
        torch._foreach_lerp_(averaged, current, share)

    return update


def schedule(step: int, n_batches: int, training: TrainingConfig) -> float:
    """Give a step's share of the highest learning rate: a linear rise, then a cosine to zero, 0 to 1."""
    n_steps = n_batches * training.max_epochs
    n_warmup = training.warmup * n_steps
    if step < n_warmup:
        return (step + 1) / (n_warmup + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - n_warmup) / max(n_steps - n_warmup, 1)))


def _compute_loss(logits: np.ndarray, codes: np.ndarray, train_codes: np.ndarray) -> float:
    """Compute class-weighted cross entropy of validation cells, weights by the training cells."""
    weights = balance_classes(train_codes, logits.shape[1])[codes]
    losses = -log_softmax(logits, axis=1)[np.arange(len(codes)), codes]
    return float(np.average(losses, weights=weights))
