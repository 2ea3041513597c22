"""Telling quickly whether a file is the one that was seen before."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Identity:
    """What the file system, or a server, says of a file.

    Attributes
    ----------
    size
        Bytes; -1 where a server does not tell.
    fingerprint
        Text that changes with the file; empty where nothing is known.
    changed
        When the content last changed, seconds since 1970; None where a server does not tell.
    """

    size: int
    fingerprint: str
    changed: float | None


def identify(path: Path) -> Identity:
    """Read size, time and inode of a file, or of every file in a folder.

    Raises
    ------
    OSError
        If it is not there.
    """
    if not path.is_dir():
        return _from_stat(path.stat())
    digest, size, changed = hashlib.sha256(), 0, 0.0
    for folder, folders, files in os.walk(path):
        folders.sort()
        for name in sorted(files):
            one = _from_stat(os.stat(os.path.join(folder, name)))
            digest.update(f"{folder}\x1f{name}\x1f{one.fingerprint}\x1e".encode())
            size += one.size
            changed = max(changed, one.changed or 0.0)
    return Identity(size=size, fingerprint=f"{size}-{digest.hexdigest()[:16]}", changed=changed)


def _from_stat(stat: os.stat_result) -> Identity:
    """Take what settles whether a file was rewritten or put in another's place."""
    return Identity(
        size=stat.st_size,
        fingerprint=f"{stat.st_size}-{stat.st_mtime_ns}-{stat.st_ino}",
        changed=stat.st_mtime,
    )
