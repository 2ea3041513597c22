"""The server of ``deploy/compose.yaml`` on this machine: PostgreSQL and ``mlflow server``, both on loopback.

The command and the environment are the compose file's; another are only the addresses, the passwords, and a
folder in place of the object storage.
"""

import base64
import contextlib
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import PROJECT

DEPLOY = PROJECT / "deploy"
BIN = Path(sys.executable).parent
STARTS_WITHIN_S = 90


def read_service(name: str) -> dict[str, Any]:
    """Read a service of the compose file."""
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"][name]


def find_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def fill_in(text: str, values: dict[str, str]) -> str:
    """Put values where the compose file names variables; a default stands for what is not given."""

    def replace(found: re.Match) -> str:
        name, default = found["name"], found["default"]
        return values.get(name, default) if default is not None else values[name]

    return re.sub(r"\$\{(?P<name>\w+)(?::-(?P<default>[^}]*)|:\?[^}]*)?\}", replace, text)


@dataclass
class PostgreSQL:
    """A cluster in a temporary folder, run by the user postgres where we are root: initdb refuses root."""

    folder: Path
    binaries: Path
    port: int = field(default_factory=find_port)
    passwords: dict[str, str] = field(
        default_factory=lambda: {name: secrets.token_urlsafe(16) for name in ("mlflow", "optuna")}
    )

    def call(self, name: str, *arguments: str) -> None:
        as_user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        command = [*as_user, str(self.binaries / name), *arguments]
        done = subprocess.run(command, cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              stdin=subprocess.DEVNULL, text=True, check=False)  # fmt: skip
        assert done.returncode == 0, done.stdout

    def make(self) -> None:
        """Make the cluster and its databases, and leave it running."""
        password = self.folder / "password"
        password.write_text(self.passwords["mlflow"])
        if os.geteuid() == 0:
            shutil.chown(self.folder, "postgres")
            shutil.chown(password, "postgres")
        data = str(self.folder / "data")
        self.call("initdb", f"--pgdata={data}", "--username=mlflow", "--auth=scram-sha-256", "--no-sync",
                  f"--pwfile={password}", "--encoding=UTF8", "--locale=C")  # fmt: skip
        self.start()
        environment = os.environ | {
            "PATH": f"{self.binaries}{os.pathsep}{os.environ['PATH']}",
            "PGHOST": "127.0.0.1",
            "PGPORT": str(self.port),
            "PGPASSWORD": self.passwords["mlflow"],
            "POSTGRES_USER": "mlflow",
            "POSTGRES_DB": "mlflow",
            "OPTUNA_PASSWORD": self.passwords["optuna"],
        }
        subprocess.run(
            [self.binaries / "createdb", "--username=mlflow", "mlflow"], env=environment, check=True
        )
        subprocess.run([DEPLOY / "create-studies.sh"], env=environment, check=True, stdout=subprocess.DEVNULL)

    def start(self) -> None:
        """Start what :meth:`make` made and :meth:`stop` stopped."""
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"
        data, log = self.folder / "data", self.folder / "log"
        self.call("pg_ctl", f"--pgdata={data}", f"--log={log}", "--wait", "--options", options, "start")

    def stop(self) -> None:
        """Stop it at once, as a power cut would."""
        if (self.folder / "data" / "postmaster.pid").exists():
            self.call("pg_ctl", f"--pgdata={self.folder / 'data'}", "--mode=immediate", "stop")

    @property
    def studies(self) -> str:
        """The address of the studies, for ``--storage``."""
        return f"postgresql+psycopg2://optuna:{self.passwords['optuna']}@127.0.0.1:{self.port}/optuna"


