"""Training on Lightning: class-weighted loss, early stopping, the best epoch's weights."""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import EarlyStopping
from torch import Tensor

from annotary.models.transformer.batches import LengthBatches
from annotary.models.transformer.config import NetworkConfig, TrainingConfig
from annotary.models.transformer.device import choose_device
from annotary.models.transformer.epochs import (
    MONITOR,
    EpochMetrics,
    EpochRecorder,
    TransformerTraining,
    best_epoch,
)
from annotary.models.transformer.network import GeneTransformer
from annotary.models.transformer.tokens import tokenize_for
from annotary.quality.prepare import PreparedCells

__all__ = ["EpochMetrics", "best_epoch", "fit_transformer"]


def fit_transformer(
    train_cells: PreparedCells,
    train_codes: np.ndarray,
    validation_cells: PreparedCells,
    validation_codes: np.ndarray,
    *,
    network: NetworkConfig,
    training: TrainingConfig,
    on_epoch: Callable[[EpochMetrics], None],
) -> tuple[GeneTransformer, list[EpochMetrics]]:
    """Train a network and keep its best epoch.

    The same seed gives the same numbers on the same machine. The caller's
    random generators are left as they are, and no file is written. On CUDA
    the forward passes run in bfloat16 where the GPU has it.

    Parameters
    ----------
    train_cells
        Panel counts ``(n_train, n_genes)``.
    train_codes
        Class codes 0 to ``n_classes - 1``, ``(n_train,)``.
    validation_cells, validation_codes
        Cells that decide when to stop and which epoch to keep, ``(n_validation, ...)``.
    network
        Shape of the network.
    training
        How it is trained.
    on_epoch
        Called as each epoch ends.

    Returns
    -------
    The network of the best epoch, on the CPU and in evaluation mode, and the metrics of every epoch.

    Raises
    ------
    GeneOverlapError
        If cells have another number of genes than the network.
    ConfigError
        If CUDA is asked for and not there.
    """
    device = choose_device(training.device)
    rng = np.random.default_rng(training.seed)
    train_batches = LengthBatches(
        tokenize_for(network, train_cells.counts), train_codes, training.batch_size, rng
    )
    validation_batches = LengthBatches(
        tokenize_for(network, validation_cells.counts), validation_codes, training.batch_size
    )
    with _forked_random_state(training.seed), _quiet_lightning():
        model = GeneTransformer(network)
        recorder = EpochRecorder(len(train_codes), training.max_epochs, on_epoch)
        weights = balance_classes(train_codes, network.n_classes)
        module = TransformerTraining(model, weights, learning_rate=training.learning_rate)
        with recorder.bar:
            _make_trainer(device, training, recorder).fit(module, train_batches, validation_batches)
    model.load_state_dict(recorder.best_weights)
    return model.cpu().eval(), recorder.history


def _make_trainer(device: torch.device, training: TrainingConfig, recorder: EpochRecorder) -> pl.Trainer:
    """Make a trainer that stops early, and that writes and prints nothing itself."""
    return pl.Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=1,
        precision=_precision(device),
        max_epochs=training.max_epochs,
        callbacks=[EarlyStopping(MONITOR, mode="max", patience=training.patience), recorder],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )


def balance_classes(codes: np.ndarray, n_classes: int) -> Tensor:
    """Weigh classes against their size, as scikit-learn's ``balanced`` does, ``(n_classes,)``."""
    sizes = np.bincount(codes, minlength=n_classes)
    return torch.tensor(len(codes) / (n_classes * np.maximum(sizes, 1)), dtype=torch.float32)


def _precision(device: torch.device) -> Literal["bf16-mixed", "32-true"]:
    """Take bfloat16 where a GPU computes it natively; an emulated one is slower than float32."""
    native = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16-mixed" if native else "32-true"


@contextmanager
def _forked_random_state(seed: int) -> Iterator[None]:
    """Seed torch inside the block and restore its generators after it."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Silence Lightning's notes on devices and its tips inside the block."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
