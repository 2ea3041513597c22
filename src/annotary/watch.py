"""When a process that reads a file has stalled."""

import contextlib
import time
from dataclasses import dataclass

import psutil

from annotary.pulse import COMPUTING, READING, Board

FIRST_CPU_S = 4.0
CPU_S_PER_MB = 4.0
_MB = 1e6


@dataclass(frozen=True)
class Patience:
    """How long a process may go without progress.

    A library that is caught in a damaged file computes for ever and reads nothing; one that waits for a
    slow disk computes nothing. So two clocks run. Progress is a step that a thread reports: cells that were
    read or annotated, rows that were converted.

    Attributes
    ----------
    seconds
        Time without any progress; a byte that was read or written is progress too, and so is computing with
        cells that have been read.
    cpu_seconds
        Processor time that a thread may use between two steps while it reads: reading a table takes some
        microseconds for each cell, and a file has at least some bytes for each.
    """

    seconds: float
    cpu_seconds: float

    @classmethod
    def for_size(cls, n_bytes: int, *, seconds: float) -> "Patience":
        """Give 4 s of processor time, and 4 s more for each megabyte of a file, up to ``seconds``."""
        return cls(seconds, min(seconds, FIRST_CPU_S + CPU_S_PER_MB * max(n_bytes, 0) / _MB))


class Watch:
    """Looks at a process again and again while it does one task.

    Parameters
    ----------
    pid
        The process.
    board
        Where its threads leave their signs.
    patience
        How long it may go without progress.
    """

    def __init__(self, pid: int, board: Board, patience: Patience) -> None:
        self._board = board
        self._patience = patience
        self._process: psutil.Process | None = None
        with contextlib.suppress(psutil.Error):
            self._process = psutil.Process(pid)
        self._signs: object = None
        self._since = time.monotonic()
        self._steps: dict[int, tuple[int, float]] = {}

    def look(self) -> str:
        """Look at it; empty while there is progress, and else what there is instead, for people."""
        cpu = self._read_cpu()
        threads = self._board.read()
        is_computing = any(sign.doing == COMPUTING for sign in threads)
        signs = (
            sum(sign.beats for sign in threads),
            self._count_bytes(),
            sum(cpu.values()) if is_computing else 0.0,
        )
        if signs != self._signs:
            self._signs, self._since = signs, time.monotonic()
        for sign in threads:
            used = cpu.get(sign.thread)
            if used is None:
                continue
            step = self._steps.get(sign.thread)
            if step is None or step[0] != sign.beats or sign.doing != READING:
                self._steps[sign.thread] = (sign.beats, used)
            elif used - step[1] > self._patience.cpu_seconds:
                return f"no progress in {used - step[1]:.0f} s of computing"
        waited = time.monotonic() - self._since
        return f"no progress for {waited:.0f} s" if waited > self._patience.seconds else ""

    def _read_cpu(self) -> dict[int, float]:
        """Read the processor time of each thread, s."""
        with contextlib.suppress(psutil.Error):
            if self._process:
                return {one.id: one.user_time + one.system_time for one in self._process.threads()}
        return {}

    def _count_bytes(self) -> int:
        """Count what was read and written; 0 where the system does not tell."""
        with contextlib.suppress(psutil.Error, AttributeError):
            if self._process:
                found = self._process.io_counters()
                return int(found.read_chars + found.write_chars)
        return 0
