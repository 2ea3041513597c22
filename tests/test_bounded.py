"""A process that does things in another one's stead: it may stall or die, and the caller goes on."""

import builtins
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from annotary import bounded, watch
from annotary.bounded import BoundedProcess, open_bounded
from annotary.data.special_files import refuse_special_files
from annotary.errors import (
    ConfigError,
    CrashError,
    InputFileError,
    OutputError,
    ShortageError,
    StalledError,
    UnforeseenError,
)

pytestmark = [pytest.mark.bounded, pytest.mark.timeout(60)]

ENDLESS = builtins.max, range(10**12)
"""Computes for ever, holds Python's lock, and answers no signal that Python handles, as HDF5 does."""

PARENT = """
import signal, sys
from annotary import bounded, cli, watch
watch.FIRST_CPU_S = watch.CPU_S_PER_MB = 1000.0
signal.signal(signal.SIGTERM, cli._terminate)
with bounded.open_bounded(seconds=1000) as process:
    process.get_ready()
    print(process._pid, flush=True)
    process.call(max, range(10**12), place="x")
"""


@pytest.fixture(scope="module")
def process():
    with open_bounded(seconds=30) as process:
        yield process


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(watch, "FIRST_CPU_S", 0.5)


def is_gone(pid: int) -> bool:
    for _ in range(50):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.1)
    return False


def test_a_result_comes_back(process):
    assert process.call(divmod, 7, 2, place="x") == (3, 1)


def test_our_own_errors_come_back_as_they_are(process, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputFileError, match="found a named pipe") as raised:
        process.call(refuse_special_files, tmp_path / "pipe", place="x")
    assert type(raised.value) is InputFileError
    assert raised.value.place == str(tmp_path / "pipe")


def test_an_error_that_nobody_foresaw_names_the_file_and_ends_nothing(process):
    births = process.births
    with pytest.raises(UnforeseenError, match=r"^x\.h5ad needs .*ValueError: invalid literal"):
        process.call(int, "three", place="x.h5ad")
    assert process.call(len, "abc", place="x") == 3
    assert process.births == births


def test_a_result_that_cannot_be_sent_is_an_error_and_ends_nothing(process):
    births = process.births
    with pytest.raises(UnforeseenError, match="lock"):
        process.call(threading.Lock, place="x")
    assert process.call(len, "abc", place="x") == 3
    assert process.births == births


@pytest.mark.parametrize(
    ("function", "arguments", "expected"),
    [
        (bytes, (10**15,), ShortageError),
        (Path.write_text, (Path("/dev/full"), "x"), OutputError),
        (os.kill, (0, signal.SIGKILL), ShortageError),
    ],
    ids=["memory", "disk", "killed for memory"],
)
def test_what_the_machine_lacks_is_not_the_file_s_fault(function, arguments, expected, process):
    if function is os.kill:
        process.get_ready()
        arguments = (process._pid, signal.SIGKILL)
    with pytest.raises(expected, match="the next run tries it again") as raised:
        process.call(function, *arguments, place="x.h5ad")
    assert raised.value.place == "x.h5ad"
    assert not isinstance(raised.value, InputFileError)


def test_a_crash_is_told_of_the_file_and_the_next_one_is_read(process):
    process.get_ready()
    births = process.births
    with pytest.raises(CrashError, match=r"^x\.h5ad .*dies \(signal SEGV\)"):
        process.call(signal.raise_signal, signal.SIGSEGV, place="x.h5ad")
    assert process.call(len, "abc", place="y.h5ad") == 3
    assert process.births == births + 1


def test_an_end_that_is_no_crash_is_not_the_file_s_fault(process):
    with pytest.raises(UnforeseenError, match="ended with code 7"):
        process.call(os._exit, 7, place="x")
    assert process.call(len, "abc", place="x") == 3


def test_what_computes_for_ever_is_ended_and_told_of_the_file(process):
    process.get_ready()
    pid = process._pid
    with pytest.raises(StalledError, match=r"^x\.h5ad .*no progress in \d+ s of computing.*--read-timeout"):
        process.call(*ENDLESS, place="x.h5ad")
    assert is_gone(pid)
    assert process.call(len, "abc", place="y.h5ad") == 3


def test_a_larger_file_may_compute_longer(process, monkeypatch):
    monkeypatch.setattr(watch, "CPU_S_PER_MB", 0.5)
    with pytest.raises(StalledError, match="no progress in 1 s of computing"):
        process.call(*ENDLESS, place="x", n_bytes=1_200_000)


def test_what_waits_for_ever_is_ended(process):
    process.get_ready()
    process._seconds, seconds = 0.5, process._seconds
    try:
        with pytest.raises(StalledError, match=r"no progress for \d+ s"):
            process.call(time.sleep, 1000, place="x")
    finally:
        process._seconds = seconds


def test_one_that_died_while_it_had_nothing_to_do_is_replaced(process):
    process.get_ready()
    os.kill(process._pid, signal.SIGKILL)
    time.sleep(0.2)
    assert process.call(len, "abc", place="x") == 3


def test_what_is_sent_on_the_way_is_done_first_and_its_errors_are_nobody_s(process, tmp_path):
    process.send(os.mkdir, str(tmp_path / "made"))
    process.send(os.mkdir, str(tmp_path / "none" / "made"))
    assert process.call(os.path.isdir, str(tmp_path / "made"), place="x")


def test_without_a_timeout_no_process_is_started(monkeypatch):
    monkeypatch.setattr(bounded, "BoundedProcess", None)
    with open_bounded(seconds=0) as process:
        assert process is None


def test_where_none_can_be_started_the_option_that_needs_none_is_named(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    started = BoundedProcess(seconds=30)
    try:
        with pytest.raises(ConfigError, match=r"--read-timeout needs a second process.*0 reads them"):
            started.call(len, "abc", place="x")
    finally:
        started.close()


def test_it_ends_with_the_block_whatever_it_is_at():
    with open_bounded(seconds=30) as process:
        process.get_ready()
        pid = process._pid
        process.send(*ENDLESS)
    assert is_gone(pid)


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)])
def test_a_parent_that_is_ended_ends_at_once_and_leaves_no_process_behind(sent, code):
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as parent:
        pid = int(parent.stdout.readline())
        time.sleep(0.3)  # it computes
        started = time.monotonic()
        parent.send_signal(sent)
        assert parent.wait(20) == code
        assert time.monotonic() - started < 10
    assert is_gone(pid)


def test_the_keyboard_s_signal_is_left_to_the_parent(process):
    process.get_ready()
    births = process.births
    for one in (signal.SIGINT, signal.SIGTERM):
        os.kill(process._pid, one)
    assert process.call(len, "abc", place="x") == 3
    assert process.births == births
