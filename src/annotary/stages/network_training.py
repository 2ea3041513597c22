"""The transformer's trainings: with validation cells that watch, in trials of a search, and again on both."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from annotary.config import TransformerConfig
from annotary.data.dataset import DatasetRecord
from annotary.data.hashing import hash_strings
from annotary.evaluation.figures import draw_losses
from annotary.log import say
from annotary.models.transformer.config import NetworkConfig, TrainingConfig
from annotary.models.transformer.network import GeneTransformer
from annotary.models.transformer.training import EpochMetrics, best_epoch, fit_transformer
from annotary.network_options import NetworkOptions, NetworkTuningOptions
from annotary.quality.prepare import PreparedCells
from annotary.stages.network_search import choose_network
from annotary.stages.network_start import Start
from annotary.tracking import StageRun, find_checkpoints

Labelled = tuple[PreparedCells, np.ndarray]
"""Prepared cells ``(n_cells, n_genes)`` with their encoded labels ``(n_cells,)``."""

_NOT_DECISIVE = {"dataset", "ontology", *NetworkTuningOptions.model_fields}


@dataclass(frozen=True)
class NetworkTraining:
    """What all trainings of one run share.

    Attributes
    ----------
    config
        Options of the networks.
    record
        What the dataset is.
    training, validation
        Cells to train on, and cells that decide when to stop.
    start
        What the networks begin with.
    run
        Where it is logged.
    """

    config: TransformerConfig
    record: DatasetRecord
    training: Labelled
    validation: Labelled
    start: Start
    run: StageRun

    def tune(self) -> "NetworkTraining":
        """Choose the options of the networks, where a search is asked for."""

        def train(options: NetworkOptions, on_epoch: Callable[[EpochMetrics], None]) -> list[EpochMetrics]:
            shape, plan = self._plan(options, self.config.seed)
            return fit_transformer(
                *self.training,
                *self.validation,
                network=shape,
                training=plan,
                on_epoch=on_epoch,
                first_weights=self.start(shape, self.config.seed),
            )[1]

        return replace(self, config=choose_network(self.config, self.record, train, self.run))

    def train(self, number: int) -> tuple[GeneTransformer, int]:
        """Train one of the networks; log its epochs as they come, then their curves.

        Returns
        -------
        The network of the best epoch, and the number of epochs that were trained.
        """

        def log(epoch: EpochMetrics) -> None:
            values = asdict(epoch)
            self.run.log_metrics({f"{prefix}{key}": value for key, value in values.items()}, step=epoch.epoch)

        prefix = f"network_{number}." if number else ""
        seed = self.config.seed + number
        shape, plan = self._plan(self.config, seed)
        network, epochs = fit_transformer(
            *self.training,
            *self.validation,
            network=shape,
            training=plan,
            on_epoch=log,
            checkpoint=self._name_checkpoint(f"{number}"),
            first_weights=self.start(shape, seed),
        )
        table, best = pd.DataFrame([asdict(epoch) for epoch in epochs]), best_epoch(epochs)
        name = f"_network_{number}" if number else ""
        self.run.log_table(table, f"epochs{name}", index=False)
        self.run.log_figure(draw_losses(table, kept=best.epoch), f"losses{name}")
        say(f"transformer: validation macro-F1 {best.validation_macro_f1:.3f} at epoch {best.epoch}")
        return network, len(epochs)

    def refit(self, cells: Labelled, number: int, n_epochs: int) -> GeneTransformer:
        """Train one of the networks again on other cells, with none that tell when to stop."""
        seed = self.config.seed + number
        shape, plan = self._plan(self.config, seed)
        network, _ = fit_transformer(
            *cells,
            None,
            None,
            network=shape,
            training=replace(plan, max_epochs=n_epochs),
            checkpoint=self._name_checkpoint(f"{number} refit"),
            first_weights=self.start(shape, seed),
        )
        return network

    def _plan(self, options: NetworkOptions, seed: int) -> tuple[NetworkConfig, TrainingConfig]:
        """Fix the shape of a network, and how it is trained."""
        n_genes, n_classes = self.training[0].counts.shape[1], len(self.record.label_names)
        shape = NetworkConfig.from_options(options, n_genes=n_genes, n_classes=n_classes)
        return shape, TrainingConfig.from_options(options, seed=seed, device=self.config.device)

    def _name_checkpoint(self, name: str) -> Path:
        """Name the file that a killed training of the same dataset and settings goes on from."""
        settings = self.config.model_dump_json(exclude=_NOT_DECISIVE)
        key = hash_strings([self.record.dataset_hash, settings, name])
        return find_checkpoints() / f"transformer-{key[:32]}.ckpt"
