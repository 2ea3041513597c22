"""Whatever breaks a run, the next one ends with every input annotated once, or listed as failed."""

import contextlib
import ctypes
import hashlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import anndata
import h5py
import numpy as np
import pytest
from anndata.io import write_elem
from conftest import PROJECT
from scoring_lab import Lab
from simulate import simulate_cells

from annotary import keys
from annotary.scoring.ledger_file import LEDGER_NAME

WORKER = [sys.executable, str(PROJECT / "tests" / "scoring_lab.py")]
PATHS = os.pathsep.join([str(PROJECT / "tests"), os.environ.get("PYTHONPATH", "")])
ENVIRONMENT = os.environ | {"PYTHONPATH": PATHS, "OMP_NUM_THREADS": "1"}


def start(folder: Path, *options: str) -> subprocess.Popen:
    command = [*WORKER, str(folder), *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)


def finish(process: subprocess.Popen) -> dict[str, str]:
    return finish_measured(process)[0]


def finish_measured(process: subprocess.Popen) -> tuple[dict[str, str], int]:
    """Wait for the status of each file, and the peak memory, kB."""
    said, _ = process.communicate(timeout=1500)
    assert process.returncode == 0
    told = json.loads(said)
    return told["files"], told["peak_kb"]


def make_lab(folder: Path, n_files: int, *, n_cells: int = 30) -> Lab:
    lab = Lab(folder)
    for number in range(n_files):
        lab.add(f"{number:03d}.h5ad", seed=number, n_cells=n_cells + number % 3)
    return lab


def read_results(lab: Lab) -> dict[str, str]:
    """Hash what was annotated in each output: labels, confidence, probabilities, counts."""
    found = {}
    for name in lab.list_outputs():
        after = anndata.read_h5ad(lab.output / name)
        parts = (
            after.obs[keys.PREDICTED_LABELS].astype(str).str.cat(sep=",").encode(),
            after.obs[keys.CONF_SCORE].to_numpy().tobytes(),
            after.obsm[keys.PROBABILITIES].tobytes(),
            after.X.toarray().tobytes(),
        )
        found[name] = hashlib.sha256(b"".join(parts)).hexdigest()
    return found


def assert_whole(lab: Lab, undisturbed: Lab) -> None:
    """Check that everything is annotated as in a run that nothing disturbed, and nothing else is there."""
    assert read_results(lab) == read_results(undisturbed)
    with contextlib.closing(sqlite3.connect(lab.output / LEDGER_NAME)) as database:
        rows = database.execute("SELECT address, status FROM files").fetchall()
        assert database.execute("SELECT count(*) FROM runs").fetchone() == (0,)
    assert sorted(Path(address).name for address, _ in rows) == sorted(os.listdir(lab.incoming))
    assert {status for _, status in rows} == {"done"}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Lab:
    lab = make_lab(tmp_path_factory.mktemp("undisturbed"), 12, n_cells=400)
    lab.score(recursive=True)
    return lab


@pytest.fixture
def lab(undisturbed, tmp_path) -> Lab:
    shutil.copytree(undisturbed.incoming, tmp_path / "incoming")
    return Lab(tmp_path)


def kill_after(process: subprocess.Popen, seconds: float) -> None:
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.communicate()


def wait_for_work(folder: Path, process: subprocess.Popen) -> None:
    """Wait until a run is known to the ledger; imports are no interesting moment to be killed in."""
    while process.poll() is None:
        with contextlib.suppress(sqlite3.Error):
            uri = f"file:{folder / 'out' / LEDGER_NAME}?mode=ro"
            with contextlib.closing(sqlite3.connect(uri, uri=True)) as database:
                if database.execute("SELECT 1 FROM runs WHERE pid = ?", (process.pid,)).fetchone():
                    return
        time.sleep(0.005)


def count_done(lab: Lab) -> int:
    return sum(name.endswith(".annotated.h5ad") for name in lab.list_outputs())


@pytest.mark.full
@pytest.mark.parametrize("seed", range(5))
def test_ten_kills_at_random_moments(lab, undisturbed, seed):
    rng, statuses = random.Random(seed), []
    for _ in range(10):
        process = start(lab.folder)
        wait_for_work(lab.folder, process)
        kill_after(process, rng.uniform(0.0, 0.1))
        statuses.append(count_done(lab))
    assert statuses[0] < 12, "the first kill came in the midst of the work"
    finish(start(lab.folder))
    assert_whole(lab, undisturbed)
    assert set(finish(start(lab.folder)).values()) == {"known"}


@pytest.mark.full
@pytest.mark.parametrize("n_runs", [2, 4])
def test_runs_at_once_share_the_work(lab, undisturbed, n_runs):
    processes = [start(lab.folder) for _ in range(n_runs)]
    found = [finish(process) for process in processes]
    for name in os.listdir(lab.incoming):
        assert [statuses[name] for statuses in found].count("annotated") == 1, name
    assert_whole(lab, undisturbed)


@pytest.mark.full
def test_a_run_that_is_killed_beside_another_one(lab, undisturbed):
    first, second = start(lab.folder), start(lab.folder)
    wait_for_work(lab.folder, first)
    kill_after(first, 0.1)
    finish(second)
    finish(start(lab.folder))
    assert_whole(lab, undisturbed)


@contextlib.contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    folder.mkdir(exist_ok=True)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"tmpfs", str(folder).encode(), b"tmpfs", 0, options.encode()):
        pytest.skip("mounting needs root")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.full
