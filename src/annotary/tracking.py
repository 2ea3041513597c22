"""MLflow 1 of 4: runs, parameters, metrics, artifacts."""

import contextlib
import json
import os
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import mlflow
import pandas as pd
from mlflow.data.dataset_source_registry import resolve_dataset_source
from mlflow.data.meta_dataset import MetaDataset
from mlflow.entities import Metric, Param, RunInfo, RunTag
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME

from annotary import __version__
from annotary.config import StageConfig
from annotary.data.csv_text import write_csv
from annotary.data.dataset import DatasetRecord, DatasetTables
from annotary.errors import AnnotaryError, InputFileError, RegistryError, summarize
from annotary.outage import closing_soon, naming_artifacts, naming_outages, refuse_outage
from annotary.paths import hide_password, is_remote
from annotary.tracking_store import connect as connect
from annotary.tracking_store import describe_ui as describe_ui
from annotary.tracking_store import find_checkpoints as find_checkpoints
from annotary.tracking_store import find_study_storage as find_study_storage
from annotary.tracking_store import settle_run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STAGE_TAG = "annotary.stage"
VERSION_TAG = "annotary.version"
ERROR_TAG = "annotary.error"
KIND_TAG = "annotary.kind"
DATASET_TAG = "annotary.dataset"
SOURCE_TAG = "annotary.source"
DATASET_HASH_TAG = "annotary.dataset_hash"
COUNTS_HASH_TAG = "annotary.counts_hash"
SPLIT_HASH_TAG = "annotary.split_hash"
PANEL_HASH_TAG = "annotary.panel_hash"
TRIAL_STATE_TAG = "annotary.trial_state"
LEAKY_TAG = "leaky"

_DIGEST_LENGTH = 36
_LONGEST_DATASET_NAME = 500
_LONGEST_TAG = 5000
_LONGEST_PARAM = 6000
_EXPERIMENT = ("MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID")


class LoggedDataset(MetaDataset):
    """A dataset file as MLflow shows it; its digest is the start of its content hash."""

    def __init__(self, dataset: DatasetTables, path: Path) -> None:
        self._dataset = dataset
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # MLflow registers the local file source twice, and says so
            source = resolve_dataset_source(str(path))
        super().__init__(
            source=source,
            name=dataset.record.source[:_LONGEST_DATASET_NAME],
            digest=dataset.record.dataset_hash[:_DIGEST_LENGTH],
        )

    @property
    def profile(self) -> dict[str, int]:
        """Size of the dataset."""
        return {
            "n_cells": len(self._dataset.obs),
            "n_genes": len(self._dataset.var),
            "n_panel": len(self._dataset.panel),
            "n_labels": len(self._dataset.record.label_names),
        }


@dataclass(frozen=True)
class StageRun:
    """The MLflow run of a stage.

    Attributes
    ----------
    run_id, experiment_id
        Ids of the run and its experiment.
    """

    run_id: str
    experiment_id: str

    def link(self, name: str) -> str:
        """Give the address of an artifact within MLflow's UI."""
        return f"#/experiments/{self.experiment_id}/runs/{self.run_id}/artifacts/{quote(name)}"

    def log_metrics(self, metrics: dict[str, float], *, step: int | None = None) -> None:
        """Log figures in one request."""
        mlflow.log_metrics(metrics, step=step, run_id=self.run_id)

    def set_tags(self, tags: dict[str, str]) -> None:
        """Tag the run."""
        mlflow.set_tags(tags)

    def log_figure(self, figure: "Figure", name: str) -> None:
        """Log a figure as ``figures/NAME.png``."""
        with naming_artifacts():
            mlflow.log_figure(figure, f"figures/{name}.png", save_kwargs={"dpi": 120})

    def log_picture(self, picture: bytes, name: str) -> None:
        """Log a PNG as ``figures/NAME.png``."""
        with _log_new_file(f"{name}.png", "figures") as path:
            path.write_bytes(picture)

    def log_text(self, text: str, name: str) -> None:
        """Log a text file."""
        with naming_artifacts():
            mlflow.log_text(text, name)

    def log_text_if_possible(self, text: str, name: str) -> bool:
        """Log a text file; tell whether the store took it."""
        try:
            mlflow.log_text(text, name)
        except (MlflowException, OSError):
            return False
        return True

    def log_folder(self, folder: Path) -> None:
        """Log a folder with its files, under its name."""
        with naming_artifacts():
            mlflow.log_artifacts(str(folder), folder.name)

    def log_table(self, table: pd.DataFrame, name: str, *, index: bool = True) -> None:
        """Log a table as ``tables/NAME.csv``, with texts that no spreadsheet takes for a formula."""
        with _log_new_file(f"{name}.csv", "tables") as path:
            write_csv(table, path, index=index)

    def log_file(self, path: Path, folder: str) -> str:
        """Log a file; return its ``runs:/`` address."""
        with naming_artifacts():
            mlflow.log_artifact(str(path), folder)
        return f"runs:/{self.run_id}/{folder}/{path.name}"

    def log_dataset(self, dataset: DatasetTables, path: Path, *, context: str) -> None:
        """Record which dataset the run used."""
        mlflow.log_input(LoggedDataset(dataset, path), context=context)
        self.set_tags(describe_dataset(dataset.record))


