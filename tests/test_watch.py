"""What counts as progress of a process that reads a file."""

import os
import subprocess
import threading
import time

import pytest

from annotary import pulse
from annotary.pulse import COMPUTING, IDLE, READING, Board, Sign
from annotary.watch import CPU_S_PER_MB, FIRST_CPU_S, Patience, Watch

LONG = 1e6


@pytest.fixture
def board():
    handle = pulse.make_board_file()
    board = Board(handle)
    yield board
    board.close()
    os.close(handle)


@pytest.fixture
def reader():
    """Another process, which reads what it is given."""
    command = ["sh", "-c", "while read line; do :; done"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, bufsize=0) as process:
        time.sleep(0.1)  # it has begun
        yield process
        process.kill()


def compute(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def sign(board: Board, beats: int, doing: int) -> None:
    board.write(0, Sign(threading.get_native_id(), beats, doing))


def watch(board: Board, *, seconds: float = LONG, cpu_seconds: float = LONG) -> Watch:
    return Watch(os.getpid(), board, Patience(seconds, cpu_seconds))


def test_computing_without_a_step_while_a_file_is_read_is_no_progress(board):
    sign(board, 1, READING)
    looked = watch(board, cpu_seconds=0.1)
    assert looked.look() == ""
    compute(0.2)
    assert "s of computing" in looked.look()


def test_a_slow_file_that_goes_on_by_steps_is_not_given_up(board):
    looked = watch(board, cpu_seconds=0.2)
    for beats in range(6):
        sign(board, beats + 1, READING)
        assert looked.look() == ""
        compute(0.1)


@pytest.mark.parametrize("doing", [COMPUTING, IDLE])
def test_computing_with_what_was_read_may_take_its_time(doing, board):
    sign(board, 1, doing)
    looked = watch(board, cpu_seconds=0.1)
    looked.look()
    compute(0.2)
    assert looked.look() == ""


def test_a_process_that_waits_for_nothing_makes_no_progress(board, reader):
    looked = Watch(reader.pid, board, Patience(0.2, LONG))
    assert looked.look() == ""
    time.sleep(0.4)
    assert looked.look().startswith("no progress for ")


def test_a_slow_disk_that_gives_a_byte_now_and_then_is_waited_for(board, reader):
    looked = Watch(reader.pid, board, Patience(0.4, LONG))
    for _ in range(6):
        assert looked.look() == ""
        reader.stdin.write(b"line\n")
        time.sleep(0.1)
    assert looked.look() == ""


def test_cells_that_are_computed_with_for_long_are_waited_for(board):
    sign(board, 1, COMPUTING)
    looked = watch(board, seconds=0.15)
    for _ in range(4):
        assert looked.look() == ""
        compute(0.1)
    assert looked.look() == ""


def test_a_process_that_is_gone_is_not_waited_for_for_ever(board):
    looked = Watch(2**22 + 1, board, Patience(0.05, LONG))
    looked.look()
    time.sleep(0.1)
    assert looked.look()


@pytest.mark.parametrize(
    ("n_bytes", "seconds", "expected"),
    [
        (0, 300, FIRST_CPU_S),
        (-1, 300, FIRST_CPU_S),
        (10_000_000, 300, FIRST_CPU_S + 10 * CPU_S_PER_MB),
        (10**12, 300, 300),
        (0, 1, 1),
    ],
)
def test_a_larger_file_may_compute_longer_up_to_the_timeout(n_bytes, seconds, expected):
    assert Patience.for_size(n_bytes, seconds=seconds) == Patience(seconds, expected)