@dataclass
class LaboratoryServer:
    """``mlflow server`` as in the compose file; it can be killed and started again."""

    folder: Path
    database: PostgreSQL
    port: int = field(default_factory=find_port)
    admin_password: str = field(default_factory=lambda: secrets.token_urlsafe(16))
    process: subprocess.Popen | None = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def make_environment(self) -> dict[str, str]:
        """Take the compose file's environment, and change what is another machine's there."""
        given = {
            "POSTGRES_PASSWORD": self.database.passwords["mlflow"],
            "STORAGE_PASSWORD": "none",
            "MLFLOW_ADMIN_PASSWORD": self.admin_password,
            "MLFLOW_SECRET_KEY": "a secret of the tests",
        }
        service = read_service("mlflow")["environment"]
        environment = {name: fill_in(str(value), given) for name, value in service.items()}
        return environment | {
            "MLFLOW_HOST": "127.0.0.1",
            "MLFLOW_PORT": str(self.port),
            "PGHOST": "127.0.0.1",
            "PGPORT": str(self.database.port),
            "MLFLOW_ARTIFACTS_DESTINATION": str(self.folder / "artifacts"),
            "MLFLOW_AUTH_CONFIG_PATH": str(DEPLOY / "basic_auth.ini"),
        }

    def launch(self) -> None:
        """Start the server; it answers some seconds later."""
        own = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
        program, *arguments = read_service("mlflow")["command"]
        self.process = subprocess.Popen(
            [BIN / program, *arguments],
            cwd=self.folder,
            env=own | self.make_environment(),
            stdout=(self.folder / "server.log").open("a"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        self.launch()
        self.wait()

    def wait(self) -> None:
        until = time.monotonic() + STARTS_WITHIN_S
        while time.monotonic() < until and self.process.poll() is None:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.address}/health", timeout=5):
                return
            time.sleep(0.1)
        pytest.fail(f"the server does not answer: {(self.folder / 'server.log').read_text()[-3000:]}")

    def kill(self) -> None:
        """Kill the server and its workers as a power cut would."""
        if self.process:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def ask_as_admin(self, path: str, **values: str) -> None:
        """Send a request of README's kind to the interface of users and permissions."""
        login = base64.b64encode(f"admin:{self.admin_password}".encode()).decode()
        headers = {"Authorization": f"Basic {login}", "Content-Type": "application/json"}
        body = json.dumps(values).encode()
        with urllib.request.urlopen(urllib.request.Request(f"{self.address}/{path}", body, headers)):
            pass

    def make_user(self, name: str) -> dict[str, str]:
        """Make an ordinary user; give the variables with which annotary logs in."""
        password = secrets.token_urlsafe(16)
        self.ask_as_admin("api/2.0/mlflow/users/create", username=name, password=password)
        return {
            "MLFLOW_TRACKING_URI": self.address,
            "MLFLOW_TRACKING_USERNAME": name,
            "MLFLOW_TRACKING_PASSWORD": password,
        }


def find_binaries() -> Path:
    """Find PostgreSQL's programs, or skip the test."""
    on_path = shutil.which("initdb")
    found = [Path(on_path).resolve()] if on_path else sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.skip("PostgreSQL is not installed (Debian's package postgresql)")
    if os.geteuid() == 0 and not shutil.which("runuser"):
        pytest.skip("initdb refuses root, and there is no runuser to become postgres with")
    return found[-1].parent


@contextlib.contextmanager
def postgresql() -> Iterator[PostgreSQL]:
    """Start PostgreSQL, and remove it at the end."""
    binaries = find_binaries()
    # Not one of pytest's folders: the user postgres cannot pass through them.
    with tempfile.TemporaryDirectory(prefix="annotary-server-", dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "postgresql").mkdir()
        database = PostgreSQL(folder / "postgresql", binaries)
        try:
            database.make()
            yield database
        finally:
            database.stop()


@contextlib.contextmanager
def laboratory_server() -> Iterator[LaboratoryServer]:
    """Start PostgreSQL and the server, and remove them at the end."""
    with postgresql() as database:
        server = LaboratoryServer(database.folder.parent, database)
        try:
            server.start()
            yield server
        finally:
            server.kill()
