"""Pipes, devices and sockets, which no reader may open: it would wait for another program, or never end."""

import os
import stat
from pathlib import Path

from annotary.errors import InputFileError, printable

_KINDS = (
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def refuse_special_files(path: Path) -> None:
    """Refuse a path, or a folder with one below it, that is neither file nor folder; links are followed.

    Raises
    ------
    InputFileError
        Naming the first of them.
    OSError
        If the path is not there.
    """
    _refuse(path, path.stat())
    if path.is_dir():
        for folder, _, names in os.walk(path):
            for name in names:
                inner = Path(folder, name)
                _refuse(inner, inner.stat())


def name_link(path: Path) -> str:
    """Say that a file that is not there is a link, and where it leads; empty for what is none."""
    try:
        return f": it is a link to {printable(os.readlink(path))!r}"
    except (OSError, ValueError):
        return ""


def _refuse(path: Path, about: os.stat_result) -> None:
    """Refuse one that is no file."""
    for is_kind, name in _KINDS:
        if is_kind(about.st_mode):
            raise InputFileError(
                path,
                expected="to be a file that can be read",
                found=name,
                remedy="Write its content into a file.",
            )
