"""Schedules that start score: each passes its own checker, and its command has options that exist."""

import os
import re
import shlex
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
import yaml
from conftest import PROJECT

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
