"""Copying an input while it is being annotated: bytes and their hash, in a thread beside the computing."""

import contextlib
import fcntl
import hashlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from annotary.errors import InputFileError
from annotary.scoring.identity import Identity, identify
from annotary.scoring.retry import PassingError

_BLOCK_BYTES = 1 << 22
_SYNC_BYTES = 1 << 26
_FICLONE = 0x40049409  # Linux: share the blocks of another file


class BackgroundCopy:
    """Hashes a file, and copies its bytes if asked to; :meth:`finish` waits for both.

    Where the file system can, the copy shares the input's blocks. Written bytes are sent to the disk as
    the copy goes on, so that the last sync finds little to do.

    Parameters
    ----------
    source
        File to read.
    target
        Where the copy goes; None only hashes.
    ahead
        One that began to hash before; if it is through with the same file, nothing is hashed again.
    """

    def __init__(self, source: Path, target: Path | None, *, ahead: "BackgroundCopy | None" = None) -> None:
        self._source = source
        self._target = target
        self._before = identify(source)
        self._sha256 = ahead.take_hash(source, self._before) if ahead else ""
        self._error: OSError | InputFileError | None = None
        self._is_stopped = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def finish(self) -> str:
        """Wait for the end.

        Returns
        -------
        SHA-256 of the bytes that were read.

        Raises
        ------
        PassingError
            If the file changed, or another took its place, since the copy began.
        OSError
            If the copy cannot be written.
        """
        self._thread.join()
        if self._error is not None:
            raise self._error
        self.refuse_change()
        return self._sha256

    def refuse_change(self) -> None:
        """Refuse a file that changed since the copy began, as :func:`refuse_change` does."""
        refuse_change(self._source, self._before)

    def stop(self) -> None:
        """End early; what was copied is of no use."""
        self._is_stopped = True
        self._thread.join()

    def take_hash(self, source: Path, identity: Identity) -> str:
        """Stop, and give the SHA-256 of a file; empty if this is not the file, or its end was not reached."""
        self.stop()
        return self._sha256 if (source, identity) == (self._source, self._before) else ""

    def _run(self) -> None:
        """Read, hash and write."""
        try:
            if self._target is None:
                self._hash(None)
            else:
                with self._target.open("r+b") as copy:
                    self._hash(copy.fileno())
        except (OSError, InputFileError) as error:
            self._error = error

    def _hash(self, copy: int | None) -> None:
        """Go through the bytes once, unless there is nothing to do with them."""
        digest = None if self._sha256 else hashlib.sha256()
        unsynced = 0
        with self._source.open("rb", buffering=0) as source:
            if copy is not None and _clone(source.fileno(), copy):
                copy = None
            if copy is None and digest is None:
                return
            view = memoryview(bytearray(_BLOCK_BYTES))
            while n_read := _read(source.fileno(), view, self._source):
                if self._is_stopped:
                    return
                if digest is not None:
                    digest.update(view[:n_read])
                if copy is not None:
                    _write(copy, view[:n_read])
                    unsynced += n_read
                    if unsynced >= _SYNC_BYTES:
                        os.fdatasync(copy)
                        unsynced = 0
        if digest is not None:
            self._sha256 = digest.hexdigest()


@contextlib.contextmanager
def hashing_ahead(path: Path) -> Iterator[BackgroundCopy | None]:
    """Hash a file while the block does what comes before; None where it is no file."""
    ahead = None
    with contextlib.suppress(OSError):
        ahead = BackgroundCopy(path, None) if os.path.isfile(path) else None
    try:
        yield ahead
    finally:
        if ahead:
            ahead.stop()


_begun: BackgroundCopy | None = None


def begin_hashing(path: Path) -> None:
    """Begin to hash a file, in a process that will be asked for it; nothing where it is no file."""
    global _begun
    with contextlib.suppress(OSError, ValueError):
        _begun = BackgroundCopy(path, None) if path.is_file() else None


def find_begun() -> BackgroundCopy | None:
    """Find what this process began to hash."""
    return _begun


def refuse_change(source: Path, before: Identity) -> None:
    """Refuse a file that changed, or whose place another took, since it was looked at.

    Raises
    ------
    PassingError
        If it did; the next run takes it as it is then.
    """
    try:
        after = identify(source)
    except OSError:
        after = None
    if after != before:
        raise PassingError(
            source,
            expected="to stay as it is while it is read",
            found="that it changed",
            remedy="The next run takes it as it is then.",
        )


def _clone(source: int, copy: int) -> bool:
    """Let a file share the blocks of another one; tell whether the file system did."""
    with contextlib.suppress(OSError):
        fcntl.ioctl(copy, _FICLONE, source)
        return True
    return False


def _read(source: int, view: memoryview, path: Path) -> int:
    """Fill a block as far as the file goes; an error in reading is the input's, not the output's."""
    try:
        return os.readv(source, [view])
    except OSError as error:
        raise InputFileError(
            path,
            expected="to be a file that can be read to its end",
            found=(error.strerror or str(error)).lower(),
            remedy="Check the disk, or copy the file again.",
        ) from error


def _write(copy: int, view: memoryview) -> None:
    """Write a whole block."""
    written = 0
    while written < len(view):
        written += os.write(copy, view[written:])
