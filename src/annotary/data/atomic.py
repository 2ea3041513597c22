"""Files that appear whole or not at all."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from annotary.errors import OutputError

TEMPORARY_PREFIX = ".annotary-"


def make_folder(folder: Path) -> Path:
    """Make an output folder.

    Raises
    ------
    OutputError
        If it cannot be made, or is not a folder.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            folder,
            expected="to be a folder that can be written",
            found=error.strerror or str(error),
            remedy="Name another folder with --output.",
        ) from error
    return folder


@contextlib.contextmanager
def replacing(target: Path, *, owner: str = "") -> Iterator[Path]:
    """Give a temporary path beside ``target``; put it in the target's place when the block ends well.

    The bytes are on the disk before the name changes. When the block fails,
    the temporary file is removed and an older target stays as it was. The
    name of the temporary file holds ``owner``, by which it is known when the process was killed.

    Raises
    ------
    OutputError
        If the operating system refuses to write.
    """
    make_folder(target.parent)
    temporary: Path | None = None
    try:
        handle, name = tempfile.mkstemp(
            prefix=f"{TEMPORARY_PREFIX}{owner}", suffix=target.suffix, dir=target.parent
        )
        os.close(handle)
        temporary = Path(name)
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(target)
        _sync_folder(target.parent)
    except OSError as error:
        raise OutputError(
            target,
            expected="to be written whole",
            found=error.strerror or str(error),
            remedy="Free some space or name another folder with --output.",
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _umask() -> int:
    """Read the process's umask, which the operating system tells only by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    """Make the new name itself durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