@contextlib.contextmanager
def _log_new_file(name: str, folder: str) -> Iterator[Path]:
    """Log a file that the block writes."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / name
        yield path
        with naming_artifacts():
            mlflow.log_artifact(str(path), folder)


@contextlib.contextmanager
def stage_run(stage: str, config: StageConfig) -> Iterator[StageRun]:
    """Run a stage inside an MLflow run: the one of ``mlflow run``, or a new one.

    Inside another stage's run it is a child of it. An error ends the run as
    FAILED, with its message as a tag.

    Raises
    ------
    StoreError
        If the store goes away and stays so; what closes the run is then tried for some seconds only.
    """
    connect()
    settle_run()
    with naming_outages():
        info = _start_run(stage)
        run = StageRun(info.run_id, info.experiment_id)
        started = time.monotonic()
        try:
            with naming_outages():
                mlflow.set_tags({MLFLOW_RUN_NAME: stage, STAGE_TAG: stage, VERSION_TAG: __version__})
                _log_configuration(config)
                yield run
                mlflow.log_metrics({"stage_seconds": time.monotonic() - started}, run_id=run.run_id)
        except BaseException as error:
            with closing_soon():
                with contextlib.suppress(MlflowException, OSError):  # the work's error matters more
                    _record_failure(error)
                    mlflow.log_metrics({"stage_seconds": time.monotonic() - started}, run_id=run.run_id)
                with contextlib.suppress(MlflowException):
                    mlflow.end_run("FAILED")
            raise
        mlflow.end_run()


def _start_run(stage: str) -> RunInfo:
    """Begin a run, or go on with the one of ``mlflow run``.

    Raises
    ------
    RegistryError
        If the experiment is not there, or was deleted.
    """
    try:
        return mlflow.start_run(run_name=stage, nested=mlflow.active_run() is not None).info
    except MlflowException as error:
        refuse_outage(error)
        set_by = [f"{name}={os.environ[name]}" for name in _EXPERIMENT if os.environ.get(name) is not None]
        raise RegistryError(
            f"tracking store {hide_password(mlflow.get_tracking_uri())}",
            expected=f"an experiment that runs can be added to ({' and '.join(set_by) or 'the default one'})",
            found=summarize(error),
            remedy="Set MLFLOW_EXPERIMENT_NAME to another name, unset MLFLOW_EXPERIMENT_ID, or bring a "
            "deleted one back: mlflow experiments restore --experiment-id ID.",
        ) from error


def _log_configuration(config: StageConfig) -> None:
    """Log a configuration as parameters; of a value longer than MLflow takes all of it as a text file."""
    described = _describe(config)
    for name, value in described.items():
        if len(str(value)) > _LONGEST_PARAM:
            place = f"config/{name.removeprefix('config.')}.txt"
            with naming_artifacts():
                mlflow.log_text(f"{value}\n", place)
            note = f"... ({len(str(value)):,} characters; all in the artifact {place})"
            described[name] = f"{str(value)[: _LONGEST_PARAM - len(note)]}{note}"
    mlflow.log_params(described)


def _describe(config: StageConfig) -> dict[str, object]:
    """List a configuration as a run's parameters, which everybody may read."""
    return {
        f"config.{name}": hide_password(value) if isinstance(value, str) else value
        for name, value in config.model_dump().items()
    }


def _record_failure(error: BaseException) -> None:
    """Tag the active run with what went wrong; a failure that nobody foresaw leaves its traceback too."""
    if isinstance(error, AnnotaryError):
        mlflow.set_tag(ERROR_TAG, str(error)[:_LONGEST_TAG])
    elif isinstance(error, Exception):
        mlflow.set_tag(ERROR_TAG, f"{type(error).__name__}: {error}"[:_LONGEST_TAG])
        mlflow.log_text("".join(traceback.format_exception(error)), "error/traceback.txt")
    else:
        mlflow.set_tag(ERROR_TAG, "stopped by a signal")


