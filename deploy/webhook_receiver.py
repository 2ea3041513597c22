#!/usr/bin/env python3
"""Start a scoring run when somebody moves the champion: a receiver of MLflow's webhooks.

    ANNOTARY_WEBHOOK_SECRET=... python webhook_receiver.py --model cell-annotator -- \
        annotary score --input /data/incoming --output /data/annotated

It takes signed events and nothing else, answers at once, and runs one command at a time. Events of the time
when it was down are lost: keep a schedule beside it. Needs Python alone.
"""

import argparse
import base64
import binascii
import hashlib
import hmac
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

SECRET_VARIABLE = "ANNOTARY_WEBHOOK_SECRET"
LONGEST_BODY = 64 * 1024
"""Bytes; MLflow sends about 200."""

_SHORTEST_SECRET = 16
_SIGNATURE_VERSION = "v1"
_EVENT = ("model_version_alias", "created")
_SECONDS_TO_STOP = 60
_LOGGER = logging.getLogger("annotary-webhook")


class RefusedError(Exception):
    """A request that is answered with an error.

    Attributes
    ----------
    status
        The answer.
    """

    def __init__(self, status: HTTPStatus, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass
class Gatekeeper:
    """Lets signed, fresh, unseen deliveries through.

    Attributes
    ----------
    secret
        The one that the webhook was created with.
    window_seconds
        How old a delivery may be, and how far ahead its clock.
    """

    secret: bytes
    window_seconds: float = 300.0
    _seen: dict[str, float] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def check(self, body: bytes, *, delivery_id: str, timestamp: str, signature: str, now: float) -> None:
        """Check a delivery's signature, which covers its id, its time and its body, and then its time.

        Raises
        ------
        RefusedError
            If it is not MLflow's, or was sent at another time.
        """
        signed = f"{delivery_id}.{timestamp}.".encode() + body
        expected = hmac.new(self.secret, signed, hashlib.sha256).digest()
        version, _, encoded = signature.partition(",")
        try:
            given = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            given = b""
        if version != _SIGNATURE_VERSION or not hmac.compare_digest(given, expected):
            raise RefusedError(HTTPStatus.UNAUTHORIZED, "the signature is not that of this secret")
        if not timestamp.isdecimal() or abs(now - int(timestamp)) > self.window_seconds:
            raise RefusedError(HTTPStatus.UNAUTHORIZED, "the delivery is too old, or the clocks differ")

    def is_new(self, delivery_id: str, *, now: float) -> bool:
        """Tell a delivery from one that came before: MLflow tries again where an answer got lost."""
        with self._lock:
            for old in [one for one, when in self._seen.items() if now - when > 2 * self.window_seconds]:
                del self._seen[old]
            is_new = delivery_id not in self._seen
            self._seen[delivery_id] = now
            return is_new


class Runner:
    """Runs one command, never twice at once; what is asked for meanwhile is one more run afterwards.

    Parameters
    ----------
    command
        Program and arguments; no shell reads them.
    """

    def __init__(self, command: list[str]) -> None:
        self._command = command
        self._environment = {name: value for name, value in os.environ.items() if name != SECRET_VARIABLE}
        self._changed = threading.Condition()
        self._wanted = False
        self._stopping = False
        self._version = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._work, name="runner")
        self._thread.start()

    def ask(self, version: str) -> bool:
        """Ask for a run, because the champion is another version now.

        A run that finds the champion moved sets its alias anew, which is an event too: the version that the
        last run was asked for starts none, unless that run failed.

        Returns
        -------
        Whether there will be a run.
        """
        with self._changed:
            if version == self._version or self._stopping:
                return False
            self._version, self._wanted = version, True
            self._changed.notify_all()
            return True

    def stop(self) -> None:
        """Let a running command end in order, and start no other."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
            if self._process is not None:
                self._process.terminate()
        self._thread.join(_SECONDS_TO_STOP)
        with self._changed:
            if self._process is not None:
                self._process.kill()
        self._thread.join()

    def _work(self) -> None:
        """Run the command each time that it is asked for."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._wanted or self._stopping)
                if self._stopping:
                    return
                self._wanted = False
                version = self._version
                try:
                    self._process = subprocess.Popen(
                        self._command, env=self._environment, stdin=subprocess.DEVNULL
                    )
                except OSError as error:
                    _LOGGER.error("%s does not start: %s", self._command[0], error)
                    self._version = ""
                    continue
            _LOGGER.info("started for version %s: process %d", version, self._process.pid)
            code = self._process.wait()
            _LOGGER.info("process %d ended with %d", self._process.pid, code)
            with self._changed:
                self._process = None
                if code != 0 and self._version == version:
                    self._version = ""


