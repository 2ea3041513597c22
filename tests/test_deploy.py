"""Schedules that start score, and the server: each is whole, and its commands have options that exist."""

import importlib.metadata
import os
import re
import shlex
import shutil
import stat
import subprocess
from pathlib import Path

import mlflow.cli
import pytest
import yaml
from conftest import PROJECT
from laboratory_server import LaboratoryServer, PostgreSQL, fill_in

from annotary.cli import cli

DEPLOY = PROJECT / "deploy"


def check_command(words: list[str]) -> None:
    """Check that a command line is score's, by letting the command itself parse it."""
    assert Path(words[0]).name == "annotary"
    assert words[1] == "score"
    command = cli.commands["score"]
    context = command.make_context("score", words[2:])
    assert context.params["input"]
    assert context.params["recursive"] is True


def test_the_crontab_has_one_schedule_and_a_command_that_exists():
    lines = [line for line in (DEPLOY / "score.crontab").read_text().splitlines() if line.strip()]
    jobs = [line for line in lines if not line.startswith("#") and not re.match(r"[A-Z_]+=", line)]
    assert len(jobs) == 1
    *fields, command = jobs[0].split(maxsplit=5)
    for field, largest in zip(fields, (59, 23, 31, 12, 7), strict=True):
        assert field == "*" or int(field) <= largest
    assert "%" not in command, "cron takes it for a new line"
    check_command(shlex.split(command.split(">>")[0]))


