"""What MLflow's errors mean for people, and how a run ends whose store has gone."""

import logging
import os

import mlflow
import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos import databricks_pb2

from annotary.config import BaselinesConfig, PromoteConfig
from annotary.errors import AccessError, StoreError
from annotary.log import _Waiting
from annotary.outage import closing_soon, naming_outages
from annotary.tracking import stage_run

RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"


def fail(message: str, code: str = "INTERNAL_ERROR") -> None:
    raise MlflowException(message, error_code=databricks_pb2.ErrorCode.Value(code))


def test_a_request_without_an_answer_names_what_lies_below():
    def ask():
        try:
            raise OSError(ConnectionRefusedError("Connection refused"))
        except OSError as error:
            raise MlflowException(f"API request to http://x failed with exception {error}") from error

    with pytest.raises(StoreError, match="needs to answer; found Connection refused"), naming_outages():
        ask()


def test_a_database_that_is_away_is_told_apart():
    with pytest.raises(StoreError), naming_outages():
        fail("could not connect", "TEMPORARILY_UNAVAILABLE")


@pytest.mark.parametrize(
    ("user", "found"), [("ada", "found 'ada' and a password"), ("", "found none")]
)  # fmt: skip
def test_a_user_who_is_not_known_is_told_what_to_set(monkeypatch, user, found):
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", user)
    with pytest.raises(AccessError, match=f"{found}. Set MLFLOW_TRACKING_USERNAME"), naming_outages():
        fail("error code 401", "UNAUTHENTICATED")


def test_other_errors_stay_what_they_are():
    with pytest.raises(MlflowException, match="no such run"), naming_outages():
        fail("no such run", "RESOURCE_DOES_NOT_EXIST")
    with pytest.raises(MlflowException, match="a bug"), naming_outages():
        fail("a bug")


@pytest.mark.parametrize(("before", "within"), [("7", "2"), ("1", "1"), (None, "2")])
def test_what_closes_a_run_is_tried_a_few_times_only(monkeypatch, before, within):
    monkeypatch.delenv(RETRIES, raising=False)
    if before:
        monkeypatch.setenv(RETRIES, before)
    with closing_soon():
        assert os.environ[RETRIES] == within
    assert os.environ.get(RETRIES) == before


def test_the_work_s_error_is_raised_though_the_run_cannot_be_closed(store):
    def refuse(*arguments, **options):
        fail("API request failed: connection refused")

    with pytest.MonkeyPatch.context() as broken:

        def work():
            for name in ("set_tag", "log_metrics", "end_run"):
                broken.setattr(mlflow, name, refuse)
            fail("API request failed: the first")

        with pytest.raises(StoreError, match="the first"), stage_run("promote", PromoteConfig()):
            work()


def test_a_run_does_not_show_the_password_of_the_studies(store):
    config = BaselinesConfig(dataset="d", storage="postgresql+psycopg2://optuna:s3cret@db:5432/optuna")
    with stage_run("baselines", config) as run:
        pass
    shown = mlflow.get_run(run.run_id).data.params["config.storage"]
    assert shown == "postgresql+psycopg2://optuna:***@db:5432/optuna"


def test_waiting_for_a_server_is_told_once_in_half_a_minute(caplog):
    attempt = logging.LogRecord("urllib3", logging.WARNING, "", 0, "Retrying (%r)", (1,), None)
    waiting = _Waiting()
    with caplog.at_level("WARNING", logger="annotary"):
        for _ in range(3):
            waiting.emit(attempt)
    assert caplog.text.count("the server does not answer; trying again") == 1
