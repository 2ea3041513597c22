"""Runs end as they should, and a new store survives several processes at once."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import mlflow
import pytest
from simulate import write_cells

from annotary.config import PromoteConfig
from annotary.errors import ConfigError, InputFileError, RegistryError
from annotary.tracking import LoggedDataset, connect, fetch, log_trial, stage_run

OPEN = "from annotary.tracking import connect; connect()"


def run_tags(run_id: str) -> dict:
    return mlflow.get_run(run_id).data.tags


def test_a_stage_logs_its_resolved_configuration(store):
    with stage_run("promote", PromoteConfig(mode="dry_run")) as run:
        pass
    logged = mlflow.get_run(run.run_id)
    assert logged.data.params["config.mode"] == "dry_run"
    assert logged.data.params["config.model_name"] == "cell-annotator"
    assert logged.info.status == "FINISHED"
    assert logged.data.metrics["stage_seconds"] >= 0


def test_an_error_for_people_becomes_a_tag_and_fails_the_run(store):
    error = ConfigError("--x", expected="this", found="that", remedy="Change it.")
    with pytest.raises(ConfigError), stage_run("promote", PromoteConfig()) as run:
        raise error
    assert mlflow.get_run(run.run_id).info.status == "FAILED"
    assert run_tags(run.run_id)["annotary.error"] == str(error)


def test_a_bug_leaves_its_traceback_in_the_run(store):
    with pytest.raises(ZeroDivisionError), stage_run("promote", PromoteConfig()) as run:
        1 / 0  # noqa: B018
    assert mlflow.get_run(run.run_id).info.status == "FAILED"
    text = mlflow.artifacts.load_text(f"runs:/{run.run_id}/error/traceback.txt")
    assert "ZeroDivisionError" in text


def test_a_stage_inside_a_stage_is_its_child(store):
    with stage_run("main", PromoteConfig()) as outer, stage_run("promote", PromoteConfig()) as inner:
        pass
    assert run_tags(inner.run_id)["mlflow.parentRunId"] == outer.run_id


def test_trials_are_finished_nested_runs_with_their_fold_scores(store):
    with stage_run("baselines", PromoteConfig()) as run:
        log_trial(
            run,
            name="t",
            params={"C": 0.1},
            metrics={"macro_f1": 0.5},
            scores=[0.4, 0.6],
            part="fold",
            state="complete",
        )
    trial = mlflow.search_runs(filter_string=f"tags.mlflow.parentRunId = '{run.run_id}'").iloc[0]
    assert trial["status"] == "FINISHED"
    assert trial["params.C"] == "0.1"
    history = mlflow.MlflowClient().get_metric_history(trial["run_id"], "fold_macro_f1")
    assert [metric.value for metric in sorted(history, key=lambda metric: metric.step)] == [0.4, 0.6]


def test_a_dataset_of_many_files_gets_a_name_that_mlflow_takes(store):
    source = ", ".join(f'it\'s "sample" {number} 100%.h5ad' for number in range(40))
    record = SimpleNamespace(source=source, dataset_hash="d" * 64, label_names=["B"])
    tables = SimpleNamespace(record=record, obs=[], var=[], panel=[])
    with stage_run("preprocess", PromoteConfig()) as run:
        mlflow.log_input(LoggedDataset(tables, store / "dataset.h5ad"), context="training")
    [logged] = mlflow.get_run(run.run_id).inputs.dataset_inputs
    assert source.startswith(logged.dataset.name)
    assert len(logged.dataset.name) == 500


def test_artifacts_are_fetched_by_their_address(store):
    (store / "a.txt").write_text("content")
    with stage_run("promote", PromoteConfig()) as run:
        address = run.log_file(store / "a.txt", "files")
    assert fetch(address).read_text() == "content"


@pytest.mark.parametrize("address", ["nowhere.h5ad", "runs:/0123456789abcdef0123456789abcdef/x.h5ad"])
def test_what_is_not_there_is_an_input_error(store, address):
    with pytest.raises(InputFileError, match="Check the"):
        fetch(address)


def test_a_store_that_does_not_answer_is_one_clear_error(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    mlflow.set_tracking_uri("http://127.0.0.1:9")
    try:
        with pytest.raises(RegistryError, match=r"tracking store http://127\.0\.0\.1:9 needs to answer"):
            connect()
    finally:
        mlflow.set_tracking_uri(None)


@pytest.mark.full
def test_processes_that_open_a_new_store_at_once_do_not_break_it(tmp_path):
    environment = os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'mlflow.db'}"}

    def open_store(_):
        command = [sys.executable, "-c", OPEN]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    with ThreadPoolExecutor(3) as pool:
        for done in pool.map(open_store, range(3)):
            assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_terminated_stage_ends_as_failed_and_leaves_nothing_half_written(store):
    write_cells(store / "cells.h5ad", n_cells=400)
    command = [sys.executable, "-m", "annotary", "preprocess", "--input", "cells.h5ad", "--output", "out"]
    process = subprocess.Popen(
        [*command, "--min-genes", "20", "--doublet-epochs", "4000"], stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 90
    while mlflow.search_runs(filter_string="tags.annotary.stage = 'preprocess'").empty:
        assert time.monotonic() < deadline, "the stage did not start"
        time.sleep(0.5)
    time.sleep(1)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 143
    assert mlflow.search_runs().iloc[0]["status"] == "FAILED"
    assert list((store / "out").iterdir()) == []
