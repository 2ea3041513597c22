"""A search whose PostgreSQL is killed in mid-search, as its user sees it."""

import os
from collections.abc import Iterator
from pathlib import Path

import mlflow
import optuna
import pytest
from e2e.test_server import SMALL, find_last_run, finish, last_line, run, start, wait_for_trials
from laboratory_server import PostgreSQL, postgresql
from optuna.trial import TrialState
from simulate import write_cells

pytestmark = pytest.mark.full

PATIENCE_S = 60


@pytest.fixture(scope="module")
def database() -> Iterator[PostgreSQL]:
    with postgresql() as database:
        yield database


@pytest.fixture(scope="module")
def user(module_store) -> dict[str, str]:
    write_cells(module_store / "cells.h5ad")
    user = {"MLFLOW_TRACKING_URI": os.environ["MLFLOW_TRACKING_URI"], "MLFLOW_EXPERIMENT_ID": "0"}
    run(module_store, user, "preprocess", "--input", "cells.h5ad", "--output", "out", *SMALL)
    return user


def list_done(storage: str) -> set[int]:
    [name] = optuna.get_all_study_names(storage)
    study = optuna.load_study(study_name=name, storage=storage)
    done = study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED))
    return {trial.number for trial in done}


def test_a_database_that_is_killed_ends_the_search_with_one_error_and_keeps_its_trials(
    database, user, module_store: Path
):
    client = mlflow.MlflowClient()
    arguments = ["baselines", "--dataset", "out/dataset.h5ad", "--kinds", "random_forest"]
    arguments += ["--storage", database.studies]
    tuning = start(module_store, user, *arguments, "--n-trials", "200")
    wait_for_trials(client, 2, tuning)
    database.stop()
    _, error = finish(tuning, code=1, within=PATIENCE_S)
    told = last_line(error)
    assert told.startswith("annotary: error: study storage postgresql+psycopg2://optuna:***@127.0.0.1:")
    assert "the trials that are done are kept" in told
    assert "Traceback" not in error
    assert database.passwords["optuna"] not in error
    failed = find_last_run(client, "baselines")
    assert failed.info.status == "FAILED"
    assert failed.data.tags["annotary.error"] == told.removeprefix("annotary: error: ")

    database.start()
    done = list_done(database.studies)
    assert len(done) >= 2
    run(module_store, user, *arguments, "--n-trials", str(len(done) + 2))
    finished = find_last_run(client, "baselines")
    assert finished.info.status == "FINISHED"
    assert finished.data.metrics["random_forest.n_trials"] == len(done) + 2
    assert done < list_done(database.studies)
