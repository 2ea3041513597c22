"""What MLflow would run to load a model: annotary's own, or nothing."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from annotary.errors import BundleError
from annotary.pyfunc_gate import check_loader

ABOUT = {
    "flavors": {
        "python_function": {
            "artifacts": {"bundle": {"path": "artifacts/bundle", "uri": "/tmp/bundle"}},
            "cloudpickle_version": "3.1.2",
            "code": "code",
            "env": {"conda": "conda.yaml", "virtualenv": "python_env.yaml"},
            "loader_module": "mlflow.pyfunc.loaders.code_model",
            "model_code_path": "/home/someone/annotary/pyfunc.py",
            "python_version": "3.11.7",
            "streamable": False,
        }
    },
    "mlflow_version": "3.17.2",
    "model_uuid": "m-1",
    "run_id": "1",
    "utc_time_created": "2026-01-01 00:00:00.000000",
}
"""What MLflow writes for a model of annotary; promotion has real ones pass the gate."""


@pytest.fixture
def model(tmp_path) -> Path:
    """The files of a model as the registry has them."""
    folder = tmp_path / "model"
    (folder / "code" / "annotary").mkdir(parents=True)
    (folder / "artifacts" / "bundle").mkdir(parents=True)
    (folder / "code" / "annotary" / "__init__.py").touch()
    (folder / "code" / "__pycache__").mkdir()
    (folder / "pyfunc.py").touch()
    (folder / "MLmodel").write_text(yaml.safe_dump(ABOUT))
    return folder


def say(folder: Path, **settings: object) -> None:
    about = yaml.safe_load((folder / "MLmodel").read_text())
    about["flavors"]["python_function"] |= settings
    (folder / "MLmodel").write_text(yaml.safe_dump(about))


def add_flavor(folder: Path) -> None:
    about = yaml.safe_load((folder / "MLmodel").read_text())
    about["flavors"]["sklearn"] = {"pickled_model": "model.pkl"}
    (folder / "MLmodel").write_text(yaml.safe_dump(about))


def drop_entry(folder: Path) -> None:
    about = yaml.safe_load((folder / "MLmodel").read_text())
    del about["flavors"]["python_function"]["model_code_path"]
    about["flavors"]["python_function"]["python_model"] = "python_model.pkl"
    (folder / "MLmodel").write_text(yaml.safe_dump(about))


def link_code(folder: Path) -> None:
    (folder / "code").rename(folder.parent / "elsewhere")
    (folder / "code").symlink_to(folder.parent / "elsewhere")


STRANGERS: dict[str, tuple[Callable[[Path], None], str]] = {
    "loader": (lambda folder: say(folder, loader_module="evil"), "the loader module 'evil'"),
    "mlflow's own unpickler": (
        lambda folder: say(folder, loader_module="mlflow.pyfunc.model"),
        "the loader module 'mlflow.pyfunc.model'",
    ),
    "pickled model": (drop_entry, "the setting 'python_model'"),
    "data path": (lambda folder: say(folder, data="../elsewhere"), "the setting 'data'"),
    "prediction": (lambda folder: say(folder, predict_fn="evil"), "the setting 'predict_fn'"),
    "entry": (lambda folder: say(folder, model_code_path="evil.py"), "the entry 'evil.py'"),
    "code above": (lambda folder: say(folder, code="../../evil"), "the code path '../../evil'"),
    "absolute code": (lambda folder: say(folder, code="/tmp/evil"), "the code path '/tmp/evil'"),
    "code beside": (
        lambda folder: (folder / "code" / "pandas.py").write_text(""),
        "the code of annotary, pandas.py",
    ),
    "linked code": (link_code, "the code path 'code'"),
    "linked module": (
        lambda folder: (folder / "code" / "annotary" / "x.py").symlink_to("/etc/hostname"),
        "a link in its code",
    ),
    "linked entry": (
        lambda folder: ((folder / "pyfunc.py").unlink(), (folder / "pyfunc.py").symlink_to("/etc/hostname")),
        "the entry",
    ),
    "artifacts": (
        lambda folder: say(folder, artifacts={"bundle": {"path": "/tmp"}}),
        "the artifacts",
    ),
    "other flavor": (add_flavor, "the flavors python_function, sklearn"),
    "pickle": (lambda folder: (folder / "python_model.pkl").write_text(""), "the pickle python_model.pkl"),
    "no yaml": (lambda folder: (folder / "MLmodel").write_text("{: ["), "one that cannot be read"),
    "unsafe yaml": (
        lambda folder: (folder / "MLmodel").write_text('flavors: !!python/object/apply:os.mkdir ["evil"]'),
        "one that cannot be read",
    ),
    "none": (lambda folder: (folder / "MLmodel").unlink(), "one that cannot be read"),
}


def test_a_registered_model_may_be_loaded(model):
    assert check_loader(model) == model


@pytest.mark.parametrize("name", STRANGERS)
def test_what_is_not_annotary_s_is_refused(name, model):
    spoil, found = STRANGERS[name]
    spoil(model)
    with pytest.raises(BundleError, match=rf"MLmodel needs .*{found}"):
        check_loader(model)