def test_a_full_disk_fails_what_does_not_fit_and_the_next_run_makes_up(lab, undisturbed):
    with mounted(lab.output, "size=3m"):
        done = subprocess.run([*WORKER, str(lab.folder)], env=ENVIRONMENT, capture_output=True, text=True)
        # Files that do not fit fail one by one, until the ledger has no room either, which ends the run.
        assert done.returncode == 0 or "OutputError" in done.stderr
        before = {name: (lab.output / name).stat().st_mtime_ns for name in lab.list_outputs()}
        assert 0 < len(before) < len(os.listdir(lab.incoming))
        assert all(name.endswith(".annotated.h5ad") for name in before)
        subprocess.run(["mount", "-o", "remount,size=100m", str(lab.output)], check=True)
        finish(start(lab.folder))
        assert_whole(lab, undisturbed)
        assert before == {name: (lab.output / name).stat().st_mtime_ns for name in before}


@pytest.mark.full
def test_a_read_only_output_is_one_error_and_changes_nothing(lab):
    with mounted(lab.output, "size=10m,ro"):
        done = subprocess.run([*WORKER, str(lab.folder)], env=ENVIRONMENT, capture_output=True, text=True)
        assert done.returncode != 0
        assert "LedgerFileError" in done.stderr
        assert "needs to be a ledger that can be written" in done.stderr
        assert "its file system can only be read. Mount it so that it can be written" in done.stderr
        assert lab.list_outputs() == []


@pytest.mark.full
def test_inputs_that_are_replaced_all_the_time_are_annotated_as_they_are_in_the_end(lab, undisturbed):
    names = sorted(os.listdir(lab.incoming))
    process = start(lab.folder)
    rng = random.Random(0)
    while process.poll() is None:
        name = rng.choice(names)
        shutil.copy(undisturbed.incoming / rng.choice(names), lab.folder / "new")
        (lab.folder / "new").replace(lab.incoming / name)
        time.sleep(0.02)
    process.communicate()
    for name in names:
        shutil.copy(undisturbed.incoming / name, lab.folder / "new")
        (lab.folder / "new").replace(lab.incoming / name)
    finish(start(lab.folder))
    found = read_results(lab)
    expected = read_results(undisturbed)
    # A file whose content another name was annotated with is known by its hash, and has that one's output.
    assert set(found.values()) == set(expected.values())
    assert set(finish(start(lab.folder)).values()) == {"known"}


@pytest.mark.full
def test_a_ledger_that_is_cut_short_is_made_again_from_the_files(lab, undisturbed):
    process = start(lab.folder)
    wait_for_work(lab.folder, process)
    kill_after(process, 0.2)
    with (lab.output / LEDGER_NAME).open("r+b") as file:
        file.write(os.urandom(4096))
    finish(start(lab.folder))
    assert read_results(lab) == read_results(undisturbed)
    assert set(finish(start(lab.folder)).values()) == {"known"}


@pytest.mark.full
def test_a_clock_that_was_set_back_changes_nothing(lab, undisturbed):
    ahead = time.time() + 86_400
    for path in lab.incoming.iterdir():
        os.utime(path, (ahead, ahead))
    assert set(lab.score(recursive=True, settle_seconds=60).values()) == {"annotated"}
    for path in lab.output.iterdir():
        os.utime(path, (ahead + 60, ahead + 60)) if path.name == LEDGER_NAME else None
    assert set(lab.score(recursive=True, settle_seconds=60).values()) == {"known"}
    assert_whole(lab, undisturbed)


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_ten_thousand_tiny_files_are_annotated_in_bounded_memory(tmp_path):
    lab = Lab(tmp_path)
    patterns = [lab.add(f"p{number}.h5ad", seed=number, n_cells=3) for number in range(10)]
    for number in range(10_000):
        target = lab.incoming / f"{number // 100}" / f"{number}.h5ad"
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(patterns[number % 10].read_bytes() + number.to_bytes(8, "little"))
    for path in patterns:
        path.unlink()
    tables = ("form=table", "table_format=csv")  # half the time of h5ad files, and as many
    found, peak = finish_measured(start(lab.folder, *tables))
    assert list(found.values()) == ["annotated"] * 10_000
    assert len(lab.list_outputs()) == 10_000
    assert peak < 400_000
    again, peak = finish_measured(start(lab.folder, *tables))
    assert set(again.values()) == {"known"}
    assert peak < 400_000


@pytest.mark.full
def test_half_a_million_cells_are_annotated_in_bounded_memory(tmp_path):
    lab = Lab(tmp_path)
    lab.incoming.mkdir()
    simulate = [sys.executable, str(PROJECT / "benchmarks" / "simulated_counts.py")]
    path = lab.incoming / "large.h5ad"
    subprocess.run([*simulate, str(path), "--cells", "500000", "--genes", "1500"], check=True)
    with h5py.File(path, "r+") as file:
        del file["var"]
        write_elem(file, "var", simulate_cells(n_cells=1, n_genes=1500).var)  # genes as the model names them
    found, peak = finish_measured(start(lab.folder))
    assert found == {"large.h5ad": "annotated"}
    assert peak < 700_000
    with h5py.File(lab.output / "large.annotated.h5ad") as file:
        assert file["obs"][keys.CONF_SCORE].shape == (500_000,)
        assert file["obsm"][keys.PROBABILITIES].shape == (500_000, 3)
        assert np.isfinite(file["obs"][keys.CONF_SCORE][:]).all()


def test_the_worker_does_what_the_lab_does(tmp_path):
    lab = make_lab(tmp_path, 2)
    assert finish(start(lab.folder)) == {"000.h5ad": "annotated", "001.h5ad": "annotated"}
    assert finish(start(lab.folder)) == {"000.h5ad": "known", "001.h5ad": "known"}
    assert np.isfinite(anndata.read_h5ad(lab.output / "000.annotated.h5ad").obs[keys.CONF_SCORE]).all()
