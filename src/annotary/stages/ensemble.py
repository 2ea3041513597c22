"""ensemble: let the candidates of a dataset vote, with weights that validation cells decide."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from annotary import keys
from annotary.config import EnsembleConfig
from annotary.data.dataset import Dataset, read_dataset
from annotary.errors import ConfigError
from annotary.log import say
from annotary.models.bundle import Bundle
from annotary.models.bundle_files import load_bundle
from annotary.models.ensemble import EnsembleAnnotator, Member, fit_weights, vote
from annotary.registry import Candidate, find_candidates, get_candidates, log_bundle
from annotary.stages.candidates import (
    hold_out_validation,
    make_bundle,
    make_spec,
    read_label_terms,
    take_fitted,
)
from annotary.stages.held_out_table import read_held_out
from annotary.tracking import StageRun, fetch, stage_run
from annotary.version_check import fetch_candidate
from annotary.version_files import BUNDLE

_LEAST_WEIGHT = 0.05


@dataclass(frozen=True)
class _Voter:
    """A candidate with what it said of the validation cells, ``(n_cells, n_classes)``."""

    candidate: Candidate
    said: np.ndarray


def ensemble(config: EnsembleConfig) -> Candidate | None:
    """Fit the weights of a vote on validation cells, log the vote as a model.

    Returns
    -------
    The logged model; None where one candidate alone is as good as any vote.
    """
    with stage_run("ensemble", config) as run:
        path = fetch(config.dataset)
        dataset = read_dataset(path)
        run.log_dataset(dataset, path, context="training")
        cells = dataset.take(keys.VALIDATION)
        voters = [_Voter(one, read_held_out(one, cells.cell_ids)) for one in _list_members(config, dataset)]
        voters = _drop_light(voters, cells.codes)
        weights = fit_weights([voter.said for voter in voters], cells.codes)
        _log_weights(run, voters, weights)
        if len(voters) == 1:
            say(f"ensemble: {voters[0].candidate.kind} alone says as much as any vote; none is made")
            return None
        bundle = _make_bundle(config, dataset, voters, weights, run)
        return log_bundle(bundle)


def _list_members(config: EnsembleConfig, dataset: Dataset) -> list[Candidate]:
    """Take the candidates that were named, or the latest of each kind."""
    members = get_candidates(config.candidates)
    if not members:
        found = find_candidates(dataset.record.dataset_hash)
        members = list({one.kind: one for one in found if one.kind != EnsembleAnnotator.kind}.values())
    if len(members) < 2:
        raise ConfigError(
            "--candidates",
            expected="two or more models that were trained on the dataset",
            found=", ".join(one.kind for one in members) or "none",
            remedy="Train another kind with annotary baselines or annotary transformer first.",
        )
    return members


def _drop_light(voters: list[_Voter], codes: np.ndarray) -> list[_Voter]:
    """Leave out voters whose weight is small: they would cost time and change little."""
    weights = fit_weights([voter.said for voter in voters], codes)
    return [voter for voter, weight in zip(voters, weights, strict=True) if weight >= _LEAST_WEIGHT]


def _log_weights(run: StageRun, voters: list[_Voter], weights: np.ndarray) -> None:
    """Log who votes with which weight."""
    table = pd.DataFrame(
        {
            "model_id": [voter.candidate.model_id for voter in voters],
            "kind": [voter.candidate.kind for voter in voters],
            "weight": weights,
        }
    )
    run.log_table(table, "weights", index=False)
    run.log_metrics({f"weight.{row.kind}": float(row.weight) for row in table.itertuples()})
    say("ensemble: " + ", ".join(f"{row.kind} {row.weight:.2f}" for row in table.itertuples()))


def _make_bundle(
    config: EnsembleConfig, dataset: Dataset, voters: list[_Voter], weights: np.ndarray, run: StageRun
) -> Bundle:
    """Put the members together; the cells that its confidence is learned from are the validation cells."""
    bundles = [load_bundle(fetch_candidate(voter.candidate) / BUNDLE) for voter in voters]
    genes = dataset.var.index
    in_panel = np.zeros(len(genes), dtype=bool)
    for bundle in bundles:
        in_panel |= genes.isin(bundle.spec.panel)
    panel = genes[in_panel]
    members = [
        Member(
            model=bundle.model,
            columns=panel.get_indexer(bundle.spec.panel),
            temperature=bundle.confidence.temperature,
            weight=float(weight),
        )
        for bundle, weight in zip(bundles, weights, strict=True)
    ]
    spec = make_spec(dataset, panel)
    return make_bundle(
        EnsembleAnnotator(members),
        spec,
        dataset,
        held_out=hold_out_validation(_vote_across_folds(voters, dataset), spec, dataset),
        fitted=take_fitted(spec, dataset, keys.TRAIN, keys.VALIDATION),
        options=config,
        terms=read_label_terms(config.ontology, dataset.record.label_names),
        run_id=run.run_id,
        settings=config.model_dump() | {"members": [voter.candidate.model_id for voter in voters]},
    )


def _vote_across_folds(voters: list[_Voter], dataset: Dataset) -> np.ndarray:
    """Let the members vote on validation cells with weights of the other folds, ``(n_cells, n_classes)``."""
    cells = dataset.take(keys.VALIDATION)
    folds = np.unique(cells.folds)
    probabilities = np.empty(voters[0].said.shape, dtype=np.float32)
    for fold in folds:
        own = cells.folds == fold
        others = ~own if len(folds) > 1 else own
        weights = fit_weights([voter.said[others] for voter in voters], cells.codes[others])
        probabilities[own] = vote([voter.said[own] for voter in voters], weights)
    return probabilities
