"""One training in one process or several: what each of them needs, and how they find each other."""

import contextlib
import logging
import multiprocessing
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed
from lightning.fabric import Fabric
from lightning.fabric.plugins.environments.lightning import find_free_network_port
from safetensors.torch import load_file

from annotary.models.transformer.config import NetworkConfig, TrainingConfig
from annotary.models.transformer.device import choose_device
from annotary.models.transformer.epochs import EpochMetrics
from annotary.models.transformer.loop import Progress, TrainingCells, TrainingLoop
from annotary.models.transformer.network import GeneTransformer
from annotary.models.transformer.tokens import map_tokens, store_tokens

_ACCELERATORS = {"cpu": "cpu", "cuda": "gpu", "mps": "mps"}


@dataclass(frozen=True)
class Job:
    """A training as every process of it sees it.

    Attributes
    ----------
    folder
        Where tokens, codes and first weights lie.
    network, training
        Shape and training of the network.
    checkpoint
        File to go on from; None for none.
    """

    folder: Path
    network: NetworkConfig
    training: TrainingConfig
    checkpoint: Path | None

    @property
    def first_weights(self) -> Path:
        """File with weights to begin with, where there are some."""
        return self.folder / "first_weights.safetensors"

    def store_cells(self, side: str, cells: TrainingCells) -> None:
        """Write cells into the folder."""
        store_tokens(cells.tokens, self.folder / side)
        np.save(self.folder / f"{side}.npy", np.asarray(cells.codes, dtype=np.int64))

    def has_cells(self, side: str) -> bool:
        """Tell whether cells of this side were written."""
        return (self.folder / side).is_dir()

    def map_cells(self, side: str) -> TrainingCells:
        """Map cells that were written into memory."""
        return TrainingCells(map_tokens(self.folder / side), np.load(self.folder / f"{side}.npy"))


def run_job(job: Job, on_epoch: Callable[[EpochMetrics], None] = lambda metrics: None) -> Progress:
    """Train in this process, which is all of the training or, with ``LOCAL_RANK`` set, one part of it."""
    with _quiet_lightning():
        loop = _make_loop(job)
        loop.run(on_epoch)
    return loop.progress


def _make_loop(job: Job) -> TrainingLoop:
    """Join the other processes, and make the network with its first weights."""
    device = choose_device(job.training.device)
    fabric = Fabric(
        accelerator=_ACCELERATORS[device.type],
        devices=job.training.n_processes,
        strategy="ddp" if job.training.n_processes > 1 else "auto",
    )
    fabric.launch()
    torch.manual_seed(job.training.seed)
    network = GeneTransformer(job.network)
    if job.first_weights.is_file():
        # A pretrained network has no head for these classes; the rest must fit.
        network.load_state_dict(load_file(job.first_weights), strict=False)
    return TrainingLoop(
        fabric,
        network,
        job.training,
        job.map_cells("training"),
        job.map_cells("validation") if job.has_cells("validation") else None,
        checkpoint=job.checkpoint,
    )


@contextlib.contextmanager
def other_processes(job: Job) -> Iterator[None]:
    """Start the other processes of a training; this one is the first of them.

    Raises
    ------
    RuntimeError
        If one of them ends with an error.
    """
    n_others = job.training.n_processes - 1
    if n_others == 0:
        yield
        return
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(find_free_network_port()), "NODE_RANK": "0"}
    context = multiprocessing.get_context("spawn")
    others = [
        context.Process(target=_work, args=(job, address | {"LOCAL_RANK": str(rank)}), daemon=True)
        for rank in range(1, n_others + 1)
    ]
    for process in others:
        process.start()
    try:
        with _environment(address | {"LOCAL_RANK": "0"}):
            yield
        for process in others:
            process.join()
            if process.exitcode:
                raise RuntimeError(f"a training process ended with exit code {process.exitcode}")
    finally:
        for process in others:
            process.kill()
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def _work(job: Job, variables: dict[str, str]) -> None:
    """Be one of the other processes."""
    torch.set_num_threads(max(1, torch.get_num_threads() // job.training.n_processes))
    with _environment(variables):
        run_job(job)
        torch.distributed.destroy_process_group()


@contextlib.contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Set environment variables for a while: how Fabric learns who it is."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Silence Lightning's notes on devices and its tips inside the block."""
    loggers = [logging.getLogger(name) for name in ("lightning.fabric", "lightning.pytorch")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
