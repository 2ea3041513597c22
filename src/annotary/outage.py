"""A tracking store that is away, or does not let us in: told apart from MLflow's other errors."""

import contextlib
import os
from collections.abc import Iterator

import mlflow
from mlflow.environment_variables import MLFLOW_HTTP_REQUEST_MAX_RETRIES, MLFLOW_TRACKING_USERNAME
from mlflow.exceptions import MlflowException

from annotary.errors import AccessError, StoreError, summarize

_DATABASE_AWAY = "TEMPORARILY_UNAVAILABLE"
_UNKNOWN = "INTERNAL_ERROR"
_REQUEST = "API request"
"""How MLflow's errors of a request begin that got no answer, whatever their code."""

_CLOSING_RETRIES = 2


@contextlib.contextmanager
def naming_outages() -> Iterator[None]:
    """Turn MLflow's errors of a store that is away, or does not let us in, into errors for people.

    Raises
    ------
    StoreError
        If it is away. MLflow has tried ``MLFLOW_HTTP_REQUEST_MAX_RETRIES`` times again then, 7 by default,
        which takes four minutes.
    AccessError
        If it does not let us in, or does not let us do this.
    """
    try:
        yield
    except MlflowException as error:
        refuse_outage(error)
        raise


@contextlib.contextmanager
def naming_artifacts() -> Iterator[None]:
    """Name the place of a run's artifacts where it cannot be written.

    Raises
    ------
    StoreError
        If the file system says so.
    """
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"artifacts of the run at {mlflow.get_artifact_uri()}",
            expected="to be in a place where this user can write",
            found=summarize(error),
            remedy="Let the user write there, or set MLFLOW_EXPERIMENT_NAME to an experiment whose artifacts "
            "lie elsewhere: mlflow experiments create --experiment-name NAME --artifact-location PLACE.",
        ) from error


def refuse_outage(error: Exception) -> None:
    """Raise what a failure means for people, where the store is away or does not let us in.

    Called first where another meaning would be given to the failure, such as "no such version".
    """
    code = getattr(error, "error_code", "")
    place, user = f"tracking store {mlflow.get_tracking_uri()}", MLFLOW_TRACKING_USERNAME.get()
    if code == _DATABASE_AWAY or (code == _UNKNOWN and _REQUEST in str(error)):
        raise StoreError(
            place,
            expected="to answer",
            found=_find_cause(error),
            remedy="Check MLFLOW_TRACKING_URI, and that the server or its disk is there.",
        ) from error
    if code == "UNAUTHENTICATED":
        raise AccessError(
            place,
            expected="the name and password of a user whom it knows",
            found=f"{user!r} and a password" if user else "none",
            remedy="Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD.",
        ) from error
    if code == "PERMISSION_DENIED":
        raise AccessError(
            place,
            expected=f"to let {user or 'us'} do this",
            found=summarize(error),
            remedy="Ask who made the model or experiment, or the server's admin, for a permission.",
        ) from error


@contextlib.contextmanager
def closing_soon() -> Iterator[None]:
    """Try the requests of the block for some seconds only: the work has failed, and the store may be away."""
    before = os.environ.get(MLFLOW_HTTP_REQUEST_MAX_RETRIES.name)
    MLFLOW_HTTP_REQUEST_MAX_RETRIES.set(min(MLFLOW_HTTP_REQUEST_MAX_RETRIES.get(), _CLOSING_RETRIES))
    try:
        yield
    finally:
        MLFLOW_HTTP_REQUEST_MAX_RETRIES.unset()
        if before is not None:
            os.environ[MLFLOW_HTTP_REQUEST_MAX_RETRIES.name] = before


def _find_cause(error: Exception) -> str:
    """Find what lies below a failed request: ``Connection refused``, not the libraries' wrappings of it."""
    while True:
        reason = getattr(error, "reason", None) or next(iter(error.args), None)
        cause = reason if isinstance(reason, Exception) else error.__cause__ or error.__context__
        if not isinstance(cause, Exception):
            return summarize(error)
        error = cause
