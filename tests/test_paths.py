"""Relative paths start from the folder of the call, also inside `mlflow run`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy

from annotary.paths import resolve_path, resolve_paths
from annotary.sqlite_address import to_address, to_path

SHOW = "from annotary.paths import resolve_path; print(resolve_path('cells.h5ad'))"


def test_relative_paths_become_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    assert resolve_path("cells.h5ad") == str(tmp_path / "cells.h5ad")
    assert resolve_path("../x.h5ad") == str(tmp_path.parent / "x.h5ad")


@pytest.mark.parametrize(
    "text", ["", "runs:/abc/dataset/dataset.h5ad", "models:/m@champion", "s3://b/c.h5ad"]
)
def test_empty_and_remote_addresses_stay(text):
    assert resolve_path(text) == text


def test_the_home_folder_is_understood():
    assert resolve_path("~/cells.h5ad") == str(Path.home() / "cells.h5ad")


@pytest.fixture
def folders(tmp_path):
    """The folder of a call, and a project's, in which `mlflow run` starts commands."""
    caller, project = tmp_path / "caller", tmp_path / "project"
    caller.mkdir()
    project.mkdir()
    (project / "MLproject").touch()
    return caller, project


def resolve_below(launcher, folders, **variables):
    """Have a program started in the caller's folder start a command in the project's; give its path."""
    caller, project = folders
    command = ["bash", "-c", f'{sys.executable} -c "$SHOW"; exit $?']
    launcher.write_text(f"import subprocess\nsubprocess.run({command!r}, cwd={str(project)!r}, check=True)\n")
    names = ("MLFLOW_RUN_ID", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_ID")
    env = {name: value for name, value in os.environ.items() if name not in names}
    done = subprocess.run(
        [sys.executable, launcher, "run", "."],
        cwd=caller,
        env=env | {"SHOW": SHOW} | variables,
        capture_output=True,
        text=True,
        check=True,
    )
    return Path(done.stdout.strip())


def test_inside_mlflow_run_the_folder_is_that_of_the_process_that_started_it(folders, tmp_path):
    found = resolve_below(tmp_path / "mlflow", folders, MLFLOW_RUN_ID="x")
    assert found == folders[0] / "cells.h5ad"


def test_a_program_that_runs_a_project_is_known_by_what_mlflow_gives_its_commands(folders, tmp_path):
    given = {"MLFLOW_RUN_ID": "x", "MLFLOW_TRACKING_URI": "sqlite:///x.db", "MLFLOW_EXPERIMENT_ID": "0"}
    assert resolve_below(tmp_path / "pipeline.py", folders, **given) == folders[0] / "cells.h5ad"


@pytest.mark.parametrize("name", ["schedule.py", "mlflow"])
def test_paths_start_here_where_no_run_was_made_or_an_id_is_left_over(name, folders, tmp_path):
    variables = {"MLFLOW_RUN_ID": "x"} if name == "schedule.py" else {}
    assert resolve_below(tmp_path / name, folders, **variables) == folders[1] / "cells.h5ad"


def test_a_link_keeps_its_own_name(tmp_path, monkeypatch):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "a1b2").touch()
    (tmp_path / "patient.h5ad").symlink_to(tmp_path / "store" / "a1b2")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    assert resolve_path("patient.h5ad") == str(tmp_path / "patient.h5ad")


def test_up_from_a_linked_folder_leads_above_its_target(tmp_path, monkeypatch):
    (tmp_path / "far" / "away").mkdir(parents=True)
    (tmp_path / "near").symlink_to(tmp_path / "far" / "away")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    assert resolve_path("near/../x.h5ad") == str(tmp_path / "far" / "x.h5ad")


@pytest.mark.parametrize("n_characters", [300, 9000])
def test_a_list_longer_than_any_path_is_a_list(n_characters, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    names = [f"sample_{number:04}.h5ad" for number in range(n_characters // 17 + 1)]
    assert resolve_paths(",".join(names)) == ",".join(str(tmp_path / name) for name in names)


@pytest.mark.parametrize("name", ["My Lab", "50% done", "what?", "a#b", "M\u00fcller", "{x}"])
def test_the_address_of_a_sqlite_file_leads_back_to_it_and_opens_it(name, tmp_path):
    path = tmp_path / name / "x.db"
    path.parent.mkdir()
    address = to_address(path)
    assert to_path(address) == path
    with sqlalchemy.create_engine(address).begin() as database:
        database.execute(sqlalchemy.text("CREATE TABLE t (x INTEGER)"))
    assert [found.name for found in path.parent.iterdir()] == ["x.db"]


@pytest.mark.parametrize("address", ["sqlite://", "sqlite:///:memory:", "postgresql://h/db", "http://h"])
def test_what_is_no_sqlite_file_has_no_path(address):
    assert to_path(address) is None
