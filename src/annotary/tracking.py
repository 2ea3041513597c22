"""MLflow 1 of 4: runs, parameters, metrics, artifacts."""

import contextlib
import json
import logging
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import mlflow
import pandas as pd
from filelock import FileLock
from mlflow.data.dataset_source_registry import resolve_dataset_source
from mlflow.data.meta_dataset import MetaDataset
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME

from annotary import __version__
from annotary.config import StageConfig
from annotary.data.csv_text import write_csv
from annotary.data.dataset import DatasetRecord, DatasetTables
from annotary.errors import AnnotaryError, InputFileError, RegistryError, summarize
from annotary.outage import closing_soon, naming_outages, refuse_outage
from annotary.paths import hide_password, is_remote

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

_SQLITE = "sqlite:///"
_STUDIES = "optuna.db"
_CHECKPOINTS = "annotary-checkpoints"
_DIGEST_LENGTH = 36
_LONGEST_DATASET_NAME = 500
_LONGEST_TAG = 5000


def connect() -> None:
    """Open the tracking store, making a new SQLite file under a lock.

    Two processes that open a new SQLite file at once race its migrations and
    break it for good.

    Raises
    ------
    RegistryError
        If the store does not answer, or does not let us in.
    """
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)  # it tells of each new table
    address = mlflow.get_tracking_uri()
    lock: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
    if address.startswith(_SQLITE):
        lock = FileLock(f"{address.removeprefix(_SQLITE)}.lock")
    try:
        with lock:
            mlflow.MlflowClient().search_experiments(max_results=1)
    except (MlflowException, OSError) as error:
        refuse_outage(error)
        raise RegistryError(
            f"tracking store {address}",
            expected="to answer",
            found=summarize(error),
            remedy="Check MLFLOW_TRACKING_URI, and that the server or its disk is there.",
        ) from error


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
        mlflow.log_figure(figure, f"figures/{name}.png", save_kwargs={"dpi": 120})

    def log_picture(self, picture: bytes, name: str) -> None:
        """Log a PNG as ``figures/NAME.png``."""
        with _log_new_file(f"{name}.png", "figures") as path:
            path.write_bytes(picture)

    def log_text(self, text: str, name: str) -> None:
        """Log a text file."""
        mlflow.log_text(text, name)

    def log_folder(self, folder: Path) -> None:
        """Log a folder with its files, under its name."""
        mlflow.log_artifacts(str(folder), folder.name)

    def log_table(self, table: pd.DataFrame, name: str, *, index: bool = True) -> None:
        """Log a table as ``tables/NAME.csv``, with texts that no spreadsheet takes for a formula."""
        with _log_new_file(f"{name}.csv", "tables") as path:
            write_csv(table, path, index=index)

    def log_file(self, path: Path, folder: str) -> str:
        """Log a file; return its ``runs:/`` address."""
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
    with naming_outages():
        nested = mlflow.active_run() is not None
        info = mlflow.start_run(run_name=stage, nested=nested).info
        run = StageRun(info.run_id, info.experiment_id)
        started = time.monotonic()
        try:
            with naming_outages():
                mlflow.set_tags({MLFLOW_RUN_NAME: stage, STAGE_TAG: stage, VERSION_TAG: __version__})
                mlflow.log_params(_describe(config))
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


def find_study_storage() -> str:
    """Find where Optuna's studies lie by default: beside the tracking store's SQLite file, or here."""
    return f"{_SQLITE}{_find_own_folder() / _STUDIES}"


def find_checkpoints() -> Path:
    """Find the folder of checkpoints of trainings: beside the tracking store's SQLite file, or here."""
    return _find_own_folder() / _CHECKPOINTS


def _find_own_folder() -> Path:
    """Find where files lie that the tracking store does not hold."""
    address = mlflow.get_tracking_uri()
    return Path(address.removeprefix(_SQLITE)).parent if address.startswith(_SQLITE) else Path()


def describe_ui() -> str:
    """Tell how to open MLflow's UI on the current tracking store."""
    address = mlflow.get_tracking_uri()
    if address.startswith("http"):
        return address
    return f"mlflow ui --backend-store-uri {address}    then open http://127.0.0.1:5000"


def to_json(values: dict[str, object]) -> str:
    """Write a configuration in a stable order."""
    return json.dumps(values, sort_keys=True, default=str)
