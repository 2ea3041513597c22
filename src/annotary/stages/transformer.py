"""transformer: train the self-attention network, log it."""

import pandas as pd

from annotary import keys
from annotary.config import TransformerConfig
from annotary.data.dataset import Dataset, read_dataset
from annotary.models.transformer.classifier import TransformerAnnotator
from annotary.quality.panel import choose_panel, rank_by_score
from annotary.quality.prepare import InputSpec
from annotary.registry import Candidate, log_bundle
from annotary.stages.candidates import (
    hold_out_validation,
    make_bundle,
    make_spec,
    read_label_terms,
    take_fitted,
)
from annotary.stages.dataset_input import fetch_dataset
from annotary.stages.held_out_table import log_held_out
from annotary.stages.network_genes import log_gene_contributions
from annotary.stages.network_start import read_start
from annotary.stages.network_training import Labelled, NetworkTraining
from annotary.tracking import stage_run


def transformer(config: TransformerConfig) -> Candidate:
    """Train on training cells, stop by validation macro-F1, train again on both, log that as a model.

    What the model's confidence means is learned from what the first networks say of the validation cells.
    """
    with stage_run("transformer", config) as run:
        path = fetch_dataset(config.dataset, read_timeout=config.read_timeout)
        dataset = read_dataset(path)
        run.log_dataset(dataset, path, context="training")
        names = dataset.record.label_names
        terms = read_label_terms(config.ontology, names)
        spec = make_spec(dataset, _choose_panel(config, dataset))
        training, validation = (_prepare(spec, dataset, side) for side in (keys.TRAIN, keys.VALIDATION))
        start = read_start(config, spec.panel, run)
        job = NetworkTraining(config, dataset.record, training, validation, start, run).tune()
        trained = [job.train(number) for number in range(config.n_networks)]
        annotator = TransformerAnnotator([network for network, _ in trained])
        log_gene_contributions(
            run,
            annotator,
            *validation,
            panel=spec.panel,
            label_names=names,
            seed=config.seed,
            device=config.device,
        )
        said = annotator.predict_proba(validation[0], device=config.device)
        held_out = hold_out_validation(said, spec, dataset)
        log_held_out(
            run, annotator.kind, dataset.take(keys.VALIDATION).cell_ids, held_out.probabilities, names
        )
        fitted = [keys.TRAIN, keys.VALIDATION] if config.refit else [keys.TRAIN]
        if config.refit:
            both = _prepare(spec, dataset, *fitted)
            again = [job.refit(both, number, n_epochs) for number, (_, n_epochs) in enumerate(trained)]
            annotator = TransformerAnnotator(again)
        bundle = make_bundle(
            annotator,
            spec,
            dataset,
            held_out=held_out,
            fitted=take_fitted(spec, dataset, *fitted),
            options=config,
            terms=terms,
            run_id=run.run_id,
            settings=job.config.model_dump(),
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
    ranked = rank_by_score(table)
    if config.network_panel == "dataset" or dataset.record.leaky:
        return ranked[ranked.isin(dataset.panel)]
    return ranked[: config.network_genes or None]
