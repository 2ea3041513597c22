"""The webhook receiver: who may start a run, and that never two run at once."""

import base64
import hashlib
import hmac
import http.client
import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import PROJECT

SCRIPT = PROJECT / "deploy" / "webhook_receiver.py"
SECRET = "a secret of the test, long enough"
NOW = 1_800_000_000


def load_receiver():
    spec = importlib.util.spec_from_file_location("webhook_receiver", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


receiver = load_receiver()

# Ends only when the test says so; leaves a line a start, and one where it finds another at work.
COMMAND = """
import os, pathlib, sys, time
folder = pathlib.Path(sys.argv[1])
try:
    os.close(os.open(folder / "at work", os.O_CREAT | os.O_EXCL))
except FileExistsError:
    (folder / "twice at once").touch()
(folder / f"started {time.monotonic_ns()}").write_text(os.environ.get("ANNOTARY_WEBHOOK_SECRET", "no secret"))
while not (folder / "go").exists():
    time.sleep(0.01)
(folder / "at work").unlink()
sys.exit(int((folder / "go").read_text() or 0))
"""


def sign(body: bytes, *, delivery_id="d1", timestamp=str(NOW), secret=SECRET) -> str:
    """As mlflow.webhooks.delivery does."""
    signed = f"{delivery_id}.{timestamp}.{body.decode()}".encode()
    return "v1," + base64.b64encode(hmac.new(secret.encode(), signed, hashlib.sha256).digest()).decode()


def make_event(version="2", *, name="cells", alias="champion", action="created") -> bytes:
    data = {"name": name, "alias": alias, "version": version}
    return json.dumps({"entity": "model_version_alias", "action": action, "data": data}).encode()


def check(body: bytes, *, now=NOW, delivery_id="d1", timestamp=str(NOW), signature=None) -> None:
    signature = sign(body) if signature is None else signature
    gatekeeper = receiver.Gatekeeper(SECRET.encode(), 300)
    gatekeeper.check(body, delivery_id=delivery_id, timestamp=timestamp, signature=signature, now=now)


def test_what_mlflow_itself_signs_is_taken():
    from mlflow.webhooks.delivery import _generate_hmac_signature

    body = make_event()
    check(body, signature=_generate_hmac_signature(SECRET, "d1", str(NOW), body.decode()))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"signature": ""}, "signature"),
        ({"signature": "v1,"}, "signature"),
        ({"signature": "v1,é"}, "signature"),
        ({"signature": sign(make_event()).replace("v1,", "v2,")}, "signature"),
        ({"signature": sign(make_event(), secret="another secret")}, "signature"),
        ({"signature": sign(make_event("3"))}, "signature"),
        ({"delivery_id": "d2"}, "signature"),
        ({"timestamp": str(NOW + 1)}, "signature"),
        ({"now": NOW + 301}, "too old"),
        ({"now": NOW - 301}, "too old"),
        ({"timestamp": "soon", "signature": sign(make_event(), timestamp="soon")}, "too old"),
    ],
)
def test_what_is_not_signed_or_not_of_now_is_refused(changes, reason):
    with pytest.raises(receiver.RefusedError, match=reason) as refused:
        check(make_event(), **changes)
    assert refused.value.status == 401


def test_a_delivery_is_new_once_and_forgotten_after_its_time():
    gatekeeper = receiver.Gatekeeper(SECRET.encode(), 300)
    assert gatekeeper.is_new("d1", now=NOW)
    assert not gatekeeper.is_new("d1", now=NOW + 10)
    assert gatekeeper.is_new("d2", now=NOW + 900)
    assert list(gatekeeper._seen) == ["d2"]


@pytest.fixture
def command(tmp_path, monkeypatch) -> list[str]:
    monkeypatch.setenv("ANNOTARY_WEBHOOK_SECRET", SECRET)
    return [sys.executable, "-c", COMMAND, str(tmp_path)]


def count_starts(folder: Path) -> int:
    return len(list(folder.glob("started *")))


def wait_until(is_so, *, seconds=20.0) -> None:
    until = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < until, "it does not happen"
        time.sleep(0.02)


@contextmanager
def working(command: list[str]):
    runner = receiver.Runner(command)
    try:
        yield runner
    finally:
        runner.stop()


def let_go(folder: Path, code: int = 0) -> None:
    (folder / "next").write_text(str(code))
    os.replace(folder / "next", folder / "go")


def test_moves_during_a_run_are_one_more_run_and_never_two_at_once(command, tmp_path):
    with working(command) as runner:
        assert runner.ask("1")
        wait_until(lambda: count_starts(tmp_path) == 1)
        assert [runner.ask(version) for version in ("2", "3", "2")] == [True] * 3
        time.sleep(0.1)
        assert count_starts(tmp_path) == 1
        let_go(tmp_path)
        wait_until(lambda: count_starts(tmp_path) == 2 and not (tmp_path / "at work").exists())
        time.sleep(0.2)
    assert count_starts(tmp_path) == 2
    assert not (tmp_path / "twice at once").exists()
    assert {path.read_text() for path in tmp_path.glob("started *")} == {"no secret"}


