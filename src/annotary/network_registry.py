"""MLflow 4 of 4: pretrained networks, which are versions of plain files."""

import contextlib
from pathlib import Path

import mlflow
from mlflow.exceptions import MlflowException

from annotary.errors import InputFileError
from annotary.paths import is_remote, is_run_id
from annotary.registry import RegisteredVersion, get_version
from annotary.tracking import StageRun, fetch

FOLDER = "pretrained"


def register_network(run: StageRun, folder: Path, name: str, *, tags: dict[str, str]) -> RegisteredVersion:
    """Log the files of a pretrained network and make them a version of a registered model."""
    client = mlflow.MlflowClient()
    mlflow.log_artifacts(str(folder), FOLDER)
    with contextlib.suppress(MlflowException):  # it is there already; if not, the next line says so
        client.create_registered_model(name)
    source = mlflow.get_artifact_uri(FOLDER)
    made = client.create_model_version(name, source, run_id=run.run_id, tags=tags)
    return get_version(name, str(made.version))


def fetch_network(address: str) -> Path:
    """Get the folder of a pretrained network.

    Parameters
    ----------
    address
        ``models:/NAME/VERSION``, ``models:/NAME@ALIAS``, ``runs:/RUN_ID/pretrained``, the id of a run,
        or a folder.

    Raises
    ------
    InputFileError
        If it is not there.
    """
    if is_run_id(address):
        return fetch(f"runs:/{address}/{FOLDER}")
    if is_remote(address) or Path(address).is_dir():
        return fetch(address)
    raise InputFileError(
        "--init-from",
        expected="models:/NAME/VERSION, models:/NAME@ALIAS, the id of a run, or a folder",
        found=repr(address),
        remedy="Name what annotary pretrain printed.",
    )
