"""Optuna's database that is away, silent, locked or read-only: a clear line, a FAILED run, nothing lost."""

import contextlib
import socket
import sqlite3
import time
from pathlib import Path

import mlflow
import pytest
from conftest import leave_out_embedding
from servers import find_port
from simulate import write_cells

from annotary.config import BaselinesConfig, PreprocessConfig
from annotary.errors import AnnotaryError, RegistryError, StoreError
from annotary.models.tuning import study, trials
from annotary.registry import Candidate
from annotary.stages import tuning_record
from annotary.stages.baselines import baselines
from annotary.stages.preprocess import preprocess


@pytest.fixture(scope="module")
def dataset(module_store) -> str:
    source = write_cells(module_store / "cells.h5ad")
    with pytest.MonkeyPatch.context() as monkeypatch:
        leave_out_embedding(monkeypatch)
        return preprocess(
            PreprocessConfig(
                input=str(source),
                output=str(module_store / "out"),
                doublets="none",
                min_genes=20,
                n_top_genes=60,
                n_folds=2,
            )
        ).address


def tune(dataset: str, storage: str, *, n_trials: int = 3) -> list[Candidate]:
    return baselines(
        BaselinesConfig(dataset=dataset, storage=storage, kinds="logistic_regression", n_trials=n_trials)
    )


def find_trials(parent: mlflow.entities.Run) -> list[mlflow.entities.Run]:
    return mlflow.MlflowClient().search_runs(
        [parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
    )


def check_failed(error: AnnotaryError) -> mlflow.entities.Run:
    """Check that the last run is closed, says why, and has no model; give it."""
    run = mlflow.last_active_run()
    assert mlflow.active_run() is None
    assert run.data.tags["annotary.stage"] == "baselines"
    assert run.info.status == "FAILED"
    assert run.info.end_time
    assert run.data.tags["annotary.error"] == str(error)
    assert mlflow.search_logged_models(filter_string=f"source_run_id = '{run.info.run_id}'").empty
    assert error.exit_code == 1
    return run


def make_address(port: int) -> str:
    pytest.importorskip("psycopg2", reason="PostgreSQL's driver is not installed")
    return f"postgresql+psycopg2://optuna:s3cret@127.0.0.1:{port}/optuna"


def test_a_server_that_refuses_the_connection_is_named(dataset):
    with pytest.raises(RegistryError, match=r"Connection refused.*Check --storage") as caught:
        tune(dataset, make_address(find_port()))
    assert str(caught.value).startswith("study storage postgresql+psycopg2://optuna:***@127.0.0.1:")
    assert "s3cret" not in str(caught.value)
    check_failed(caught.value)


def test_a_server_that_says_nothing_is_waited_for_some_seconds(dataset, monkeypatch):
    monkeypatch.setitem(study._POSTGRESQL_OPTIONS, "connect_timeout", 2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        with pytest.raises(RegistryError, match="timeout expired") as caught:
            tune(dataset, make_address(silent.getsockname()[1]))
    assert time.monotonic() - started < 15
    check_failed(caught.value)


def test_a_file_that_may_not_be_written_is_named(dataset, tmp_path):
    file = tmp_path / "optuna.db"
    tune(dataset, f"sqlite:///{file}", n_trials=1)
    before = file.read_bytes()
    with pytest.raises(RegistryError, match="attempt to write a readonly database") as caught:
        tune(dataset, f"sqlite:///file:{file}?mode=ro&uri=true", n_trials=2)
    check_failed(caught.value)
    assert file.read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"optuna.db", "optuna.db.lock"}
    assert not list(Path().glob("file:*"))


@pytest.mark.full
def test_a_file_that_another_program_locks_in_mid_search_keeps_the_trials_that_are_done(
    dataset, tmp_path, monkeypatch
):
    storage = f"sqlite:///{tmp_path / 'optuna.db'}"
    other = sqlite3.connect(tmp_path / "optuna.db", isolation_level=None)
    log_trial = tuning_record.log_trial

    def lock_after(*arguments, **options):
        log_trial(*arguments, **options)
        other.execute("BEGIN EXCLUSIVE")

    with monkeypatch.context() as locking:
        locking.setattr(study, "_SQLITE_TIMEOUT_S", 0.2)
        locking.setattr(tuning_record, "log_trial", lock_after)
        started = time.monotonic()
        with pytest.raises(
            StoreError, match=r"database is locked.*the trials that are done are kept"
        ) as caught:
            tune(dataset, storage)
        assert time.monotonic() - started < 15
    assert str(caught.value).startswith(f"study storage {storage} needs to answer until the study is done")
    [first] = find_trials(check_failed(caught.value))
    assert first.info.status == "FINISHED"
    other.execute("ROLLBACK")
    other.close()
    tune(dataset, storage)
    again = mlflow.last_active_run()
    assert again.info.status == "FINISHED"
    assert again.data.metrics["logistic_regression.n_trials"] == 3
    names = {one.info.run_name for one in (first, *find_trials(again))}
    assert names == {f"logistic_regression trial {number}" for number in range(3)}


def test_a_file_that_another_program_locks_in_mid_trial_is_named_too(dataset, tmp_path, monkeypatch):
    other = sqlite3.connect(tmp_path / "optuna.db", isolation_level=None)
    tell = trials.TrialScores.tell

    def lock_before(*arguments, **options):
        other.execute("BEGIN EXCLUSIVE")
        tell(*arguments, **options)

    monkeypatch.setattr(study, "_SQLITE_TIMEOUT_S", 0.2)
    monkeypatch.setattr(trials.TrialScores, "tell", lock_before)
    with contextlib.closing(other), pytest.raises(StoreError, match="database is locked") as caught:
        tune(dataset, f"sqlite:///{tmp_path / 'optuna.db'}")
    assert find_trials(check_failed(caught.value)) == []
