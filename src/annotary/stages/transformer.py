"""transformer: train the self-attention network, log it."""

from collections.abc import Callable
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
from annotary.network_options import NetworkOptions, NetworkTuningOptions
from annotary.quality.panel import choose_panel
from annotary.quality.prepare import PreparedCells
from annotary.registry import Candidate, log_bundle
from annotary.stages.candidates import hold_out_validation, make_bundle, make_spec, take_fitted
from annotary.stages.network_genes import log_gene_contributions
from annotary.stages.network_search import choose_network
from annotary.stages.network_start import Start, read_start
from annotary.tracking import StageRun, fetch, find_checkpoints, stage_run

Labelled = tuple[PreparedCells, np.ndarray]
"""Prepared cells ``(n_cells, n_genes)`` with their encoded labels ``(n_cells,)``."""


def transformer(config: TransformerConfig) -> Candidate:
    """Train on training cells, stop by validation macro-F1, log the best epoch's weights as a model."""
    with stage_run("transformer", config) as run:
        path = fetch(config.dataset)
        dataset = read_dataset(path)
        run.log_dataset(dataset, path, context="training")
        spec = make_spec(dataset, _choose_panel(config, dataset))
        sides = dataset.take(keys.TRAIN), dataset.take(keys.VALIDATION)
        cells = tuple(
            (spec.prepare(side.counts, dataset.var.index, depth=side.depth), side.codes) for side in sides
        )
        start = read_start(config, spec.panel, run)
        config = _tune(config, dataset, cells, run, start)
        networks = [
            _train(config, dataset, cells, run, start, number=number) for number in range(config.n_networks)
        ]
        annotator = TransformerAnnotator(networks)
        log_gene_contributions(
            run,
            annotator,
            *cells[1],
            panel=spec.panel,
            label_names=dataset.record.label_names,
            seed=config.seed,
            device=config.device,
        )
        fitted = take_fitted(spec, dataset)
        bundle = make_bundle(
            annotator,
            spec,
            dataset,
            held_out=hold_out_validation(annotator, spec, dataset, fitted, device=config.device),
            fitted=fitted,
            options=config,
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


def _tune(
    config: TransformerConfig, dataset: Dataset, cells: tuple[Labelled, ...], run: StageRun, start: Start
) -> TransformerConfig:
    """Choose the options of the networks, where a search is asked for."""

    def train(options: NetworkOptions, on_epoch: Callable[[EpochMetrics], None]) -> list[EpochMetrics]:
        return _fit(
            options, dataset, cells, start, seed=config.seed, device=config.device, on_epoch=on_epoch
        )[1]

    return choose_network(config, dataset.record, train, run)


def _train(
    config: TransformerConfig,
    dataset: Dataset,
    cells: tuple[Labelled, ...],
    run: StageRun,
    start: Start,
    *,
    number: int,
) -> GeneTransformer:
    """Train one of the networks; log its epochs as they come, then their curves."""

    def log(epoch: EpochMetrics) -> None:
        values = asdict(epoch)
        run.log_metrics({f"{prefix}{name}": value for name, value in values.items()}, step=epoch.epoch)

    prefix = f"network_{number}." if number else ""
    network, epochs = _fit(
        config,
        dataset,
        cells,
        start,
        seed=config.seed + number,
        device=config.device,
        on_epoch=log,
        checkpoint=_name_checkpoint(config, dataset, number),
    )
    table, best = pd.DataFrame([asdict(epoch) for epoch in epochs]), best_epoch(epochs)
    name = f"_network_{number}" if number else ""
    run.log_table(table, f"epochs{name}", index=False)
    run.log_figure(draw_losses(table, kept=best.epoch), f"losses{name}")
    say(f"transformer: validation macro-F1 {best.validation_macro_f1:.3f} at epoch {best.epoch}")
    return network


def _fit(
    options: NetworkOptions,
    dataset: Dataset,
    cells: tuple[Labelled, ...],
    start: Start,
    *,
    seed: int,
    device: str,
    on_epoch: Callable[[EpochMetrics], None],
    checkpoint: Path | None = None,
) -> tuple[GeneTransformer, list[EpochMetrics]]:
    """Train a network with some options on training cells, watched by validation cells."""
    (training, training_codes), (validation, validation_codes) = cells
    shape = NetworkConfig.from_options(
        options, n_genes=training.counts.shape[1], n_classes=len(dataset.record.label_names)
    )
    return fit_transformer(
        training,
        training_codes,
        validation,
        validation_codes,
        network=shape,
        training=TrainingConfig.from_options(options, seed=seed, device=device),
        on_epoch=on_epoch,
        checkpoint=checkpoint,
        first_weights=start(shape, seed),
    )


def _name_checkpoint(config: TransformerConfig, dataset: Dataset, number: int) -> Path:
    """Name the file that a killed training of the same dataset and settings goes on from."""
    settings = config.model_dump_json(exclude={"dataset", *NetworkTuningOptions.model_fields})
    key = hash_strings([dataset.record.dataset_hash, settings, str(number)])
    return find_checkpoints() / f"transformer-{key[:32]}.ckpt"
