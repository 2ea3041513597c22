"""Whether the process that began a run is still there."""

import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

LEASE_S = 600.0
"""Silence after which a run on another machine is taken for dead."""


@dataclass(frozen=True)
class Process:
    """A process on some machine.

    Attributes
    ----------
    host
        The machine.
    pid
        Its number there.
    birth
        When it began, in a form that a clock that is set back does not change.
    """

    host: str
    pid: int
    birth: str

    @classmethod
    def own(cls) -> "Process":
        """Describe this process."""
        pid = os.getpid()
        return cls(host=socket.gethostname(), pid=pid, birth=_find_birth(pid))

    def is_alive(self, heartbeat: float) -> bool:
        """Tell whether it is there; on another machine, whether it gave a sign in the last ten minutes.

        Parameters
        ----------
        heartbeat
            When it last gave one, seconds since 1970 by its own clock.
        """
        if self.host == socket.gethostname():
            return _find_birth(self.pid) == self.birth
        return abs(time.time() - heartbeat) < LEASE_S


def _find_birth(pid: int) -> str:
    """Find when a process began: boot and ticks since then on Linux; empty for one that is not there."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        try:
            return f"{psutil.Process(pid).create_time():.0f}"
        except psutil.Error:
            return ""
    return "" if state in "ZX" else f"{boot}:{fields[18]}"
