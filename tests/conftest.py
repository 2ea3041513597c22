"""Fixtures: a tracking store of its own for each test that needs one, and simulated data."""

import contextlib
import importlib.util
import os
import shutil
import sys
from pathlib import Path
from types import ModuleType

import mlflow
import pytest
from hypothesis import settings
from simulate import write_cells

from annotary.config import MainConfig
from annotary.quality.embedding import embed_cells
from annotary.tracking import connect

PROJECT = Path(__file__).parents[1]
SHARED_DATA = PROJECT.parent / "shared" / "data"

SMALL = {
    "doublets": "none",
    "min_genes": 20,
    "n_top_genes": 120,
    "n_trials": 2,
    "n_folds": 2,
    "max_epochs": 3,
    "d_model": 16,
    "n_layers": 1,
    "n_heads": 2,
    "device": "cpu",
}
"""Parameters of a main job that takes seconds."""


settings.register_profile("untimed", deadline=None)  # a busy machine is no failure
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory) -> Path:
    """Make a migrated SQLite file once; each test copies it."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    mlflow.set_tracking_uri(f"sqlite:///{path}")
    connect()
    mlflow.set_tracking_uri(None)
    return path


@pytest.fixture
def store(empty_store, tmp_path, monkeypatch) -> Path:
    """Give the test a folder with an empty tracking store, and make it the working folder."""
    use_store(empty_store, tmp_path, monkeypatch)
    yield tmp_path
    leave_store()


@pytest.fixture(scope="module")
def module_store(empty_store, tmp_path_factory) -> Path:
    """Give a module's tests one tracking store and folder to share."""
    folder = tmp_path_factory.mktemp("module")
    with pytest.MonkeyPatch.context() as monkeypatch:
        use_store(empty_store, folder, monkeypatch)
        yield folder
        leave_store()


def use_store(empty_store: Path, folder: Path, monkeypatch) -> None:
    shutil.copy(empty_store, folder / "mlflow.db")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
    for name in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID"):
        monkeypatch.delenv(name, raising=False)
    mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
    experiment = mlflow.create_experiment("tests", artifact_location=(folder / "artifacts").as_uri())
    mlflow.set_experiment(experiment_id=experiment)


def leave_store() -> None:
    while mlflow.active_run():
        mlflow.end_run("KILLED")
    mlflow.set_tracking_uri(None)
    os.environ.pop("MLFLOW_EXPERIMENT_ID", None)


class EmbeddingHere:
    """Embeds in the test's own process, which compiles once for all tests."""

    def __init__(self, seed):
        self._seed = seed

    def start(self, log_expr):
        self._positions = embed_cells(log_expr, seed=self._seed)

    def get(self):
        return self._positions


@pytest.fixture(autouse=True)
def embedding_here(monkeypatch):
    embed_here(monkeypatch)


def embed_here(monkeypatch) -> None:
    monkeypatch.setattr(
        "annotary.stages.training_picture.open_embedding",
        lambda *, seed: contextlib.nullcontext(EmbeddingHere(seed)),
    )


@pytest.fixture(autouse=True)
def reading_here(monkeypatch, request):
    """Read files in the test's own process; tests of the process that score starts are marked ``bounded``."""
    if "bounded" not in request.keywords:
        monkeypatch.setattr("annotary.bounded.open_bounded", lambda **options: contextlib.nullcontext(None))


class NoEmbedding:
    """Has no positions, and takes no time."""

    def start(self, log_expr):
        pass

    def get(self):
        return None


@pytest.fixture
def no_embedding(monkeypatch):
    """For tests that preprocess many times and look at no picture."""
    leave_out_embedding(monkeypatch)


def leave_out_embedding(monkeypatch) -> None:
    monkeypatch.setattr(
        "annotary.stages.training_picture.open_embedding",
        lambda *, seed: contextlib.nullcontext(NoEmbedding()),
    )


@pytest.fixture
def cells_file(tmp_path) -> Path:
    """A small h5ad file of simulated labelled counts."""
    return write_cells(tmp_path / "cells.h5ad")


@pytest.fixture(scope="module")
def main_config(module_store) -> MainConfig:
    """A main job on simulated data that takes seconds."""
    source = write_cells(module_store / "cells.h5ad")
    terms = module_store / "terms.csv"
    terms.write_text("label,cell_type_ontology_term_id\nB cell,CL:0000236\nT cell,CL:0000084\n")
    return MainConfig(input=str(source), output=str(module_store / "out"), ontology=str(terms), **SMALL)


def shared_data(name: str) -> Path:
    """Find a file of real labelled data, or skip the test."""
    path = SHARED_DATA / name
    if not path.exists():
        pytest.skip(f"{name} is not beside the project, in ../shared/data")
    return path


def load_benchmark(name: str) -> ModuleType:
    """Import a benchmark under a name that no other module has."""
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", PROJECT / "benchmarks" / f"{name}.py")
    benchmark = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = benchmark
    spec.loader.exec_module(benchmark)
    return benchmark
