"""What a user or a container lacks is made up for, or named with the remedy: never a bug in annotary."""

import getpass
import os
import re
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import mlflow
import pytest

from annotary.config import LedgerConfig
from annotary.environment import name_user, prepare_environment
from annotary.errors import ConfigError, RegistryError, StoreError
from annotary.tracking import connect, stage_run

CACHES = ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "MPLCONFIGDIR", "NUMBA_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR")


@pytest.fixture
def bare(monkeypatch, tmp_path):
    """An environment without caches, whose temporary folder is the test's."""
    for name in (*CACHES, "LOGNAME"):
        monkeypatch.setenv(name, "x")
        monkeypatch.delenv(name)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_a_user_without_a_name_gets_one_that_libraries_find(bare, monkeypatch):
    def fail():
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.setattr(getpass, "getuser", fail)
    assert name_user() == f"user {os.getuid()}"
    prepare_environment([bare])
    assert os.environ["LOGNAME"] == name_user()


@pytest.mark.parametrize("home", ["", "/nonexistent", "/proc"])
def test_without_a_home_that_can_be_written_caches_lie_in_a_folder_of_our_own(bare, monkeypatch, home):
    monkeypatch.setenv("HOME", home)
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) not in ("/nonexistent", "/proc"))
    prepare_environment([bare])
    for name in CACHES:
        folder = Path(os.environ[name]).parent
        assert folder.is_relative_to(bare)
        assert folder.stat().st_mode & 0o777 == 0o700
    assert os.environ["HOME"] == (home or str(folder))


def test_a_home_that_can_be_written_and_caches_that_are_set_stay(bare, monkeypatch):
    monkeypatch.setenv("HOME", str(bare))
    prepare_environment([bare])
    assert "MPLCONFIGDIR" not in os.environ
    monkeypatch.setenv("HOME", "")
    monkeypatch.setenv("MPLCONFIGDIR", "mine")
    prepare_environment([bare])
    assert os.environ["MPLCONFIGDIR"] == "mine"


def test_a_cache_folder_of_somebody_else_is_not_taken(bare, monkeypatch):
    (bare / "elsewhere").mkdir()
    (bare / f"annotary-cache-{os.getuid()}").symlink_to(bare / "elsewhere")
    monkeypatch.setenv("HOME", "")
    prepare_environment([bare])
    assert not Path(os.environ["MPLCONFIGDIR"]).resolve().is_relative_to(bare / "elsewhere")


def test_without_a_temporary_folder_the_output_s_is_taken_or_it_is_named(bare, monkeypatch):
    def fail():
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setenv("HOME", str(bare))
    monkeypatch.setenv("TMPDIR", "/nonexistent")
    monkeypatch.setattr(tempfile, "gettempdir", fail)
    (bare / "file").write_text("")
    with pytest.raises(ConfigError, match=r"TMPDIR needs to be a folder for temporary files.*Set TMPDIR"):
        prepare_environment([bare / "file" / "below"])
    prepare_environment([bare / "file" / "below", bare])
    assert Path(tempfile.tempdir).is_relative_to(bare)


def test_a_current_folder_that_is_gone_is_named(bare, monkeypatch):
    gone = bare / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(ConfigError, match=r"the current folder needs to be there.*\(cd\)"):
        prepare_environment([])


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("mysql://a/b", "Install the driver"),
        ("postgresql+nodriver://a/b", "Install the driver"),
        ("foo://a/b", "foo.*Check MLFLOW_TRACKING_URI"),
        ("sqlite:////proc/nowhere/mlflow.db", "Check MLFLOW_TRACKING_URI|Let user"),
    ],
)
def test_a_store_that_cannot_be_opened_is_named(address, says, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    mlflow.set_tracking_uri(address)
    try:
        with pytest.raises(RegistryError, match=f"tracking store {re.escape(address[:8])}.*{says}") as caught:
            connect()
        assert len(str(caught.value).splitlines()) == 1
    finally:
        mlflow.set_tracking_uri(None)


@pytest.mark.parametrize(
    "content", [b"no database, but a text of some length. " * 99, b"SQLite format 3\x00" + b"x" * 99]
)
def test_a_damaged_store_is_named_at_once(content, tmp_path, monkeypatch):
    path = tmp_path / "mlflow.db"
    path.write_bytes(content)
    mlflow.set_tracking_uri(f"sqlite:///{path}")
    try:
        with pytest.raises(RegistryError, match=r"mlflow\.db.*from a backup"):
            connect()
    finally:
        mlflow.set_tracking_uri(None)
    assert path.read_bytes() == content
    with pytest.raises(sqlite3.DatabaseError):
        sqlite3.connect(path).execute("PRAGMA schema_version")


@pytest.mark.parametrize("how", ["deleted", "absent"])
def test_an_experiment_that_takes_no_runs_is_named_with_what_set_it(how, store, monkeypatch):
    experiment = mlflow.create_experiment("gone")
    if how == "deleted":
        mlflow.delete_experiment(experiment)
    name, value = ("MLFLOW_EXPERIMENT_NAME", "gone") if how == "deleted" else ("MLFLOW_EXPERIMENT_ID", "999")
    monkeypatch.delenv("MLFLOW_EXPERIMENT_ID", raising=False)
    monkeypatch.setenv(name, value)
    monkeypatch.setattr("mlflow.tracking.fluent._active_experiment_id", None)
    with pytest.raises(RegistryError, match=rf"experiment.*{name}={value}.*mlflow experiments restore"):  # noqa: SIM117
        with stage_run("ledger", LedgerConfig()):
            pass


def test_artifacts_that_cannot_be_written_are_named(store):
    (store / "artifacts").write_text("a file where the folder should be")
    with (
        pytest.raises(StoreError, match=r"artifacts of the run at .*user can write.*MLFLOW_EXPERIMENT_NAME"),
        stage_run("ledger", LedgerConfig()) as run,
    ):
        run.log_text("text", "note.txt")
    assert mlflow.get_run(run.run_id).info.status == "FAILED"


@pytest.mark.full
@pytest.mark.parametrize(
    "command", ["preprocess", "score --input .", "models", "ledger", "rollback", "promote", "main"]
)
def test_every_command_says_it_in_one_line(command, tmp_path):
    gone = tmp_path / "gone"
    script = f'mkdir "{gone}"; cd "{gone}"; rmdir "{gone}"; exec {sys.executable} -m annotary {command}'
    for env, runs, says in (
        ({}, ["bash", "-c", script], "the current folder needs to be there"),
        (
            {"MLFLOW_TRACKING_URI": "mysql://a/b"},
            [sys.executable, "-m", "annotary", *command.split()],
            "Install the driver",
        ),
    ):
        ran = subprocess.run(runs, capture_output=True, text=True, cwd=tmp_path, env=os.environ | env)
        assert ran.returncode == 1
        last = ran.stderr.strip().splitlines()[-1]
        assert last.startswith("annotary: error: ")
        assert says in last
        assert "bug" not in ran.stderr