def log_trial(
    parent: StageRun,
    *,
    name: str,
    params: dict[str, object],
    metrics: dict[str, float],
    scores: list[float],
    part: str,
    state: str,
) -> None:
    """Log a finished trial as a nested run; scores of its parts, folds or epochs, are steps of one metric."""
    client = mlflow.MlflowClient()
    run = client.create_run(
        parent.experiment_id, run_name=name, tags={MLFLOW_PARENT_RUN_ID: parent.run_id, STAGE_TAG: "trial"}
    )
    now = int(time.time() * 1000)
    steps = [Metric(f"{part}_macro_f1", score, now, number) for number, score in enumerate(scores)]
    client.log_batch(
        run.info.run_id,
        metrics=[Metric(key, value, now, 0) for key, value in metrics.items()] + steps,
        params=[Param(key, str(value)) for key, value in params.items()],
        tags=[RunTag(VERSION_TAG, __version__), RunTag(TRIAL_STATE_TAG, state)],
    )
    client.set_terminated(run.info.run_id)


def describe_dataset(record: DatasetRecord) -> dict[str, str]:
    """Give the tags that runs and versions carry of their dataset."""
    return {
        SOURCE_TAG: record.source,
        DATASET_HASH_TAG: record.dataset_hash,
        COUNTS_HASH_TAG: record.counts_hash,
        SPLIT_HASH_TAG: record.split_hash,
        PANEL_HASH_TAG: record.panel_hash,
        LEAKY_TAG: str(record.leaky).lower(),
    }


def find_run(near: StageRun, tag: str, value: str) -> str | None:
    """Find the newest finished run with a tag in another run's experiment, by its id."""
    runs = mlflow.MlflowClient().search_runs(
        [near.experiment_id],
        filter_string=f"tags.`{tag}` = '{value}' and attributes.status = 'FINISHED'",
        order_by=["attributes.start_time DESC"],
        max_results=1,
    )
    return runs[0].info.run_id if runs else None


@dataclass(frozen=True)
class RunFacts:
    """What the store knows of a run.

    Attributes
    ----------
    run_id
        Its id.
    stage
        The stage that it is a run of; empty where it is of none.
    tags
        Its tags.
    is_finished
        Whether it came to its end.
    """

    run_id: str
    stage: str
    tags: dict[str, str]
    is_finished: bool


def describe_run(run_id: str) -> RunFacts | None:
    """Describe a run; None where the store has none of the id, or it was deleted."""
    try:
        run = mlflow.MlflowClient().get_run(run_id)
    except MlflowException as error:
        refuse_outage(error)
        return None
    if run.info.lifecycle_stage != "active":
        return None
    tags = dict(run.data.tags)
    return RunFacts(run_id, tags.get(STAGE_TAG, ""), tags, run.info.status == "FINISHED")


def iter_artifacts(run_id: str, folder: str) -> Iterator[Path]:
    """Fetch the files of a folder of a run's artifacts, one after the other; none where there is no folder.

    Raises
    ------
    InputFileError
        If one cannot be had.
    """
    client = mlflow.MlflowClient()
    try:
        found = sorted(one.path for one in client.list_artifacts(run_id, folder) if not one.is_dir)
        for name in found:
            with tempfile.TemporaryDirectory() as scratch:
                yield Path(client.download_artifacts(run_id, name, scratch))
    except (MlflowException, OSError) as error:
        refuse_outage(error)
        raise InputFileError(
            f"runs:/{run_id}/{folder}",
            expected="to be artifacts that can be fetched",
            found=summarize(error),
            remedy="Check the artifact store.",
        ) from error


def fetch(address: str) -> Path:
    """Get a local path of a path or an address such as ``runs:/RUN_ID/dataset/dataset.h5ad``.

    Raises
    ------
    InputFileError
        If there is no such file or artifact.
    """
    if not is_remote(address):
        path = Path(address)
        if path.exists():
            return path
        raise InputFileError(
            path, expected="to be a file", found="no such file", remedy="Check the path or address."
        )
    try:
        return Path(mlflow.artifacts.download_artifacts(artifact_uri=address))
    except (MlflowException, OSError) as error:
        refuse_outage(error)
        raise InputFileError(
            address,
            expected="to be an artifact of the tracking store",
            found=summarize(error),
            remedy=f"Check the address and MLFLOW_TRACKING_URI (now {mlflow.get_tracking_uri()}).",
        ) from error


def to_json(values: dict[str, object]) -> str:
    """Write a configuration in a stable order."""
    return json.dumps(values, sort_keys=True, default=str)