@pytest.mark.skipif(not shutil.which("crontab"), reason="no cron here")
def test_cron_takes_the_crontab():
    done = subprocess.run(["crontab", "-T", str(DEPLOY / "score.crontab")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd here")
def test_systemd_takes_the_units(tmp_path):
    for path in DEPLOY.glob("annotary-*.*"):
        text = re.sub(r"/opt/annotary/\.venv/bin/(annotary|python)", "/bin/true", path.read_text())
        (tmp_path / path.name).write_text(text)
    units = [str(path) for path in sorted(tmp_path.iterdir())]
    assert len(units) == 3
    done = subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "annotary" not in done.stderr


def test_the_service_starts_a_command_that_exists():
    [line] = re.findall(r"^ExecStart=(.*)$", (DEPLOY / "annotary-score.service").read_text(), re.MULTILINE)
    check_command(shlex.split(line))


def test_the_webhook_s_service_starts_commands_that_exist():
    [line] = re.findall(r"^ExecStart=(.*)$", (DEPLOY / "annotary-webhook.service").read_text(), re.MULTILINE)
    words = shlex.split(line)
    script = words.index("/opt/annotary/deploy/webhook_receiver.py")
    assert (DEPLOY / Path(words[script]).name).is_file()
    check_command(words[words.index("--") + 1 :])


def test_the_cron_job_is_complete_and_its_command_exists():
    job = yaml.safe_load((DEPLOY / "score-cronjob.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "CronJob")
    assert job["spec"]["concurrencyPolicy"] in ("Allow", "Forbid", "Replace")
    pod = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    assert pod["restartPolicy"] == "Never", "a pod failure policy needs it"
    [container] = pod["containers"]
    check_command(container["args"])
    rules = job["spec"]["jobTemplate"]["spec"]["podFailurePolicy"]["rules"]
    assert rules[0]["onExitCodes"]["containerName"] == container["name"]
    assert {mount["name"] for mount in container["volumeMounts"]} <= {one["name"] for one in pod["volumes"]}


def test_the_cluster_script_is_bash_and_calls_the_command(tmp_path):
    script = DEPLOY / "score.slurm"
    assert subprocess.run(["bash", "-n", str(script)]).returncode == 0
    stand_in = tmp_path / "annotary"
    stand_in.write_text('#!/usr/bin/env bash\nprintf "%s\\n" annotary "$@"\n')
    stand_in.chmod(stat.S_IRWXU)
    environment = os.environ | {"ANNOTARY": str(stand_in), "INCOMING": "in folder", "ANNOTATED": "out"}
    done = subprocess.run(["bash", str(script)], env=environment, capture_output=True, text=True, check=True)
    words = done.stdout.splitlines()
    check_command(words)
    assert words[words.index("--input") + 1] == "in folder"


def read_compose() -> dict:
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())


def test_every_image_of_the_server_is_pinned():
    images = {name: service["image"] for name, service in read_compose()["services"].items()}
    assert set(images) == {"postgres", "storage", "bucket", "mlflow"}
    for name, image in images.items():
        assert re.fullmatch(r"[a-z0-9./-]+:v?\d+\.\d+(\.\d+)?(-full)?", image), f"{name}: {image}"


def test_the_server_is_of_the_version_that_is_required():
    image = read_compose()["services"]["mlflow"]["image"]
    assert image.partition(":v")[2].removesuffix("-full") == importlib.metadata.version("mlflow")


def test_mlflow_s_own_command_line_takes_the_server_s_command_and_variables(monkeypatch):
    service = read_compose()["services"]["mlflow"]
    for name, value in service["environment"].items():
        monkeypatch.setenv(
            name, fill_in(str(value), dict.fromkeys(re.findall(r"\$\{(\w+)", str(value)), "x"))
        )
    program, name, *arguments = service["command"]
    assert (program, name) == ("mlflow", "server")
    params = mlflow.cli.server.make_context(name, arguments).params
    wanted = {
        "host": "0.0.0.0",
        "port": 5000,
        "app_name": "basic-auth",
        "serve_artifacts": True,
        "workers": "2",
        "backend_store_uri": "postgresql+psycopg2:///mlflow",
        "artifacts_destination": "s3://mlflow",
    }
    assert {name: params[name] for name in wanted} == wanted
    [published] = service["ports"]
    assert published.endswith(f":5000:{params['port']}")


def test_no_password_of_the_server_has_a_default():
    text = (DEPLOY / "compose.yaml").read_text()
    for found in re.finditer(r"\$\{(\w+)([^}]*)\}", text):
        assert found[1] in ("ANNOTARY_BIND", "ANNOTARY_HOSTS") or found[2].startswith(":?"), found[0]
    for service in read_compose()["services"].values():
        for name, value in service.get("environment", {}).items():
            if re.search(r"PASSWORD|SECRET", name):
                assert value.startswith("${"), name
    assert "password =" not in (DEPLOY / "basic_auth.ini").read_text()


def test_the_server_listens_on_this_machine_alone_unless_told_otherwise():
    for name, service in read_compose()["services"].items():
        for port in service.get("ports", []):
            assert port.startswith("${ANNOTARY_BIND:-127.0.0.1}:"), name


def test_every_service_that_stays_has_a_health_check_and_starts_again():
    services = read_compose()["services"]
    for name in ("postgres", "storage", "mlflow"):
        assert services[name]["healthcheck"]["test"][0] == "CMD"
        assert services[name]["restart"] == "unless-stopped"
    assert services["mlflow"]["depends_on"]["postgres"]["condition"] == "service_healthy"


def test_what_the_server_mounts_is_here_and_its_volumes_are_declared():
    compose = read_compose()
    for service in compose["services"].values():
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            assert (DEPLOY / source).is_file() if source.startswith("./") else source in compose["volumes"]


def test_the_tests_server_differs_from_the_laboratory_s_in_addresses_and_passwords_alone(tmp_path):
    server = LaboratoryServer(tmp_path, PostgreSQL(tmp_path, tmp_path))
    service = read_compose()["services"]["mlflow"]["environment"]
    tested = server.make_environment()
    differing = {name for name, value in tested.items() if str(service[name]) != value}
    assert set(service) == set(tested)
    assert differing == {
        "MLFLOW_HOST",
        "MLFLOW_PORT",
        "PGHOST",
        "PGPORT",
        "PGPASSWORD",
        "MLFLOW_ARTIFACTS_DESTINATION",
        "MLFLOW_AUTH_CONFIG_PATH",
        "MLFLOW_AUTH_ADMIN_PASSWORD",
        "MLFLOW_FLASK_SERVER_SECRET_KEY",
        "MLFLOW_SERVER_ALLOWED_HOSTS",  # a variable whose default is tested
        "AWS_SECRET_ACCESS_KEY",
    }
    assert tested["MLFLOW_SERVER_ALLOWED_HOSTS"] == "localhost:*,127.0.0.1:*"


def test_readme_names_every_variable_that_the_server_needs():
    needed = set(re.findall(r"\$\{(\w+):\?", (DEPLOY / "compose.yaml").read_text()))
    readme = (PROJECT / "README.md").read_text()
    assert all(name in readme for name in needed)
