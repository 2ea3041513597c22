"""Files in an output's place that annotary did not write, or somebody changed: kept under another name."""

import contextlib
import errno
import fcntl
import os
from collections.abc import Collection
from pathlib import Path

from annotary.data.atomic import fit_name
from annotary.data.discovery import KEPT_FILE_SUFFIX
from annotary.errors import OutputError
from annotary.scoring.identity import identify
from annotary.scoring.retry import PassingError

_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS, errno.EACCES)


def keep_foreign(target: Path, new: Path, *, vouched: Collection[str]) -> Path | None:
    """Give a file another name before a new output takes its own; annotary's own output is left as it is.

    The file never is without a name: it has both for a moment.

    Parameters
    ----------
    target
        Where the output goes.
    new
        The output, still under another name.
    vouched
        What the file system said of outputs when annotary wrote them, as
        :func:`annotary.scoring.identity.identify` tells it.

    Returns
    -------
    Where the file is now; None where there was none, or nothing of it is lost.

    Raises
    ------
    PassingError
        If another program has the file open for writing.
    OutputError
        If it cannot get another name.
    """
    if not os.path.lexists(target) or target.is_dir():
        return None  # a folder is refused when the new file takes its name
    _refuse_open(target)
    if _is_vouched(target, vouched) or _is_same(target, new):
        return None
    try:
        return _give_name(target)
    except OSError as error:
        raise OutputError(
            target,
            expected="to be kept under another name, as annotary did not write what is there now",
            found=error.strerror or str(error),
            remedy="Move it away, or name another folder with --output.",
        ) from error


def _is_vouched(target: Path, vouched: Collection[str]) -> bool:
    """Tell a file that is as annotary left it: its size and time say so, in whatever copy of the folder."""
    if target.is_symlink():
        return False
    found = identify(target).fingerprint.rsplit("-", 1)[0]
    return any(one.rsplit("-", 1)[0] == found for one in vouched)


def _is_same(target: Path, new: Path) -> bool:
    """Tell a file with the bytes of the new one."""
    with contextlib.suppress(OSError):
        if target.is_file() and target.stat().st_size == new.stat().st_size:
            with target.open("rb") as one, new.open("rb") as other:
                while block := one.read(1 << 20):
                    if block != other.read(1 << 20):
                        return False
            return True
    return False


def _refuse_open(target: Path) -> None:
    """Refuse a file that another program writes: what it still has to write would be lost."""
    with contextlib.suppress(FileNotFoundError, PermissionError), target.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise PassingError(
                target,
                expected="to be free to be replaced",
                found="that another program has it open for writing",
                remedy="Close it there; the next run tries again.",
            ) from error
        except OSError:
            return  # a file system that knows no locks


def _give_name(target: Path) -> Path:
    """Link a file to the first free name for what is kept."""
    number = 1
    while True:
        kept = name_kept(target, number)
        try:
            os.link(target, kept, follow_symlinks=False)
        except FileExistsError:
            if kept.exists() and target.exists() and kept.samefile(target):
                return kept  # of a run that was killed between the two steps
            number += 1
            continue
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            if os.path.lexists(kept):
                number += 1
                continue
            target.rename(kept)
        return kept


def name_kept(target: Path, number: int) -> Path:
    """Name what is kept: ``a.annotated.h5ad`` becomes ``a.annotated.before_annotary.h5ad``."""
    stem = target.name.removesuffix(target.suffix)
    return target.with_name(
        fit_name(
            stem, f"{'' if number == 1 else f'-{number}'}{KEPT_FILE_SUFFIX}{target.suffix}", target.parent
        )
    )
