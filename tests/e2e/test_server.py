"""The server of deploy/compose.yaml, used by ordinary users: the whole flow, races, restarts, absence."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
from laboratory_server import LaboratoryServer, laboratory_server
from models.test_tuning import check_opened_at_once
from simulate import write_cells

from annotary.errors import AccessError
from annotary.outage import naming_outages
from annotary.registry import remove_alias

pytestmark = pytest.mark.full

NAME = "cell-annotator"
SMALL = ["--doublets", "none", "--min-genes", "20", "--n-top-genes", "120", "--n-folds", "2"]
FOREST = ["baselines", "--kinds", "random_forest", "--warm-start", "false"]
PATIENCE_S = 45
"""Within which a command ends whose server stays away, with two retries a request."""


@pytest.fixture(scope="session")
def server() -> Iterator[LaboratoryServer]:
    with laboratory_server() as server:
        yield server


@pytest.fixture(scope="module")
def ada(server) -> dict[str, str]:
    return server.make_user("ada")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where the user types commands."""
    folder = tmp_path_factory.mktemp("laboratory")
    write_cells(folder / "cells.h5ad")
    return folder


@pytest.fixture(autouse=True)
def running(server) -> None:
    """Whatever a test did to the server, the next one finds it there."""
    if server.process is None:
        server.start()


@pytest.fixture
def client(ada, monkeypatch) -> mlflow.MlflowClient:
    for name, value in ada.items():
        monkeypatch.setenv(name, value)
    return mlflow.MlflowClient(ada["MLFLOW_TRACKING_URI"])


