"""Files that a pattern matches, each folder looked into once: links may run in a circle."""

import glob
import os
from collections.abc import Iterator
from pathlib import PurePath

_ANY_DEPTH = "**"


def find_matches(pattern: str) -> list[str]:
    """Find what a pattern matches, ``**`` for folders at any depth, as :func:`glob.glob` does.

    Hidden folders are passed over. A folder that two paths lead to is looked into by the first of them.
    """
    return sorted(set(_iter_matches(pattern)))


def _iter_matches(pattern: str) -> Iterator[str]:
    """Go through the matches."""
    parts = PurePath(pattern).parts
    if _ANY_DEPTH not in parts:
        yield from glob.iglob(pattern)
        return
    position = parts.index(_ANY_DEPTH)
    rest = parts[position + 1 :]
    before = os.path.join(*parts[:position]) if position else ""
    starts = glob.glob(before) if before else [""]
    seen: set[tuple[int, int]] = set()
    for start in starts:
        for folder in _walk(start, seen):
            yield from _iter_matches(os.path.join(glob.escape(folder), *(rest or ("*",))))


def _walk(start: str, seen: set[tuple[int, int]]) -> Iterator[str]:
    """Go through a folder and those below it, nearest first, each once."""
    waiting = [start]
    while waiting:
        folder = waiting.pop(0)
        try:
            about = os.stat(folder or os.curdir)
            if (about.st_dev, about.st_ino) in seen:
                continue
            seen.add((about.st_dev, about.st_ino))
            with os.scandir(folder or os.curdir) as entries:
                names = sorted(entry.name for entry in entries if entry.is_dir())
        except OSError:  # no folder, or a closed one
            continue
        yield folder
        waiting += [os.path.join(folder, name) for name in names if not name.startswith(".")]