class Receiver(ThreadingHTTPServer):
    """The server: a gatekeeper in front of a runner.

    Parameters
    ----------
    address
        Host and port.
    gatekeeper
        Checks deliveries.
    runner
        Starts the command.
    model, alias
        The registered model and the alias to react to.
    """

    daemon_threads = True

    def __init__(
        self, address: tuple[str, int], gatekeeper: Gatekeeper, runner: Runner, *, model: str, alias: str
    ) -> None:
        super().__init__(address, _Handler)
        self.gatekeeper = gatekeeper
        self.runner = runner
        self.model = model
        self.alias = alias

    def receive(self, body: bytes, *, delivery_id: str, timestamp: str, signature: str) -> HTTPStatus:
        """Take a delivery: 202 where it starts a run, 204 where it is none of ours.

        Raises
        ------
        RefusedError
            If it cannot be taken.
        """
        now = time.time()
        self.gatekeeper.check(
            body, delivery_id=delivery_id, timestamp=timestamp, signature=signature, now=now
        )
        version = self._read_move(body)
        if not version or not self.gatekeeper.is_new(delivery_id, now=now):
            return HTTPStatus.NO_CONTENT
        return HTTPStatus.ACCEPTED if self.runner.ask(version) else HTTPStatus.NO_CONTENT

    def _read_move(self, body: bytes) -> str:
        """Read to which version the alias was moved; empty for other events, models and aliases."""
        try:
            event: Any = json.loads(body)
            data = event["data"]
            is_ours = (event["entity"], event["action"]) == _EVENT
            is_ours = is_ours and (data["name"], data["alias"]) == (self.model, self.alias)
            return str(data["version"]) if is_ours else ""
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise RefusedError(HTTPStatus.BAD_REQUEST, "the body is not an event of MLflow") from error


class _Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Receiver
    timeout = 10
    """Seconds for a client that sends nothing."""

    server_version = "annotary-webhook"
    sys_version = ""

    def do_POST(self) -> None:
        """Answer a delivery."""
        try:
            status = self.server.receive(
                self._read_body(),
                delivery_id=self.headers.get("X-MLflow-Delivery-Id", ""),
                timestamp=self.headers.get("X-MLflow-Timestamp", ""),
                signature=self.headers.get("X-MLflow-Signature", ""),
            )
        except RefusedError as refused:
            _LOGGER.warning("%s: refused: %s", self.client_address[0], refused)
            self.close_connection = True
            self.send_error(refused.status, str(refused))
            return
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _read_body(self) -> bytes:
        """Read the body, where its length is known and small."""
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdecimal()):
            raise RefusedError(HTTPStatus.LENGTH_REQUIRED, "there is no Content-Length")
        if len(length) > len(str(LONGEST_BODY)) or int(length) > LONGEST_BODY:
            raise RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"more than {LONGEST_BODY} bytes")
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            raise RefusedError(HTTPStatus.BAD_REQUEST, "the body ends early")
        return body

    def log_message(self, format: str, *args: object) -> None:
        """Log a request; a line break in it starts no line of its own."""
        _LOGGER.info("%s: %r", self.client_address[0], format % args)


def read_secret(path: Path | None) -> bytes:
    """Read the secret from a file, or else from the environment.

    Raises
    ------
    ValueError
        If there is none, or one that could be guessed.
    """
    secret = path.read_text().strip() if path else os.environ.get(SECRET_VARIABLE, "")
    if len(secret) < _SHORTEST_SECRET:
        raise ValueError(
            f"the webhook's secret needs at least {_SHORTEST_SECRET} characters; found {len(secret)} in "
            f"{path or SECRET_VARIABLE}. Make one with: openssl rand -hex 32"
        )
    return secret.encode()


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the command line; what follows the options is the command."""
    parser = argparse.ArgumentParser(description="Start a command when an alias moves in MLflow's registry.")
    parser.add_argument("--model", required=True, help="registered model")
    parser.add_argument("--alias", default="champion", help="alias to react to (default: champion)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8090, help="port (default: 8090)")
    parser.add_argument("--secret-file", type=Path, help=f"file with the secret (or ${SECRET_VARIABLE})")
    parser.add_argument("--window-seconds", type=float, default=300.0, help="age that a delivery may have")
    parser.add_argument("command", nargs="+", help="program and arguments, after --")
    options = parser.parse_args(arguments)
    if shutil.which(options.command[0]) is None:
        parser.error(f"the command needs a program that exists; found {options.command[0]!r}")
    return options


def main() -> None:
    """Serve until a signal."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    options = parse(sys.argv[1:])
    try:
        gatekeeper = Gatekeeper(read_secret(options.secret_file), options.window_seconds)
    except (OSError, ValueError) as error:
        sys.exit(f"webhook_receiver: {error}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    runner = Runner(options.command)
    try:
        address = (options.host, options.port)
        with Receiver(address, gatekeeper, runner, model=options.model, alias=options.alias) as server:
            _LOGGER.info("listening at http://%s:%d", *server.server_address[:2])
            server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        runner.stop()


if __name__ == "__main__":
    main()