def test_the_version_of_the_last_run_starts_none_unless_it_failed(command, tmp_path):
    let_go(tmp_path)
    with working(command) as runner:
        assert runner.ask("1")
        wait_until(lambda: runner._process is None and count_starts(tmp_path) == 1)
        assert not runner.ask("1")
        let_go(tmp_path, 3)
        assert runner.ask("2")
        wait_until(lambda: count_starts(tmp_path) == 2 and runner._version == "")
        assert runner.ask("2")
        wait_until(lambda: count_starts(tmp_path) == 3)


def test_stopping_ends_the_command_and_starts_no_other(command, tmp_path):
    with working(command) as runner:
        runner.ask("1")
        wait_until(lambda: count_starts(tmp_path) == 1)
        runner.ask("2")
        process = runner._process
    assert process.returncode == -signal.SIGTERM
    assert count_starts(tmp_path) == 1
    assert not runner.ask("3")


def test_a_command_that_does_not_start_leaves_the_receiver_at_work(tmp_path):
    with working([str(tmp_path / "absent")]) as runner:
        assert runner.ask("1")
        wait_until(lambda: runner._version == "")
        assert runner.ask("1")


class Asked:
    """Stands for a runner; keeps what it was asked for."""

    def __init__(self):
        self.versions = []

    def ask(self, version):
        self.versions.append(version)
        return True


@pytest.fixture
def server():
    gatekeeper = receiver.Gatekeeper(SECRET.encode())
    with receiver.Receiver(("127.0.0.1", 0), gatekeeper, Asked(), model="cells", alias="champion") as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def post(server, body: bytes, *, delivery_id="d1", method="POST", **headers: str) -> int:
    timestamp = str(int(time.time()))
    sent = {
        "X-MLflow-Delivery-Id": delivery_id,
        "X-MLflow-Timestamp": timestamp,
        "X-MLflow-Signature": sign(body, delivery_id=delivery_id, timestamp=timestamp),
    }
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    connection = http.client.HTTPConnection(*server.server_address[:2], timeout=10)
    try:
        connection.request(method, "/", body, sent)
        return connection.getresponse().status
    finally:
        connection.close()


def test_a_move_of_the_champion_is_accepted_once(server):
    assert post(server, make_event()) == 202
    assert post(server, make_event()) == 204, "MLflow sends again where an answer got lost"
    assert server.runner.versions == ["2"]


@pytest.mark.parametrize(
    "body",
    [
        make_event(name="other"),
        make_event(alias="challenger"),
        make_event(alias="Champion"),
        make_event(action="deleted"),
        json.dumps({"entity": "registered_model", "action": "created", "data": {"name": "cells"}}).encode(),
    ],
)
def test_other_events_are_taken_and_start_nothing(server, body):
    assert post(server, body) == 204
    assert server.runner.versions == []


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (make_event(), {"X_MLflow_Signature": "v1,AAAA"}, 401),
        (make_event(), {"X_MLflow_Timestamp": "1000000000"}, 401),
        (b"not JSON", {}, 400),
        (b"[]", {}, 400),
        (b'{"entity": "model_version_alias"}', {}, 400),
        (b"[" * 60_000, {}, 400),
        (b"x" * (receiver.LONGEST_BODY + 1), {}, 413),
        (make_event(), {"Content_Length": "-1"}, 411),
        (make_event(), {"Content_Length": "9" * 5000}, 413),
        (make_event(), {"method": "GET"}, 501),
    ],
)
def test_what_is_no_delivery_is_refused(server, body, headers, status):
    assert post(server, body, **headers) == status
    assert server.runner.versions == []


def start(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    kept = {name: value for name, value in os.environ.items() if name != "ANNOTARY_WEBHOOK_SECRET"}
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments],
        env=kept | environment,
        capture_output=True,
        text=True,
        timeout=30,
    )


def test_it_does_not_start_without_a_secret_or_a_command(tmp_path):
    done = start("--model", "cells", "--", sys.executable)
    assert done.returncode == 1
    assert "at least 16 characters; found 0 in ANNOTARY_WEBHOOK_SECRET" in done.stderr
    (tmp_path / "secret").write_text("short\n")
    assert (
        "found 5 in"
        in start("--model", "cells", "--secret-file", str(tmp_path / "secret"), "--", "true").stderr
    )
    done = start("--model", "cells", "--", "no-such-program", ANNOTARY_WEBHOOK_SECRET=SECRET)
    assert done.returncode == 2
    assert "found 'no-such-program'" in done.stderr
