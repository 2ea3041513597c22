"""transformer: train the self-attention network, log it."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from annotary import keys
from annotary.config import TransformerConfig
from annotary.data.dataset import Dataset, read_dataset
from annotary.data.hashing import hash_strings
from annotary.evaluation.figures import draw_losses
from annotary.log import say
from annotary.models.transformer.classifier import TransformerAnnotator
from annotary.models.transformer.config import NetworkConfig, TrainingConfig
from annotary.models.transformer.network import GeneTransformer
from annotary.models.transformer.training import EpochMetrics, best_epoch, fit_transformer
from annotary.quality.panel import SCORE, choose_panel
from annotary.quality.prepare import InputSpec, PreparedCells
from annotary.registry import Candidate, log_bundle
from annotary.stages.candidates import (
    hold_out_validation,
    make_bundle,
    make_spec,
    read_label_terms,
    take_fitted,
)
from annotary.stages.held_out_table import log_held_out
from annotary.stages.network_genes import log_gene_contributions
from annotary.tracking import StageRun, fetch, find_checkpoints, stage_run

Labelled = tuple[PreparedCells, np.ndarray]
"""Prepared cells ``(n_cells, n_genes)`` with their encoded labels ``(n_cells,)``."""


def transformer(config: TransformerConfig) -> Candidate:
    """Train on training cells, stop by validation macro-F1, train again on both, log that as a model.

    What the model's confidence means is learned from what the first networks say of the validation cells.
    """
    with stage_run("transformer", config) as run:
        path = fetch(config.dataset)
        dataset = read_dataset(path)
        run.log_dataset(dataset, path, context="training")
        terms = read_label_terms(config.ontology, dataset.record.label_names)
        spec = make_spec(dataset, _choose_panel(config, dataset))
        training, validation = (_prepare(spec, dataset, side) for side in (keys.TRAIN, keys.VALIDATION))
        job = _Training(config, dataset, run)
        trained = [job.train(training, validation, number) for number in range(config.n_networks)]
        annotator = TransformerAnnotator([network for network, _ in trained])
        log_gene_contributions(
            run,
            annotator,
            *validation,
            panel=spec.panel,
            label_names=dataset.record.label_names,
            seed=config.seed,
            device=config.device,
        )
        said = annotator.predict_proba(validation[0], device=config.device)
        held_out = hold_out_validation(said, spec, dataset)
        cell_ids = dataset.take(keys.VALIDATION).cell_ids
        log_held_out(run, annotator.kind, cell_ids, held_out.probabilities, dataset.record.label_names)
        fitted = [keys.TRAIN]
        if config.refit:
            fitted.append(keys.VALIDATION)
            both = _prepare(spec, dataset, *fitted)
            lengths = [n_epochs for _, n_epochs in trained]
            annotator = TransformerAnnotator([job.refit(both, number, n) for number, n in enumerate(lengths)])
        bundle = make_bundle(
            annotator,
            spec,
            dataset,
            held_out=held_out,
            fitted=take_fitted(spec, dataset, *fitted),
            options=config,
            terms=terms,
            run_id=run.run_id,
            settings=config.model_dump(),
        )
        return log_bundle(bundle)


def _prepare(spec: InputSpec, dataset: Dataset, *sides: str) -> Labelled:
    """Prepare the cells of some sides."""
    cells = dataset.take(*sides)
    return spec.prepare(cells.counts, dataset.var.index, depth=cells.depth), cells.codes


def _choose_panel(config: TransformerConfig, dataset: Dataset) -> pd.Index:
    """Choose the network's genes on the training cells, those first that tell labels apart best.

    Where test cells chose the dataset's panel, the network takes that.
    """
    training = dataset.take(keys.TRAIN)
    table = choose_panel(
        training.counts,
        dataset.var.index,
        depth=training.depth,
        codes=training.codes,
        method="f_test",
        n_top_genes=config.network_genes,
    )
    ranked = table.sort_index().sort_values(SCORE, ascending=False, kind="stable").index
    if config.network_panel == "dataset" or dataset.record.leaky:
        return ranked[ranked.isin(dataset.panel)]
    return ranked[: config.network_genes or None]


@dataclass(frozen=True)
class _Training:
    """How the networks of one run are trained."""

    config: TransformerConfig
    dataset: Dataset
    run: StageRun

    def train(self, training: Labelled, validation: Labelled, number: int) -> tuple[GeneTransformer, int]:
        """Train one of the networks; log its epochs as they come, then their curves.

        Returns
        -------
        The network of the best epoch, and the number of epochs that were trained.
        """

        def log(epoch: EpochMetrics) -> None:
            values = asdict(epoch)
            self.run.log_metrics(
                {f"{prefix}{name}": value for name, value in values.items()}, step=epoch.epoch
            )

        prefix = f"network_{number}." if number else ""
        network, epochs = fit_transformer(
            *training,
            *validation,
            network=self._shape(training),
            training=self._plan(number),
            on_epoch=log,
            checkpoint=self._name_checkpoint(f"{number}"),
        )
        table, best = pd.DataFrame([asdict(epoch) for epoch in epochs]), best_epoch(epochs)
        name = f"_network_{number}" if number else ""
        self.run.log_table(table, f"epochs{name}", index=False)
        self.run.log_figure(draw_losses(table, kept=best.epoch), f"losses{name}")
        say(f"transformer: validation macro-F1 {best.validation_macro_f1:.3f} at epoch {best.epoch}")
        return network, len(epochs)

    def refit(self, cells: Labelled, number: int, n_epochs: int) -> GeneTransformer:
        """Train one of the networks again on more cells, none of which can tell when to stop."""
        network, _ = fit_transformer(
            *cells,
            None,
            None,
            network=self._shape(cells),
            training=replace(self._plan(number), max_epochs=n_epochs),
            checkpoint=self._name_checkpoint(f"{number} refit"),
        )
        return network

    def _shape(self, cells: Labelled) -> NetworkConfig:
        """Fix the networks' shape."""
        n_classes = len(self.dataset.record.label_names)
        return NetworkConfig.from_options(self.config, n_genes=cells[0].counts.shape[1], n_classes=n_classes)

    def _plan(self, number: int) -> TrainingConfig:
        """Fix how one of them is trained."""
        return TrainingConfig.from_options(
            self.config, seed=self.config.seed + number, device=self.config.device
        )

    def _name_checkpoint(self, name: str) -> Path:
        """Name the file that a killed training of the same dataset and settings goes on from."""
        settings = self.config.model_dump_json(exclude={"dataset", "ontology"})
        key = hash_strings([self.dataset.record.dataset_hash, settings, name])
        return find_checkpoints() / f"transformer-{key[:32]}.ckpt"
