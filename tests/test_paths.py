"""Relative paths start from the folder of the call, also inside `mlflow run`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from annotary.paths import resolve_path

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


def test_inside_mlflow_run_the_folder_is_that_of_the_process_that_started_it(tmp_path):
    caller, project = tmp_path / "caller", tmp_path / "project"
    caller.mkdir()
    project.mkdir()
    start = (
        "import subprocess, sys; "
        f"subprocess.run(['bash', '-c', sys.executable + ' -c \"$SHOW\"'], cwd={str(project)!r}, check=True)"
    )
    done = subprocess.run(
        [sys.executable, "-c", start],
        cwd=caller,
        env=os.environ | {"SHOW": SHOW, "MLFLOW_RUN_ID": "x"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == str(caller / "cells.h5ad")
