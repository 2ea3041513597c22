"""What MLflow would run to load a model, checked before it is asked to.

``mlflow.pyfunc.load_model`` imports whatever module a model's ``MLmodel`` names, unpickles where it says so,
and puts the model's code before everything else on the path. So whoever has MLflow load a version checks it
here first.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

from mlflow.models import Model

from annotary.errors import BundleError, summarize

_FLAVOR = "python_function"
_LOADER = "mlflow.pyfunc.loaders.code_model"
_ENTRY = "pyfunc.py"
_CODE = "code"
_PACKAGE = "annotary"
_ARTIFACTS = {"bundle": "artifacts/bundle"}
_SETTINGS = frozenset(
    {"artifacts", "cloudpickle_version", "code", "env", "loader_module", "model_code_path", "python_version"}
)
_EMPTY_SETTINGS = frozenset({"config", "model_config", "streamable", "prompts"})
_PICKLES = ("*.pkl", "*.pickle", "*.joblib")


def check_loader(folder: Path) -> Path:
    """Refuse a model of which MLflow would run something else than annotary's entry and the code beside it.

    Parameters
    ----------
    folder
        The model's files, with ``MLmodel``.

    Returns
    -------
    The folder.

    Raises
    ------
    BundleError
        Naming what is not annotary's.
    """
    try:
        problem = next(_find_strangers(Model.load(str(folder)).flavors, folder), "")
    except Exception as error:  # MLflow's readers of foreign YAML and JSON raise what they like
        raise _refuse(folder, f"one that cannot be read ({summarize(error)})") from error
    if problem:
        raise _refuse(folder, problem)
    return folder


def _refuse(folder: Path, found: str) -> BundleError:
    """Describe a model that is not annotary's."""
    return BundleError(
        folder / "MLmodel",
        expected="to name annotary's loader, entry and code, and no others",
        found=found,
        remedy="It was not run. Use a model that annotary registered, or roll back to another version.",
    )


def _find_strangers(flavors: Mapping[str, Any], folder: Path) -> Iterator[str]:
    """Find what is not as annotary's models have it."""
    if set(flavors) != {_FLAVOR}:
        yield f"the flavors {', '.join(sorted(flavors)) or 'none'}"
        return
    said = flavors[_FLAVOR]
    if said.get("loader_module") != _LOADER:
        yield f"the loader module {said.get('loader_module')!r}"
    for name, value in said.items():
        if name not in _SETTINGS and (name not in _EMPTY_SETTINGS or value):
            yield f"the setting {name!r}"
    yield from _find_strange_code(said, folder)
    artifacts = said.get("artifacts") or {}
    if {name: one.get("path") for name, one in artifacts.items()} != _ARTIFACTS:
        yield f"the artifacts {sorted(artifacts)}"
    for pattern in _PICKLES:
        for path in folder.rglob(pattern):
            yield f"the pickle {path.relative_to(folder)}"


def _find_strange_code(said: Mapping[str, Any], folder: Path) -> Iterator[str]:
    """Find code that is not where annotary puts it; MLflow takes of the entry's path the last part."""
    entry = PurePath(str(said.get("model_code_path"))).name
    if entry != _ENTRY or not _is_own(folder / entry):
        yield f"the entry {said.get('model_code_path')!r}"
    if said.get("code") != _CODE or not _is_own(folder / _CODE):
        yield f"the code path {said.get('code')!r}"
        return
    beside = sorted(path.name for path in (folder / _CODE).iterdir() if path.name != "__pycache__")
    if beside != [_PACKAGE]:
        yield f"the code of {', '.join(beside) or 'nothing'}"
    links = [path for path in (folder / _CODE).rglob("*") if path.is_symlink()]
    if links:
        yield f"a link in its code, {links[0].relative_to(folder)}"


def _is_own(path: Path) -> bool:
    """Tell a file or folder that is there, and no link to elsewhere."""
    return path.exists() and not path.is_symlink()
