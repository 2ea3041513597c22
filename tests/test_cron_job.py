"""The CronJob as it stands annotates a file: its command and uid, with a root file system that is read-only.

Done without a cluster, in a mount namespace of root's: the job's volume is a folder bound to its mount path,
and a store in a file of the same folder stands for the server.
"""

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import mlflow
import pytest
import yaml
from conftest import PROJECT, leave_store, use_store
from registered import register_linear
from simulate import write_cells

from annotary import registry
from annotary.config import ScoreConfig

pytestmark = pytest.mark.full

READ_ONLY_MOUNTS = "grep -E '^[^ ]+ /(tmp|home|srv|var|mnt|opt|dev/shm)[^ ]* ' /proc/mounts | cut -d' ' -f2"

READING = "--inh-caps=+dac_read_search --ambient-caps=+dac_read_search"
"""An image's programs can be read by all; here the interpreter may lie in root's home."""


@pytest.fixture
def volume():
    folder = Path(tempfile.mkdtemp(prefix="volume-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def mount_path():
    """Where the job has its volume; made for the test where this machine has none."""
    pod = read_pod()
    path = Path(pod["containers"][0]["volumeMounts"][0]["mountPath"])
    if os.getuid() != 0 or not shutil.which("setpriv"):
        pytest.skip("only root can bind a folder to the job's mount path and become the job's user")
    if subprocess.run(["unshare", "-m", "mount", "--bind", "/tmp", "/tmp"], capture_output=True).returncode:
        pytest.skip("mount namespaces are not allowed here")
    is_new = not path.exists()
    path.mkdir(exist_ok=True)
    yield path
    if is_new:
        path.rmdir()


def read_pod() -> dict:
    job = yaml.safe_load((PROJECT / "deploy" / "score-cronjob.yaml").read_text())
    return job["spec"]["jobTemplate"]["spec"]["template"]["spec"]


def run_job(pod: dict, volume: Path, mount_path: Path, **changed: str) -> subprocess.CompletedProcess[str]:
    """Run the command of a pod as its user, who can write its volume alone."""
    [container] = pod["containers"]
    user = pod["securityContext"]["runAsUser"]
    env = {one["name"]: one["value"] for one in container["env"]} | changed
    env["PATH"] = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"
    env["PYTHONPATH"] = str(PROJECT / "src")
    words = ["env", "-i", *(f"{name}={value}" for name, value in env.items()), *container["args"]]
    script = f"""set -e
    mount --bind {volume} {volume}
    mount --bind {volume} {mount_path}
    for place in $({READ_ONLY_MOUNTS}); do mount -o remount,bind,ro "$place" 2>/dev/null || true; done
    mount -o remount,bind,rw {volume}
    mount -o remount,bind,rw {mount_path}
    mount -o remount,bind,ro /
    cd /
    exec setpriv --reuid {user} --regid {user} --clear-groups {READING} {shlex.join(words)}"""
    return subprocess.run(
        ["unshare", "-m", "--propagation", "private", "sh", "-c", script],
        capture_output=True,
        text=True,
        timeout=300,
    )


def give_to(user: int, folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        os.chown(path, user, user)


def test_the_cron_job_annotates_as_its_user_in_a_read_only_root(volume, mount_path, empty_store, monkeypatch):
    pod = read_pod()
    user = pod["securityContext"]["runAsUser"]
    (volume / "incoming").mkdir()
    path = write_cells(volume / "incoming" / "sample.h5ad", n_cells=20, seed=0)
    os.utime(path, (1, 1))  # long since written whole
    use_store(empty_store, volume, monkeypatch)
    store = mlflow.get_tracking_uri()
    name = ScoreConfig.model_fields["model_name"].default
    registry.set_alias(register_linear(name, seed=0), "champion")
    leave_store()
    give_to(user, volume)
    ran = run_job(pod, volume, mount_path, MLFLOW_TRACKING_URI=store, MLFLOW_EXPERIMENT_NAME="tests")
    assert ran.returncode == 0, ran.stderr
    assert (volume / "annotated" / "sample.annotated.h5ad").stat().st_uid == user
