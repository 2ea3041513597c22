"""MLflow 2 of 4: log models, register versions, move aliases, load."""

import contextlib
import io
import shutil
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import mlflow
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, RESOURCE_DOES_NOT_EXIST, ErrorCode

import annotary
from annotary import __version__, pyfunc
from annotary.config import CHALLENGER
from annotary.data.hashing import hash_file
from annotary.errors import BundleError, RegistryError, summarize
from annotary.logged_models import (
    CONTENTS_HASH_TAG,
    Candidate,
    find_candidates,
    get_candidate,
    get_candidates,
    get_logged_tags,
    list_requirements,
    log_model_metrics,
    make_signature,
)
from annotary.models.bundle import Bundle
from annotary.models.bundle_files import MANIFEST, hash_contents, load_bundle, save_bundle
from annotary.outage import refuse_outage
from annotary.tracking import (
    DATASET_HASH_TAG,
    KIND_TAG,
    PANEL_HASH_TAG,
    SPLIT_HASH_TAG,
    VERSION_TAG,
)
from annotary.version_files import BUNDLE, CODE, MODEL_HASH_TAG, describe_files, write_code_list

__all__ = ["Candidate", "find_candidates", "get_candidate", "get_candidates", "log_model_metrics"]

_NOT_THERE = {ErrorCode.Name(INVALID_PARAMETER_VALUE), ErrorCode.Name(RESOURCE_DOES_NOT_EXIST)}
_MOST_VERSIONS = 100_000
_FROM_A_LOGGED_MODEL = "models:/"


@dataclass(frozen=True)
class RegisteredVersion:
    """A version of a registered model.

    Attributes
    ----------
    name, number
        Registered model and version.
    run_id
        Run that trained it.
    tags
        Its tags.
    created
        When it was registered: UTC, ISO 8601.
    created_ms
        The same in milliseconds since 1970.
    model_id
        MLflow's id of the logged model that it was made of; empty where it was made of files.
    """

    name: str
    number: str
    run_id: str
    tags: dict[str, str]
    created: str
    created_ms: int = 0
    model_id: str = ""

    @property
    def uri(self) -> str:
        """Address for :func:`load`: the version, not an alias that may move."""
        return f"models:/{self.name}/{self.number}"


def log_bundle(bundle: Bundle) -> Candidate:
    """Log a model to the active run in its registered form.

    Returns
    -------
    The logged model, tagged with its kind and hashes.
    """
    with tempfile.TemporaryDirectory(prefix="annotary-") as name:
        folder = Path(name)
        code = folder / CODE / "annotary"
        shutil.copytree(
            Path(annotary.__file__).parent, code, ignore=shutil.ignore_patterns("__pycache__", "*.pyc")
        )
        write_code_list(folder / CODE, folder / pyfunc.BUNDLE_ARTIFACT)
        save_bundle(bundle, folder / pyfunc.BUNDLE_ARTIFACT)
        info = mlflow.pyfunc.log_model(
            name=bundle.model.kind,
            python_model=str(Path(pyfunc.__file__)),
            code_paths=[str(code)],
            artifacts={pyfunc.BUNDLE_ARTIFACT: str(folder / pyfunc.BUNDLE_ARTIFACT)},
            signature=make_signature(bundle),
            pip_requirements=list_requirements(bundle.model.kind),
            tags={
                KIND_TAG: bundle.model.kind,
                DATASET_HASH_TAG: bundle.provenance.dataset_hash,
                SPLIT_HASH_TAG: bundle.provenance.split_hash,
                PANEL_HASH_TAG: bundle.spec.panel_hash,
                VERSION_TAG: __version__,
                CONTENTS_HASH_TAG: hash_contents(folder / pyfunc.BUNDLE_ARTIFACT),
                MODEL_HASH_TAG: hash_file(folder / pyfunc.BUNDLE_ARTIFACT / MANIFEST),
            },
        )
    return Candidate(model_id=info.model_id, kind=bundle.model.kind, run_id=bundle.provenance.run_id)


def load(uri: str) -> Bundle:
    """Load a model from its address: its files are read by this version of annotary, in this process.

    Raises
    ------
    RegistryError
        If its files cannot be had.
    BundleError
        If they are no model that annotary registered, or were altered.
    """
    return load_bundle(fetch_bundle(uri))


def register(
    candidate: Candidate, name: str, *, tags: dict[str, str], folder: Path | None = None
) -> RegisteredVersion:
    """Make a logged model a version of a registered model, once; tags are brought up to date.

    Parameters
    ----------
    folder
        Its files, if they were fetched before.

    Raises
    ------
    BundleError
        If its files are others than those that were logged, or registered before: their hashes are
        recorded once.
    """
    folder = fetch_model(candidate.uri) if folder is None else folder
    hashes = describe_files(folder)
    client = mlflow.MlflowClient()
    found = _find_version(name, candidate.model_id)
    recorded = get_logged_tags(candidate.model_id) | (dict(found.tags) if found else {})
    for tag, value in hashes.items():
        if recorded.get(tag, value) != value:
            raise BundleError(
                folder,
                expected=f"to be as it was registered, {tag} = {recorded[tag]}",
                found=value,
                remedy="The model's files were altered: train it again.",
            )
    if found is None:
        with contextlib.redirect_stderr(io.StringIO()):  # MLflow prints what it made
            found = mlflow.register_model(candidate.uri, name, tags=hashes)
    for key, value in (tags | hashes).items():
        client.set_model_version_tag(name, found.version, key, value)
    return get_version(name, str(found.version))


def _find_version(name: str, model_id: str) -> ModelVersion | None:
    """Find the version that was made of a logged model."""
    versions = mlflow.search_model_versions(filter_string=f"name = '{name}'", max_results=_MOST_VERSIONS)
    return next((found for found in versions if model_id in (found.model_id, _id_of(found.source))), None)


