"""transformer: train the self-attention network, log it."""

from dataclasses import asdict

import pandas as pd

from annotary import keys
from annotary.config import TransformerConfig
from annotary.data.dataset import read_dataset
from annotary.evaluation.figures import draw_losses
from annotary.log import say
from annotary.models.transformer.classifier import TransformerAnnotator
from annotary.models.transformer.config import NetworkConfig, TrainingConfig
from annotary.models.transformer.training import EpochMetrics, best_epoch, fit_transformer
from annotary.registry import Candidate, log_bundle
from annotary.stages.candidates import hold_out_validation, make_bundle, make_spec, take_fitted
from annotary.tracking import fetch, stage_run


def transformer(config: TransformerConfig) -> Candidate:
    """Train on training cells, stop by validation macro-F1, log the best epoch's weights as a model."""
    with stage_run("transformer", config) as run:
        path = fetch(config.dataset)
        dataset = read_dataset(path)
        run.log_dataset(dataset, path, context="training")
        spec = make_spec(dataset)
        training, validation = dataset.take(keys.TRAIN), dataset.take(keys.VALIDATION)

        def log(epoch: EpochMetrics) -> None:
            values = asdict(epoch)
            run.log_metrics(values, step=values.pop("epoch"))

        network = _shape(config, n_genes=len(spec.gene_ids), n_classes=len(dataset.record.label_names))
        model, epochs = fit_transformer(
            spec.prepare(training.counts, dataset.var.index, depth=training.depth),
            training.codes,
            spec.prepare(validation.counts, dataset.var.index, depth=validation.depth),
            validation.codes,
            network=network,
            training=TrainingConfig(
                learning_rate=config.learning_rate,
                batch_size=config.batch_size,
                max_epochs=config.max_epochs,
                patience=config.patience,
                seed=config.seed,
                device=config.device,
            ),
            on_epoch=log,
        )
        table = pd.DataFrame([asdict(epoch) for epoch in epochs])
        run.log_table(table, "epochs", index=False)
        run.log_figure(draw_losses(table, kept=best_epoch(epochs).epoch), "losses")
        best = best_epoch(epochs)
        say(f"transformer: validation macro-F1 {best.validation_macro_f1:.3f} at epoch {best.epoch}")
        annotator = TransformerAnnotator(model)
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


def _shape(config: TransformerConfig, *, n_genes: int, n_classes: int) -> NetworkConfig:
    """Fix the network's shape."""
    return NetworkConfig(
        n_genes=n_genes,
        n_classes=n_classes,
        n_bins=config.n_bins,
        d_model=config.d_model,
        n_layers=config.n_layers,
        n_heads=config.n_heads,
        dropout=config.dropout,
        attention_dropout=config.attention_dropout,
        tokens=config.tokens,
    )
