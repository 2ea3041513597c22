"""MLflow's server tells the receiver of ``deploy/`` that the champion moved, and a run starts."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import pytest
from conftest import PROJECT
from cryptography.fernet import Fernet
from servers import find_port, serve_mlflow

pytestmark = pytest.mark.full

SECRET = "a secret of the test, long enough"
NAME = "cell-annotator"
COMMAND = "import pathlib, sys, time; pathlib.Path(sys.argv[1], str(time.monotonic_ns())).touch()"


@pytest.fixture
def receiver(store):
    """A receiver's address; what it starts leaves a file in the folder ``starts``."""
    (store / "starts").mkdir()
    port = find_port()
    command = [
        sys.executable,
        str(PROJECT / "deploy" / "webhook_receiver.py"),
        "--model",
        NAME,
        "--port",
        port,
    ]
    command += ["--", sys.executable, "-c", COMMAND, str(store / "starts")]
    process = subprocess.Popen(
        command, env=os.environ | {"ANNOTARY_WEBHOOK_SECRET": SECRET}, stderr=subprocess.PIPE, text=True
    )
    try:
        assert "listening" in process.stderr.readline()
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
        process.stderr.close()


def count_starts(folder: Path, *, at_least: int) -> int:
    """Wait for starts, and a little longer for those that should not be."""
    until = time.monotonic() + 20
    while len(list((folder / "starts").iterdir())) < at_least and time.monotonic() < until:
        time.sleep(0.05)
    time.sleep(1)
    return len(list((folder / "starts").iterdir()))


def test_a_real_webhook_starts_a_run_for_each_move_of_the_champion(store, receiver):
    at_the_store = mlflow.MlflowClient()
    at_the_store.create_registered_model(NAME)
    for _ in range(2):
        at_the_store.create_model_version(NAME, source=str(store))
    with serve_mlflow(
        store,
        MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY=Fernet.generate_key().decode(),
        MLFLOW_WEBHOOK_ALLOWED_SCHEMES="http,https",
        MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS="true",
        MLFLOW_WEBHOOK_CACHE_TTL="1",
    ) as address:
        client = mlflow.MlflowClient(address, address)
        event = "model_version_alias.created"
        client.create_webhook("forged", receiver, [event], secret="another secret, long enough")
        client.create_webhook("annotary", receiver, [event], secret=SECRET)
        client.set_registered_model_alias(NAME, "challenger", "2")
        assert count_starts(store, at_least=0) == 0
        client.set_registered_model_alias(NAME, "champion", "1")
        assert count_starts(store, at_least=1) == 1
        client.set_registered_model_alias(NAME, "champion", "1")
        client.set_registered_model_alias(NAME, "champion", "2")
        assert count_starts(store, at_least=2) == 2
