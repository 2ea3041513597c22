"""`mlflow run` as a person types it, in a process of its own and from another folder."""

import json
import os
import subprocess
import sys
from pathlib import Path

import anndata
import mlflow
import pandas as pd
import pytest
from conftest import PROJECT, SMALL
from simulate import simulate_cells, write_cells

from annotary import keys
from annotary.scoring.ledger_file import LEDGER_NAME

pytestmark = pytest.mark.full

BIN = Path(sys.executable).parent

FRESH_PROCESS = """
import importlib.util, json, sys
sys.path = [entry for entry in sys.path if not entry.startswith(sys.argv[1])]
assert importlib.util.find_spec("annotary") is None
import mlflow, pandas as pd
kinds = {}
for address in sys.argv[3:]:
    model = mlflow.pyfunc.load_model(address)
    table = model.predict(pd.DataFrame({"path": [sys.argv[2]]}), params={"device": "cpu"})
    bundle = model.unwrap_python_model().bundle
    assert set(bundle.label_names) >= set(table["predicted_labels"])
    kinds[bundle.model.kind] = dict(zip(table["cell_id"], table["predicted_labels"]))
print(json.dumps(kinds))
"""


def mlflow_run(folder: Path, entry: str, **parameters: object) -> subprocess.CompletedProcess:
    """Run an entry point from a folder that is not the project's."""
    command = [str(BIN / "mlflow"), "run", str(PROJECT), "-e", entry, "--env-manager", "local"]
    for name, value in parameters.items():
        command += ["-P", f"{name}={value}"]
    return subprocess.run(
        command, cwd=folder, env=make_environment(), capture_output=True, text=True, timeout=500, check=False
    )


def make_environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    return kept | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("caller")
    write_cells(folder / "cells.h5ad")
    yield folder
    mlflow.set_tracking_uri(None)


@pytest.fixture(scope="module")
def main_job(folder) -> subprocess.CompletedProcess:
    done = mlflow_run(folder, "main", input="cells.h5ad", output="out", **SMALL)
    assert done.returncode == 0, done.stderr
    return done


def search_runs(folder: Path) -> pd.DataFrame:
    mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
    return mlflow.search_runs(search_all_experiments=True)


def test_main_prints_candidates_champion_file_and_how_to_open_the_ui(main_job, folder):
    for expected in ("macro-F1", "accuracy", "logistic regression", "random forest", "transformer"):
        assert expected in main_job.stdout
    assert "champion         models:/cell-annotator/" in main_job.stdout
    assert f"annotated file   {folder / 'out' / 'cells.annotated.h5ad'}" in main_job.stdout
    assert f"mlflow ui --backend-store-uri sqlite:///{folder / 'mlflow.db'}" in main_job.stdout


def test_relative_paths_start_from_the_folder_of_the_call(main_job, folder):
    written = {path.name for path in (folder / "out").iterdir()}
    assert written == {"dataset.h5ad", "dataset.html", "cleaning", "cells.annotated.h5ad", LEDGER_NAME}


def test_main_uses_the_run_of_mlflow_run_and_one_experiment(main_job, folder):
    runs = search_runs(folder)
    runs = runs[runs["tags.annotary.stage"].notna()]  # the promotion ledger is no stage's run
    mains = runs[runs["tags.annotary.stage"] == "main"]
    assert len(mains) == 1
    assert mains.iloc[0]["tags.mlflow.project.entryPoint"] == "main"
    assert len(set(runs["experiment_id"])) == 1
    assert (runs["status"] == "FINISHED").all()


@pytest.fixture(scope="module")
def scored(main_job, folder) -> pd.Series:
    """Labels that `score` gives to a file without labels."""
    query = simulate_cells(50, seed=7)
    del query.obs["cell_type"]
    query.write_h5ad(folder / "query.h5ad")
    done = mlflow_run(folder, "score", input="query.h5ad", output="scored")
    assert done.returncode == 0, done.stderr
    return anndata.read_h5ad(folder / "scored" / "query.annotated.h5ad").obs[keys.PREDICTED_LABELS]


def test_every_version_predicts_in_a_fresh_process_without_the_project_and_without_pickle(scored, folder):
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            FRESH_PROCESS,
            str(PROJECT / "src"),
            str(folder / "query.h5ad"),
            *(f"models:/cell-annotator/{number}" for number in (1, 2, 3)),
        ],
        cwd=folder,
        env=make_environment() | {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    labels = json.loads(done.stdout.splitlines()[-1])
    assert set(labels) == {"logistic_regression", "random_forest", "transformer"}
    assert scored.astype(str).to_dict() in labels.values()
    assert all(len(given) == 50 for given in labels.values())


def test_no_file_of_a_registered_model_is_a_pickle(main_job, folder):
    files = [path for path in folder.rglob("mlruns/**/*") if path.is_file() and "models" in path.parts]
    assert files
    assert not [path for path in files if path.suffix in {".pkl", ".pickle", ".pt", ".joblib", ".bin"}]


def test_a_failing_stage_fails_the_parent_with_its_own_message(folder):
    source = folder / "fractions.h5ad"
    adata = simulate_cells()
    adata.X.data[3] = 0.5
    adata.write_h5ad(source)
    done = mlflow_run(folder, "main", input="fractions.h5ad", output="failed", **SMALL)
    assert done.returncode != 0
    own = [line for line in done.stderr.splitlines() if line.startswith("annotary: error:")]
    assert len(own) == 1
    assert f"{source}: X needs non-negative integers; found 0.5 at cell 'cell0000'" in own[0]
    assert "Traceback" not in done.stderr
    assert list((folder / "failed").iterdir()) == []
    runs = search_runs(folder)
    failed = runs[runs["status"] == "FAILED"].set_index("tags.annotary.stage")
    assert set(failed.index) == {"main", "preprocess"}
    assert failed.loc["main", "tags.annotary.error"] == failed.loc["preprocess", "tags.annotary.error"]


def test_a_bad_number_is_named_by_the_command(folder):
    done = mlflow_run(folder, "preprocess", min_genes="many")
    assert done.returncode != 0
    assert "'--min-genes': 'many' is not a valid integer" in done.stderr
    assert "Traceback" not in done.stderr
