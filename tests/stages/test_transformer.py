"""The stage transformer on simulated data: its search."""

import json

import mlflow
import pandas as pd
import pytest
from conftest import SMALL, leave_out_embedding
from simulate import write_cells

from annotary.config import PreprocessConfig, TransformerConfig
from annotary.registry import load
from annotary.stages.preprocess import preprocess
from annotary.stages.transformer import transformer

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
