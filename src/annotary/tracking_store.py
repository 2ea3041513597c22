"""The tracking store: opened under a lock, checked before it is, and the run that is ours in it."""

import contextlib
import logging
import os
import shlex
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import mlflow
from filelock import FileLock, Timeout
from mlflow import environment_variables
from mlflow.entities import LifecycleStage, RunStatus
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PROJECT_ENTRY_POINT
from sqlalchemy.exc import SQLAlchemyError

from annotary.errors import ConfigError, RegistryError, summarize
from annotary.launching import RUN_ID, find_launcher
from annotary.log import warn
from annotary.outage import refuse_outage
from annotary.paths import hide_password
from annotary.sqlite_address import to_address, to_path

_STUDIES = "optuna.db"
_CHECKPOINTS = "annotary-checkpoints"
_LOCK_TIMEOUT_S = 300.0
_OTHER_SCHEMA = "out-of-date database schema"
_NO_DATABASE = (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT)


def connect() -> None:
    """Open the tracking store, making a new SQLite file under a lock.

    Two processes that open a new SQLite file at once race its migrations and
    break it for good.

    Raises
    ------
    RegistryError
        If the store does not answer, is damaged, or does not let us in.
    ConfigError
        If a variable of MLflow's has a value that it cannot use.
    """
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)  # it tells of each new table
    _check_variables()
    address = mlflow.get_tracking_uri()
    path = to_path(address)
    try:
        with _opening(path) if path else contextlib.nullcontext():
            mlflow.MlflowClient().search_experiments(max_results=1)
    except (MlflowException, SQLAlchemyError, ImportError, OSError) as error:
        refuse_outage(error)
        raise _refuse(summarize(error), _choose_remedy(error, path)) from error


def _refuse(found: str, remedy: str) -> RegistryError:
    """Say that the store cannot be used."""
    return RegistryError(
        f"tracking store {hide_password(mlflow.get_tracking_uri())}",
        expected="to answer",
        found=found,
        remedy=remedy,
    )


def _choose_remedy(error: Exception, path: Path | None) -> str:
    """Say what to do about a store that cannot be opened."""
    if _OTHER_SCHEMA in str(error):
        return (
            f"Back it up and run mlflow db upgrade {shlex.quote(mlflow.get_tracking_uri())}; where a newer "
            "MLflow wrote it, use that one."
        )
    if isinstance(error, ImportError) or "driver" in str(error).lower():
        return "Install the driver that it names, or check MLFLOW_TRACKING_URI."
    if path is not None and isinstance(error, PermissionError):
        return f"Let user {os.geteuid()} write {path} and its folder, or set MLFLOW_TRACKING_URI."
    return "Check MLFLOW_TRACKING_URI, and that the server or its disk is there."


@contextlib.contextmanager
def _opening(path: Path) -> Iterator[None]:
    """Have a SQLite file to ourselves while its tables are made, after a look at what it is.

    MLflow would try ten times, for a minute and a half, to open a file that is no database.

    Raises
    ------
    RegistryError
        If it is no database, or somebody else is at it all the time.
    """
    _make_folder_of_address()
    _check_file(path)
    try:
        with locking(path):
            yield
    except Timeout as error:
        raise _refuse(
            f"{error.lock_file} locked by another program for {_LOCK_TIMEOUT_S:.0f} s",
            "Wait for that program or end it, and start again.",
        ) from error


def locking(path: Path) -> contextlib.AbstractContextManager[object]:
    """Lock a file by one beside it, where the folder can be written and the file system knows locks."""
    if path.exists() and not os.access(path.parent, os.W_OK):
        return contextlib.nullcontext()  # it can only be read
    return _locking(path)


@contextlib.contextmanager
def _locking(path: Path) -> Iterator[None]:
    """Lock a file by one beside it."""
    lock = FileLock(f"{path}.lock", timeout=_LOCK_TIMEOUT_S)
    try:
        lock.acquire()
    except NotImplementedError:  # some network file systems know no locks
        yield
        return
    try:
        yield
    finally:
        lock.release()


