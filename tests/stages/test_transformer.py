"""The stages pretrain and transformer on simulated data: a network to begin with, and the search."""

import json

import mlflow
import pandas as pd
import pytest
from conftest import SMALL, leave_out_embedding
from simulate import simulate_cells, write_cells

from annotary.config import PreprocessConfig, PretrainConfig, TransformerConfig
from annotary.data.dataset import read_dataset
from annotary.errors import ConfigError, CountsError, InputFileError
from annotary.models.transformer.pretrained import PretrainedNetwork
from annotary.network_registry import fetch_network
from annotary.registry import load
from annotary.stages.preprocess import preprocess
from annotary.stages.pretrain import pretrain
from annotary.stages.transformer import transformer
from annotary.tracking import fetch

TINY = {"d_model": 16, "n_heads": 2, "network_genes": 60, "max_epochs": 2, "device": "cpu"}


@pytest.fixture(scope="module")
def dataset(module_store) -> str:
    source = write_cells(module_store / "cells.h5ad")
    options = {name: SMALL[name] for name in ("doublets", "min_genes", "n_top_genes", "n_folds")}
    with pytest.MonkeyPatch.context() as monkeypatch:
        leave_out_embedding(monkeypatch)
        return preprocess(
            PreprocessConfig(input=str(source), output=str(module_store / "out"), **options)
        ).address


@pytest.fixture(scope="module")
def searched(dataset):
    return transformer(TransformerConfig(dataset=dataset, network_trials=3, **TINY))


def test_trials_are_nested_runs_as_the_baselines_are(searched):
    trials = mlflow.search_runs(filter_string=f"tags.mlflow.parentRunId = '{searched.run_id}'")
    assert set(trials["tags.mlflow.runName"]) == {f"transformer trial {number}" for number in range(3)}
    assert set(trials["tags.annotary.trial_state"]) <= {"complete", "pruned"}
    assert trials["params.dropout"].notna().all()
    first = trials[trials["tags.mlflow.runName"] == "transformer trial 0"].iloc[0]
    assert first["params.d_model"] == "16"
    history = mlflow.MlflowClient().get_metric_history(first["run_id"], "epoch_macro_f1")
    assert [metric.step for metric in history] == [0, 1]


def test_the_best_trial_s_options_are_trained_to_the_same_score(searched):
    run = mlflow.get_run(searched.run_id)
    path = f"runs:/{searched.run_id}/tables/transformer_trials.csv"
    trials = pd.read_csv(mlflow.artifacts.download_artifacts(path))
    best = trials[trials["state"] == "complete"]["value"].max()
    assert run.data.metrics["transformer.epochs_macro_f1"] == pytest.approx(best)
    history = mlflow.MlflowClient().get_metric_history(searched.run_id, "validation_macro_f1")
    assert max(metric.value for metric in history) == pytest.approx(best)
    row = trials[trials["value"] == best].iloc[0]
    settings = json.loads(load(searched.uri).provenance.config)
    assert settings["d_model"] == row["d_model"]
    assert settings["learning_rate"] == pytest.approx(row["learning_rate"])


def test_the_search_has_the_baselines_pictures(searched):
    found = mlflow.artifacts.list_artifacts(run_id=searched.run_id, artifact_path="figures")
    names = {one.path.split("/")[-1] for one in found}
    pictures = ("history", "slices", "parallel_coordinates")
    assert {f"transformer_{name}.png" for name in pictures} <= names


SHAPE = {"d_model": 16, "n_heads": 2, "max_epochs": 2, "device": "cpu"}


@pytest.fixture(scope="module")
def unlabelled(module_store):
    cells = simulate_cells(120, seed=7)
    del cells.obs["cell_type"]
    path = module_store / "unlabelled.h5ad"
    cells.write_h5ad(path)
    return path


@pytest.fixture(scope="module")
def pretrained(unlabelled):
    return pretrain(PretrainConfig(input=str(unlabelled), pretraining_genes=100, **SHAPE))


def test_a_pretrained_network_is_a_version_with_the_most_common_genes(pretrained, unlabelled):
    assert pretrained.uri == "models:/annotary-pretrained/1"
    assert pretrained.tags["annotary.kind"] == "pretrained"
    network = PretrainedNetwork.load(fetch_network(pretrained.uri))
    expressed = (simulate_cells(120, seed=7).to_df() > 0).sum()
    assert len(network.gene_ids) == 100
    assert expressed[list(network.gene_ids)].min() >= expressed.drop(list(network.gene_ids)).max()
    run = mlflow.get_run(pretrained.run_id)
    assert run.info.status == "FINISHED"
    assert 0 < run.data.metrics["held_out_auc"] <= 1


def test_a_network_is_found_by_version_alias_run_and_folder(pretrained):
    mlflow.MlflowClient().set_registered_model_alias("annotary-pretrained", "good", "1")
    folder = fetch_network(pretrained.uri)
    expected = PretrainedNetwork.load(folder).origin
    for address in ("models:/annotary-pretrained@good", pretrained.run_id, str(folder)):
        assert PretrainedNetwork.load(fetch_network(address)).origin == expected


def test_the_transformer_begins_with_a_pretrained_network(pretrained, dataset):
    candidate = transformer(TransformerConfig(dataset=dataset, init_from=pretrained.uri, **TINY))
    run = mlflow.get_run(candidate.run_id)
    bundle = load(candidate.uri)
    known = PretrainedNetwork.load(fetch_network(pretrained.uri)).gene_ids
    assert run.data.metrics["genes_carried_over"] == len(set(known) & set(bundle.spec.gene_ids)) > 0
    assert run.data.tags["annotary.init_run_id"] == pretrained.run_id
    assert json.loads(bundle.provenance.config)["init_from"] == pretrained.uri


def test_of_a_dataset_the_test_cells_are_left_out(dataset):
    version = pretrain(PretrainConfig(dataset=dataset, pretraining_genes=50, **SHAPE))
    split = read_dataset(fetch(dataset)).obs["split"]
    assert int(version.tags["annotary.n_cells"]) == (split != "test").sum()


@pytest.mark.parametrize("options", [{}, {"input": "a.h5ad", "dataset": "d.h5ad"}])
def test_pretrain_takes_files_or_a_dataset(module_store, options):
    with pytest.raises(ConfigError, match="Name one of them"):
        pretrain(PretrainConfig(**options))


def test_few_cells_are_refused(module_store):
    path = write_cells(module_store / "few.h5ad", n_cells=12)
    with pytest.raises(CountsError, match=r"at least 20 cells .*; found 12 of 12"):
        pretrain(PretrainConfig(input=str(path), **SHAPE))


def test_another_shape_or_no_network_ends_the_transformer_before_it_trains(pretrained, dataset):
    with pytest.raises(ConfigError, match=r"--init-from needs .* Pass --d-model 16"):
        transformer(TransformerConfig(dataset=dataset, init_from=pretrained.uri, **TINY | {"d_model": 32}))
    with pytest.raises(InputFileError, match="--init-from needs models:/NAME/VERSION"):
        transformer(TransformerConfig(dataset=dataset, init_from="nowhere", **TINY))
