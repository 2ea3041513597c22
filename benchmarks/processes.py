"""Wall time and peak memory of a command, with the processes that it starts.

Memory is resident memory (RSS): the pages that a process has in RAM, those of the libraries it maps among
them, though other processes may share these; not what the system keeps of files that were read or written
(the page cache). Two figures are taken, and the larger is reported:

- The sum over the command and its descendants, looked at every 50 ms. Pages that they share count once for
  each, so it errs on the high side; a peak shorter than 50 ms may be missed. A descendant counts from the
  second look on: one that has just been started still shows the memory of its parent.
- The maximum that the system kept of the command or of any of its descendants (``ru_maxrss``), which misses
  nothing, but does not add them up. Linux starts it at the peak of the process that launched the command, so
  it is taken only where it is larger than that; keep the launching process small.
"""

import contextlib
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

_INTERVAL_S = 0.05
_UNIT_OF_MAXRSS = 1 if sys.platform == "darwin" else 1024


@dataclass(frozen=True)
class Measurement:
    """What a command took: wall seconds, and peak resident bytes."""

    seconds: float
    peak_bytes: int


def measure(
    command: Sequence[str], *, folder: Path, environment: Mapping[str, str] | None = None
) -> Measurement:
    """Run a command in a folder and measure it.

    Raises
    ------
    RuntimeError
        If it fails; with the end of what it said.
    """
    log = folder / "output.log"
    with log.open("wb") as output:
        start = time.perf_counter()
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=os.environ | dict(environment or {}),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        sampler = _TreeSampler(process.pid)
        sampler.start()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        sampler.stop()
    if process.returncode != 0:
        said = log.read_text(errors="replace")[-2_000:]
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}:\n{said}")
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    kept = usage.ru_maxrss if usage.ru_maxrss > own else 0
    return Measurement(seconds=seconds, peak_bytes=max(sampler.peak_bytes, kept * _UNIT_OF_MAXRSS))


class _TreeSampler(threading.Thread):
    """Look at the resident memory of a process and its descendants again and again, and keep the maximum."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.peak_bytes = 0
        self._process = psutil.Process(pid)
        self._descendants: set[psutil.Process] = set()
        self._stopped = threading.Event()

    def run(self) -> None:
        """Look until stopped."""
        while not self._stopped.wait(_INTERVAL_S):
            self.peak_bytes = max(self.peak_bytes, self._sum_rss())

    def stop(self) -> None:
        """Stop, and wait for the last look."""
        self._stopped.set()
        self.join()

    def _sum_rss(self) -> int:
        """Add up what the processes hold; one that has just ended holds nothing."""
        try:
            descendants = set(self._process.children(recursive=True))
        except psutil.NoSuchProcess:
            return 0
        total = 0
        for process in [self._process, *(descendants & self._descendants)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                total += process.memory_info().rss
        self._descendants = descendants
        return total