def _check_file(path: Path) -> None:
    """Refuse a file that is no SQLite database."""
    if path.is_dir():
        raise _refuse("a folder", "Name a file in it with MLFLOW_TRACKING_URI.")
    if not path.exists() or not path.stat().st_size:
        return
    try:
        with contextlib.closing(sqlite3.connect(path)) as database:
            database.execute("PRAGMA schema_version").fetchone()
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in _NO_DATABASE:
            raise _refuse(
                str(error), f"Bring {path.name} back from a backup, or name another with MLFLOW_TRACKING_URI."
            ) from error


def _make_folder_of_address() -> None:
    """Have MLflow make the folder that an address means: it does not decode ``%20`` itself."""
    from mlflow.store.db import utils  # heavy; a server does not need it

    def make(db_uri: str) -> None:
        path = to_path(db_uri)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)

    if hasattr(utils, "_make_parent_dirs_if_sqlite"):
        utils._make_parent_dirs_if_sqlite = make


def _check_variables() -> None:
    """Refuse MLflow's variables that are no number where it needs one, before it fails on them anywhere."""
    for variable in vars(environment_variables).values():
        if not isinstance(variable, environment_variables._EnvironmentVariable):
            continue
        try:
            variable.get()
        except ValueError as error:
            raise ConfigError(
                variable.name,
                expected=f"to be of type {getattr(variable.type, '__name__', variable.type)}",
                found=repr(os.environ.get(variable.name, "")),
                remedy=f"Correct it, or unset {variable.name}.",
            ) from error


def settle_run(entry_point: str = "") -> None:
    """Keep ``MLFLOW_RUN_ID`` only where `mlflow run` started this process for that run; else say so.

    Parameters
    ----------
    entry_point
        The command, which the run of a Python program must have been made for; empty for any.
    """
    run_id = os.environ.get(RUN_ID, "")
    if not run_id:
        os.environ.pop(RUN_ID, None)
        return
    launcher = find_launcher()
    if launcher is not None and _is_open_project_run(run_id, "" if launcher.is_certain else entry_point):
        return
    del os.environ[RUN_ID]
    warn(
        f"{RUN_ID}={run_id} is left over: no `mlflow run` started this command for it; it gets a run of its "
        f"own, and paths start from {Path.cwd()}"
    )


def _is_open_project_run(run_id: str, entry_point: str) -> bool:
    """Tell a run that goes on and was made for a project's command."""
    connect()
    try:
        run = mlflow.MlflowClient().get_run(run_id)
    except MlflowException as error:
        refuse_outage(error)
        return False
    made_for = run.data.tags.get(MLFLOW_PROJECT_ENTRY_POINT)
    return (
        run.info.status == RunStatus.to_string(RunStatus.RUNNING)
        and run.info.lifecycle_stage == LifecycleStage.ACTIVE
        and made_for is not None
        and entry_point in ("", made_for)
    )


def find_study_storage() -> str:
    """Find where Optuna's studies lie by default: beside the tracking store's SQLite file, or here."""
    return to_address(_find_own_folder() / _STUDIES)


def find_checkpoints() -> Path:
    """Find the folder of checkpoints of trainings: beside the tracking store's SQLite file, or here."""
    return _find_own_folder() / _CHECKPOINTS


def _find_own_folder() -> Path:
    """Find where files lie that the tracking store does not hold."""
    path = to_path(mlflow.get_tracking_uri())
    return path.parent if path else Path()


def describe_ui() -> str:
    """Tell how to open MLflow's UI on the current tracking store."""
    address = mlflow.get_tracking_uri()
    if address.startswith("http"):
        return address
    path = to_path(address)
    shown = shlex.quote(to_address(path) if path else address)
    return f"mlflow ui --backend-store-uri {shown}    then open http://127.0.0.1:5000"
