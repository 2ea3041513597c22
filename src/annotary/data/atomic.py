"""Files that appear whole or not at all."""

import contextlib
import errno
import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from annotary.errors import OutputError

TEMPORARY_PREFIX = ".annotary-"

_REMEDIES = {
    "Free some space, or name another folder with --output.": (errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
    "This file system does not take the name: give the input a shorter or plainer one.": (
        errno.ENAMETOOLONG,
        errno.EINVAL,
        errno.EILSEQ,
    ),
    "Ask for the right to write there, or name another folder with --output.": (
        errno.EACCES,
        errno.EPERM,
        errno.EROFS,
    ),
    "Something else has this name: move it away, or name another folder with --output.": (
        errno.EISDIR,
        errno.ENOTDIR,
        errno.EEXIST,
        errno.ENOTEMPTY,
    ),
    "Close the program that has it open; the next run tries again.": (
        errno.EAGAIN,
        errno.EBUSY,
        errno.ETXTBSY,
    ),
    "Its folder went away: make it again, or name another one with --output.": (errno.ENOENT, errno.ESTALE),
}
_LONGEST_NAME = 255
_OTHER_REMEDY = "Check the disk, or name another folder with --output."
_NUMBER = re.compile(r"errno = (\d+)")


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


def find_remedy(error: OSError) -> str:
    """Say what to do about a refusal to write; HDF5 puts the system's number into its text."""
    number = error.errno
    if number is None and (told := _NUMBER.search(str(error))):
        number = int(told.group(1))
    return next((remedy for remedy, numbers in _REMEDIES.items() if number in numbers), _OTHER_REMEDY)


def fit_name(stem: str, ending: str, folder: Path) -> str:
    """Join a name and its ending; a name that the file system would not take is cut, with a hash behind.

    Parameters
    ----------
    stem
        Name without ending.
    ending
        What must stay at its end.
    folder
        Where the file goes; what it takes is asked of it, or of the nearest folder that is there.
    """
    name, room = f"{stem}{ending}", _find_longest(folder)
    if len(name.encode("utf-8", "surrogateescape")) <= room:
        return name
    mark = f"-{hashlib.sha256(stem.encode('utf-8', 'surrogateescape')).hexdigest()[:8]}{ending}"
    kept = stem.encode("utf-8", "surrogateescape")[: room - len(mark.encode())]
    return kept.decode("utf-8", "ignore") + mark


def _find_longest(folder: Path) -> int:
    """Ask how many bytes a name may have."""
    for place in (folder, *folder.parents):
        with contextlib.suppress(OSError, ValueError):
            return os.pathconf(place, "PC_NAME_MAX")
    return _LONGEST_NAME


@contextlib.contextmanager
def replacing(
    target: Path, *, owner: str = "", before: Callable[[Path], None] | None = None
) -> Iterator[Path]:
    """Give a temporary path beside ``target``; put it in the target's place when the block ends well.

    The bytes are on the disk before the name changes. When the block fails,
    the temporary file is removed and an older target stays as it was. The
    name of the temporary file holds ``owner``, by which it is known when the process was killed.
    ``before`` is called with the temporary path just before it takes the target's name.

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
        if before:
            before(temporary)
        temporary.replace(target)
        _sync_folder(target.parent)
    except OSError as error:
        raise OutputError(
            target,
            expected="to be written whole",
            found=error.strerror or str(error),
            remedy=find_remedy(error),
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
