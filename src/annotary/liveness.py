"""Whether the process that began some work is still there."""

import functools
import os
import socket
from dataclasses import dataclass
from pathlib import Path

import psutil

_BOOT = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class Process:
    """A process on some machine.

    Attributes
    ----------
    host
        The machine: its name, and on Linux which boot of it and which namespace of processes, since
        containers and cloned machines share a name.
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
        return cls(host=name_host(), pid=pid, birth=_find_birth(pid))

    def is_there(self) -> bool | None:
        """Tell whether it is there; None on another machine, where only its signs of life tell."""
        if self.host == name_host() or self._is_of_an_earlier_version_here():
            return self.birth != "" and _find_birth(self.pid) == self.birth
        return None

    def _is_of_an_earlier_version_here(self) -> bool:
        """Tell a process that named its machine alone, and began in this boot of it."""
        return self.host == socket.gethostname() and self.birth.startswith(f"{find_boot()}:")


def name_host() -> str:
    """Name this machine so that its processes can be looked up by number."""
    boot = find_boot()
    if not boot:
        return socket.gethostname()
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = ""
    return f"{socket.gethostname()} {boot} {namespace}".strip()


@functools.cache
def find_boot() -> str:
    """Find the id of this boot of the machine, within which its monotonic clock counts; empty if unknown."""
    try:
        return _BOOT.read_text().strip()
    except OSError:
        return ""


def _find_birth(pid: int) -> str:
    """Find when a process began: boot and ticks since then on Linux; empty for one that is not there."""
    boot = find_boot()
    try:
        if not boot:
            raise FileNotFoundError(_BOOT)
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        try:
            return f"{psutil.Process(pid).create_time():.0f}"
        except (psutil.Error, ValueError, OverflowError):
            return ""
    return "" if state in "ZX" else f"{boot}:{fields[18]}"