def start(folder: Path, user: dict[str, str], *arguments: str, retries: int = 7) -> subprocess.Popen:
    """Start annotary as a user."""
    environment = (
        os.environ | user | {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": str(retries), "OMP_NUM_THREADS": "1"}
    )
    return subprocess.Popen(
        [sys.executable, "-m", "annotary", *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen, *, code: int = 0, within: float = 200) -> tuple[str, str]:
    """Wait for a command; give its standard output and error."""
    try:
        out, error = process.communicate(timeout=within)
    finally:
        process.kill()  # what hangs must not disturb the next test
    assert process.returncode == code, error
    return out, error


def run(folder: Path, user: dict[str, str], *arguments: str, **options: int) -> tuple[str, str]:
    return finish(start(folder, user, *arguments), **options)


def last_line(error: str) -> str:
    return error.strip().splitlines()[-1]


def find_last_run(client: mlflow.MlflowClient, stage: str) -> mlflow.entities.Run:
    [found] = client.search_runs(
        ["0"], f"tags.annotary.stage = '{stage}'", order_by=["attributes.start_time DESC"], max_results=1
    )
    return found


def wait_for_trials(client: mlflow.MlflowClient, n_trials: int, process: subprocess.Popen) -> None:
    until = time.monotonic() + 60
    while len(client.search_runs(["0"], "tags.annotary.stage = 'trial'")) < n_trials:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until, "no trial was logged"
        time.sleep(0.2)


@pytest.fixture(scope="module")
def dataset(server, ada, folder) -> str:
    run(folder, ada, "preprocess", "--input", "cells.h5ad", "--output", "out", *SMALL)
    return str(folder / "out" / "dataset.h5ad")


@pytest.fixture(scope="module")
def trained(server, ada, folder, dataset) -> dict[str, str]:
    """Baselines of two workers on one study in PostgreSQL, evaluated and registered."""
    arguments = [
        "baselines",
        "--dataset",
        dataset,
        "--kinds",
        "logistic_regression,linear_svm",
        "--n-trials",
        "4",
    ]
    studies = ["--storage", server.database.studies]
    for out, _ in [finish(one) for one in [start(folder, ada, *arguments, *studies) for _ in range(2)]]:
        assert "logistic_regression: models:/m-" in out
    run(folder, ada, "evaluate", "--dataset", dataset, "--device", "cpu", "--model-name", NAME)
    return ada


def test_a_new_database_is_made_once_by_processes_that_open_it_at_once(server):
    check_opened_at_once(server.database.studies, n_processes=3)


def test_two_workers_split_one_study_in_the_database(trained, client, server):
    runs = client.search_runs(["0"], "tags.annotary.stage = 'trial'")
    numbers = [run.info.run_name.split()[-1] for run in runs if "logistic" in run.info.run_name]
    assert sorted(numbers) == sorted(set(numbers)), "no trial was done twice"
    assert len(numbers) == 4
    for found in client.search_runs(["0"], "tags.annotary.stage = 'baselines'"):
        assert found.info.status == "FINISHED"
        assert server.database.passwords["optuna"] not in str(found.data.params)


def test_two_promotions_at_once_end_in_one_consistent_state(trained, client, folder):
    versions = sorted(found.version for found in client.search_model_versions(f"name = '{NAME}'"))
    racers = [
        start(folder, trained, "promote", "--model-name", NAME, "--version", str(version))
        for version in (versions * 2)[:2]
    ]
    for racer in racers:
        finish(racer)
    out, _ = run(folder, trained, "ledger", "--model-name", NAME)
    assert "2 entries, every link holds" in out
    aliases = client.get_registered_model(NAME).aliases
    assert aliases["champion"] in map(str, versions)
    assert aliases.get("challenger") != aliases["champion"]
    for found in client.search_runs(["0"], "tags.annotary.stage = 'promote'"):
        assert found.info.status == "FINISHED"


def test_the_champion_annotates_and_its_file_is_verified(trained, client, folder):
    run(folder, trained, "promote", "--model-name", NAME)
    write_cells(folder / "query.h5ad", n_cells=40, seed=3)
    out, _ = run(
        folder, trained, "score", "--input", "query.h5ad", "--output", "scored", "--settle-seconds", "0"
    )
    [line] = out.splitlines()  # nothing else, for other programs
    [file] = json.loads(line)["files"]
    assert (file["status"], file["n_cells"]) == ("annotated", 40)
    out, _ = run(folder, trained, "verify", file["outputs"][0], "--input", "query.h5ad")
    assert "ALTERED" not in out
    assert find_last_run(client, "score").info.status == "FINISHED"


def test_a_wrong_password_is_one_clear_line(ada, folder):
    wrong = ada | {"MLFLOW_TRACKING_PASSWORD": "not the password"}
    _, error = run(folder, wrong, "score", "--input", "cells.h5ad", "--output", "denied", code=1)
    [line] = error.strip().splitlines()
    assert "needs the name and password of a user whom it knows; found 'ada' and a password" in line
    assert "not the password" not in line
    assert not (folder / "denied").exists()


def test_another_user_is_told_what_needs_a_permission(trained, server, folder, monkeypatch):
    bob = server.make_user("bob")
    run(folder, bob, "promote", "--model-name", NAME, "--mode", "dry_run")
    for name, value in bob.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(AccessError, match=r"needs to let bob do this; found .*403"), naming_outages():
        remove_alias(NAME, "champion")


def test_a_server_that_is_started_again_loses_nothing(client, server, ada, folder, dataset):
    n_before = len(client.search_runs(["0"], "tags.annotary.stage = 'trial'"))
    tuning = start(folder, ada, *FOREST, "--dataset", dataset, "--n-trials", "5")  # fmt: skip
    wait_for_trials(client, n_before + 1, tuning)
    server.kill()
    time.sleep(3)
    server.start()
    _, error = finish(tuning)
    assert "the server does not answer; trying again" in error
    found = find_last_run(client, "baselines")
    assert found.info.status == "FINISHED"
    trials = client.search_runs(["0"], f"tags.mlflow.parentRunId = '{found.info.run_id}'")
    assert sorted(int(one.info.run_name.split()[-1]) for one in trials) == list(range(5))
    assert {one.info.status for one in trials} == {"FINISHED"}


def test_a_server_that_stays_away_ends_a_stage_with_one_error(client, server, ada, folder, dataset):
    n_before = len(client.search_runs(["0"], "tags.annotary.stage = 'trial'"))
    tuning = start(folder, ada, *FOREST, "--dataset", dataset, "--n-trials", "50", retries=2)  # fmt: skip
    wait_for_trials(client, n_before + 1, tuning)
    server.kill()
    _, error = finish(tuning, code=1, within=PATIENCE_S)
    assert last_line(error).startswith(f"annotary: error: tracking store {server.address} needs to answer")
    assert "Connection refused" in last_line(error)
    assert "Traceback" not in error


def test_a_server_that_is_away_at_the_start_of_score_is_waited_for_or_named(trained, server, folder):
    server.kill()
    arguments = ["score", "--input", "cells.h5ad", "--output", "late", "--settle-seconds", "0"]
    _, error = finish(start(folder, trained, *arguments, retries=2), code=1, within=PATIENCE_S)
    assert f"tracking store {server.address} needs to answer; found" in last_line(error)
    assert not (folder / "late").exists()
    scoring = start(folder, trained, *arguments)
    time.sleep(4)
    server.start()
    finish(scoring)
    assert (folder / "late" / "cells.annotated.h5ad").exists()


def score_many(folder: Path, user: dict[str, str], name: str, *, retries: int) -> subprocess.Popen:
    """Start to annotate files, and come back when some are done."""
    for number in range(30):
        (folder / name).mkdir(exist_ok=True)
        write_cells(folder / name / f"{number}.h5ad", n_cells=20, seed=number)
    output = f"{name}-out"
    scoring = start(folder, user, "score", "--input", name, "--output", output, "--settle-seconds", "0",
                    retries=retries)  # fmt: skip
    until = time.monotonic() + 60
    while not list((folder / output).glob("*.annotated.h5ad")):
        assert scoring.poll() is None, scoring.communicate()
        assert time.monotonic() < until
        time.sleep(0.02)
    return scoring


def check_whole(folder: Path, name: str) -> None:
    names = {
        path.name
        for path in (folder / f"{name}-out").iterdir()
        if not path.name.startswith("annotary-ledger")
    }
    assert names == {f"{number}.annotated.h5ad" for number in range(30)}, (
        "nothing half written, nothing missing"
    )


def test_a_server_that_comes_back_while_files_are_annotated_is_told_of_them(trained, client, server, folder):
    scoring = score_many(folder, trained, "short", retries=7)
    server.kill()
    restart = threading.Timer(3, server.launch)
    restart.start()
    finish(scoring)
    restart.join()
    check_whole(folder, "short")
    found = find_last_run(client, "score")
    assert (found.info.status, found.data.metrics["files_annotated"]) == ("FINISHED", 30)


def test_a_server_that_stays_away_while_files_are_annotated_costs_no_file(trained, client, server, folder):
    scoring = score_many(folder, trained, "long", retries=2)
    server.kill()
    out, error = finish(scoring, code=5, within=PATIENCE_S)
    assert "what was done is not in MLflow" in error
    assert json.loads(out)["exit_code"] == 5
    check_whole(folder, "long")
    server.start()
    out, _ = run(folder, trained, "score", "--input", "long", "--output", "long-out", "--settle-seconds", "0")
    assert {file["status"] for file in json.loads(out)["files"]} == {"known"}
