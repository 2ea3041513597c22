"""transformer: train the self-attention network, log it."""

from dataclasses import asdict
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
from annotary.quality.panel import choose_panel
from annotary.quality.prepare import PreparedCells
from annotary.registry import Candidate, log_bundle
from annotary.stages.candidates import (
    hold_out_validation,
    make_bundle,
    make_spec,
    read_label_terms,
    take_fitted,
)
from annotary.tracking import StageRun, fetch, find_checkpoints, stage_run

Labelled = tuple[PreparedCells, np.ndarray]
"""Prepared cells ``(n_cells, n_genes)`` with their encoded labels ``(n_cells,)``."""


def transformer(config: TransformerConfig) -> Candidate:
    """Train on training cells, stop by validation macro-F1, log the best epoch's weights as a model."""
    with stage_run("transformer", config) as run:
        path = fetch(config.dataset)
        dataset = read_dataset(path)
        run.log_dataset(dataset, path, context="training")
        terms = read_label_terms(config.ontology, dataset.record.label_names)
        spec = make_spec(dataset, _choose_panel(config, dataset))
        sides = dataset.take(keys.TRAIN), dataset.take(keys.VALIDATION)
        cells = tuple(
            (spec.prepare(side.counts, dataset.var.index, depth=side.depth), side.codes) for side in sides
        )
        networks = [_train(config, dataset, cells, run, number=number) for number in range(config.n_networks)]
        annotator = TransformerAnnotator(networks)
        fitted = take_fitted(spec, dataset)
        bundle = make_bundle(
            annotator,
            spec,
            dataset,
            held_out=hold_out_validation(annotator, spec, dataset, fitted, device=config.device),
            fitted=fitted,
            options=config,
            terms=terms,
            run_id=run.run_id,
            settings=config.model_dump(),
        )
        return log_bundle(bundle)


def _choose_panel(config: TransformerConfig, dataset: Dataset) -> pd.Index:
    """Choose the network's genes on the training cells; where test cells chose the dataset's, take those."""
    if config.network_panel == "dataset" or dataset.record.leaky:
        return dataset.panel
    training = dataset.take(keys.TRAIN)
    table = choose_panel(
        training.counts,
        dataset.var.index,
        depth=training.depth,
        codes=training.codes,
        method="f_test",
        n_top_genes=config.network_genes,
    )
    return table.index[table[keys.IN_PANEL]]


def _train(
    config: TransformerConfig, dataset: Dataset, cells: tuple[Labelled, ...], run: StageRun, *, number: int
) -> GeneTransformer:
    """Train one of the networks; log its epochs as they come, then their curves."""

    def log(epoch: EpochMetrics) -> None:
        values = asdict(epoch)
        run.log_metrics({f"{prefix}{name}": value for name, value in values.items()}, step=epoch.epoch)

    prefix = f"network_{number}." if number else ""
    (training, training_codes), (validation, validation_codes) = cells
    n_classes = len(dataset.record.label_names)
    network, epochs = fit_transformer(
        training,
        training_codes,
        validation,
        validation_codes,
        network=_shape(config, n_genes=training.counts.shape[1], n_classes=n_classes),
        training=_plan(config, seed=config.seed + number),
        on_epoch=log,
        checkpoint=_name_checkpoint(config, dataset, number),
    )
    table, best = pd.DataFrame([asdict(epoch) for epoch in epochs]), best_epoch(epochs)
    name = f"_network_{number}" if number else ""
    run.log_table(table, f"epochs{name}", index=False)
    run.log_figure(draw_losses(table, kept=best.epoch), f"losses{name}")
    say(f"transformer: validation macro-F1 {best.validation_macro_f1:.3f} at epoch {best.epoch}")
    return network


def _name_checkpoint(config: TransformerConfig, dataset: Dataset, number: int) -> Path:
    """Name the file that a killed training of the same dataset and settings goes on from."""
    settings = config.model_dump_json(exclude={"dataset", "ontology"})
    key = hash_strings([dataset.record.dataset_hash, settings, str(number)])
    return find_checkpoints() / f"transformer-{key[:32]}.ckpt"


def _shape(config: TransformerConfig, *, n_genes: int, n_classes: int) -> NetworkConfig:
    """Fix the networks' shape."""
    return NetworkConfig(
        n_genes=n_genes,
        n_classes=n_classes,
        tokens=config.tokens,
        max_tokens=config.max_tokens,
        values=config.values,
        target_sum=config.value_target_sum,
        n_bins=config.n_bins,
        d_model=config.d_model,
        n_layers=config.n_layers,
        n_heads=config.n_heads,
        norm=config.norm,
        pooling=config.pooling,
        linear_path=config.linear_path,
        dropout=config.dropout,
        attention_dropout=config.attention_dropout,
    )


def _plan(config: TransformerConfig, *, seed: int) -> TrainingConfig:
    """Fix how one of them is trained."""
    return TrainingConfig(
        learning_rate=config.learning_rate,
        gene_learning_rate=config.gene_learning_rate,
        linear_learning_rate=config.linear_learning_rate,
        batch_size=config.batch_size,
        max_epochs=config.max_epochs,
        patience=config.patience,
        loss=config.loss,
        label_smoothing=config.label_smoothing,
        thinning=config.thinning,
        gene_dropout=config.gene_dropout,
        seed=seed,
        device=config.device,
        n_processes=config.n_processes,
    )