def _id_of(source: str | None) -> str:
    """Read the logged model's id out of a version's source, ``models:/ID``; empty where it has none."""
    found = (source or "").removeprefix(_FROM_A_LOGGED_MODEL)
    return "" if found == source or "/" in found or "@" in found else found


def get_version(name: str, number: str) -> RegisteredVersion:
    """Get a version with its tags.

    Raises
    ------
    RegistryError
        If there is no such version.
    """
    try:
        found = mlflow.MlflowClient().get_model_version(name, number)
    except MlflowException as error:
        refuse_outage(error)
        raise RegistryError(
            f"models:/{name}/{number}",
            expected="to be a version of a registered model",
            found=summarize(error),
            remedy="Look up its number in MLflow's UI.",
        ) from error
    return _to_version(found)


def _to_version(found: ModelVersion) -> RegisteredVersion:
    """Read a version as MLflow gives it."""
    created = datetime.fromtimestamp((found.creation_timestamp or 0) / 1000, tz=UTC)
    return RegisteredVersion(
        name=found.name,
        number=str(found.version),
        run_id=found.run_id or "",
        tags=dict(found.tags),
        created=created.isoformat(timespec="seconds"),
        created_ms=found.creation_timestamp or 0,
        model_id=found.model_id or _id_of(found.source),
    )


def find_renamed(number: str, run_id: str) -> RegisteredVersion | None:
    """Find a version by number and training run where its registered model has another name now."""
    found = mlflow.search_model_versions(filter_string=f"run_id = '{run_id}'") if run_id.isalnum() else []
    same = [_to_version(one) for one in found if str(one.version) == number]
    return same[0] if len(same) == 1 else None


def list_versions(name: str) -> list[RegisteredVersion]:
    """List the versions of a registered model, newest first."""
    found = mlflow.search_model_versions(filter_string=f"name = '{name}'", max_results=_MOST_VERSIONS)
    return sorted(map(_to_version, found), key=lambda version: int(version.number), reverse=True)


def list_aliases(name: str) -> dict[str, str]:
    """List the aliases of a registered model and the version that each means.

    Raises
    ------
    RegistryError
        If there is no such model.
    """
    try:
        aliases = mlflow.MlflowClient().get_registered_model(name).aliases
    except MlflowException as error:
        refuse_outage(error)
        raise RegistryError(
            f"registered model {name!r}",
            expected="to be in the registry",
            found=summarize(error),
            remedy=f"Check --model-name, and MLFLOW_TRACKING_URI (now {mlflow.get_registry_uri()}).",
        ) from error
    return {alias: str(number) for alias, number in aliases.items()}


def find_alias(name: str, alias: str) -> RegisteredVersion | None:
    """Find the version that an alias means; None where the model or the alias is not there."""
    try:
        found = mlflow.MlflowClient().get_model_version_by_alias(name, alias)
    except MlflowException as error:
        refuse_outage(error)
        if error.error_code in _NOT_THERE:
            return None
        raise
    return get_version(name, str(found.version))


def resolve_alias(name: str, alias: str) -> RegisteredVersion:
    """Get the version that an alias means.

    Raises
    ------
    RegistryError
        If the model or the alias is not there.
    """
    found = find_alias(name, alias)
    if found is None:
        raise RegistryError(
            f"models:/{name}@{alias}",
            expected="a version with this alias",
            found=_describe_model(name),
            remedy=f"Run annotary {'evaluate' if alias == CHALLENGER else 'promote'}, "
            f"or set the alias {alias!r} in MLflow's UI. If the champion was deleted, annotary rollback "
            "returns to the one before. "
            f"The registry is {mlflow.get_registry_uri()}.",
        )
    return found


def _describe_model(name: str) -> str:
    """Tell which aliases a model has."""
    try:
        aliases = mlflow.MlflowClient().get_registered_model(name).aliases
    except MlflowException:
        return f"no registered model {name!r}"
    return "the aliases " + (", ".join(f"{key}={value}" for key, value in aliases.items()) or "none")


def set_alias(target: RegisteredVersion, alias: str) -> None:
    """Move an alias to a version."""
    mlflow.MlflowClient().set_registered_model_alias(target.name, alias, target.number)


def remove_alias(name: str, alias: str) -> None:
    """Take an alias off whichever version has it."""
    mlflow.MlflowClient().delete_registered_model_alias(name, alias)


def describe_version(target: RegisteredVersion, text: str) -> None:
    """Write a version's description, Markdown."""
    mlflow.MlflowClient().update_model_version(target.name, target.number, description=text)


def fetch_model(uri: str) -> Path:
    """Get the folder with all files of a logged model or a version, unread and unchecked.

    Raises
    ------
    RegistryError
        If the files cannot be had.
    """
    try:
        return Path(mlflow.artifacts.download_artifacts(artifact_uri=uri))
    except (MlflowException, OSError) as error:
        refuse_outage(error)
        raise RegistryError(
            uri,
            expected="files in the artifact store",
            found=summarize(error),
            remedy="Check that its artifact store can be reached. If its files are gone for good, delete the "
            "version in MLflow: the others go on without it.",
        ) from error


def fetch_bundle(uri: str) -> Path:
    """Get the folder with a model's own files, unread and unchecked.

    Raises
    ------
    RegistryError
        If the files cannot be had.
    """
    return fetch_model(uri) / BUNDLE


def tag_version(target: RegisteredVersion, tags: dict[str, str]) -> None:
    """Tag a version."""
    client = mlflow.MlflowClient()
    for key, value in tags.items():
        client.set_model_version_tag(target.name, target.number, key, value)
