"""Training: labelled cells in, the network of the best epoch out."""

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from annotary.models.transformer.config import NetworkConfig, TrainingConfig
from annotary.models.transformer.device import choose_device
from annotary.models.transformer.epochs import EpochMetrics, best_epoch
from annotary.models.transformer.loop import Progress, TrainingCells
from annotary.models.transformer.network import GeneTransformer
from annotary.models.transformer.processes import Job, other_processes, run_job
from annotary.models.transformer.tokens import tokenize
from annotary.progress import track
from annotary.quality.prepare import PreparedCells

__all__ = ["EpochMetrics", "best_epoch", "fit_transformer"]


def fit_transformer(
    train_cells: PreparedCells,
    train_codes: np.ndarray,
    validation_cells: PreparedCells | None,
    validation_codes: np.ndarray | None,
    *,
    network: NetworkConfig,
    training: TrainingConfig,
    on_epoch: Callable[[EpochMetrics], None] = lambda metrics: None,
    checkpoint: Path | None = None,
    first_weights: dict[str, Tensor] | None = None,
) -> tuple[GeneTransformer, list[EpochMetrics]]:
    """Train a network and keep its best epoch.

    The same seed gives the same numbers on the same machine, in one go or after a kill. The caller's
    random generators stay as they are. Training computes in bfloat16 where the device has it.

    Parameters
    ----------
    train_cells
        Panel counts and depth of cells to train on, ``(n_train, n_genes)``.
    train_codes
        Class codes 0 to ``n_classes - 1``, ``(n_train,)``.
    validation_cells, validation_codes
        Cells that decide when to stop and which epoch to keep, ``(n_validation, ...)``; None trains all
        epochs and keeps the last.
    network, training
        Shape of the network, and how it is trained.
    on_epoch
        Called as each epoch ends.
    checkpoint
        File that the training is kept in and goes on from; it is removed at the end.
    first_weights
        Weights to begin with, by their names; the others are drawn.

    Returns
    -------
    The network of the best epoch, on the CPU and in evaluation mode, and the metrics of every epoch.

    Raises
    ------
    GeneOverlapError
        If cells have another number of genes than the network.
    ConfigError
        If the device is not there.
    """
    choose_device(training.device)
    with tempfile.TemporaryDirectory(prefix="annotary-") as folder, _forked_random_state():
        job = Job(Path(folder), network, training, checkpoint)
        job.store_cells("training", TrainingCells(tokenize(network, train_cells), train_codes))
        if validation_cells is not None and validation_codes is not None:
            job.store_cells(
                "validation", TrainingCells(tokenize(network, validation_cells), validation_codes)
            )
        if first_weights is not None:
            save_file(first_weights, job.first_weights)
        progress = _run(job, on_epoch)
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)
    return _make_trained(network, progress.best_weights), progress.history


def _make_trained(network: NetworkConfig, weights: dict[str, Tensor]) -> GeneTransformer:
    """Make a network of weights, without drawing any."""
    with torch.device("meta"):
        trained = GeneTransformer(network)
    trained.load_state_dict(weights, assign=True)
    return trained.eval()


def _run(job: Job, on_epoch: Callable[[EpochMetrics], None]) -> Progress:
    """Train with a progress bar, in as many processes as asked for."""
    with track(None, "transformer", total=job.training.max_epochs, unit="epoch") as bar:

        def tell(metrics: EpochMetrics) -> None:
            bar.set_postfix(
                loss=f"{metrics.train_loss:.3f}", F1=f"{metrics.validation_macro_f1:.3f}", refresh=False
            )
            bar.update(metrics.epoch - bar.n)
            on_epoch(metrics)

        with other_processes(job):
            return run_job(job, tell)


@contextlib.contextmanager
def _forked_random_state() -> Iterator[None]:
    """Restore torch's random generators after the block."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        yield
