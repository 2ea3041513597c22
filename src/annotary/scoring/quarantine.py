"""Putting away files that cannot be annotated, with the reason beside them."""

import json
import os
import shutil
from datetime import UTC, datetime
from pathlib import Path

from annotary.data.atomic import make_folder, replacing
from annotary.errors import OutputError
from annotary.log import say
from annotary.paths import is_remote
from annotary.scoring.batch import ScoredFile

ERROR_SUFFIX = ".error.json"


def move_aside(failed: ScoredFile, folder: Path) -> Path:
    """Move a file that failed to a folder, beside ``NAME.error.json``; a remote one stays where it is.

    Returns
    -------
    The JSON file.

    Raises
    ------
    OutputError
        If it cannot be moved.
    """
    source = failed.path
    target = _find_free(make_folder(folder) / source.name)
    error = failed.error
    about = {
        "source": failed.source,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "error": failed.reason,
        "kind": type(error).__name__,
        "place": error.place if error else "",
        "expected": error.expected if error else "",
        "found": error.found if error else "",
        "remedy": error.remedy if error else "",
    }
    note = target.with_name(f"{target.name}{ERROR_SUFFIX}")
    with replacing(note) as temporary:
        temporary.write_text(json.dumps(about, indent=2) + "\n")
    is_there = source.is_symlink() or source.is_file() or source.is_dir()  # a pipe has another end
    if not is_remote(failed.source) and is_there:
        try:
            _move(source, target)
        except OSError as failure:
            raise OutputError(
                target,
                expected="to take the place of a file that cannot be annotated",
                found=failure.strerror or str(failure),
                remedy="Name another folder with --quarantine.",
            ) from failure
        say(f"moved to {target}, the reason is beside it")
    return note


def _move(source: Path, target: Path) -> None:
    """Move a file or folder; of a link the link alone, which leads to the same place from there."""
    if not source.is_symlink():
        shutil.move(source, target)
        return
    target.symlink_to(os.path.abspath(source.parent / os.readlink(source)))
    source.unlink()


def _find_free(path: Path) -> Path:
    """Find a name that is not taken."""
    number, free = 1, path
    while os.path.lexists(free) or free.with_name(f"{free.name}{ERROR_SUFFIX}").exists():
        number += 1
        free = path.with_name(f"{path.name}-{number}")
    return free
