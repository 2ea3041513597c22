"""What SQLite says of the ledger, as errors for people: damage, a held lock, a file without rights."""

import os
import sqlite3
from pathlib import Path

from annotary.errors import OutputError

_ENVIRONMENT = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_AUTH,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_INTERRUPT,
    sqlite3.SQLITE_NOLFS,
}
"""Errors of the place in which a database lies; the others are of what it holds."""
_LOCKS = ("LOCK", "SHM", "PROTOCOL")
_RIGHTS = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH)
_KIND = 0xFF
"""The part of SQLite's extended error codes that names the kind."""


class LedgerFileError(OutputError):
    """The scoring ledger cannot be used: no file of the batch would do better."""


def is_damage(error: sqlite3.Error) -> bool:
    """Tell a file that is no ledger, or holds other tables than ours, from a disk that does not let us in."""
    return isinstance(error, sqlite3.DatabaseError) and _find_kind(error) not in _ENVIRONMENT


def describe_failure(path: Path, error: Exception) -> OutputError:
    """Say why the ledger cannot be read or written, and what to do."""
    kind = _find_kind(error)
    if path.is_dir():
        return _refuse(path, "a folder of that name", f"Move {path.name} out of the folder, and start again.")
    if kind in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return refuse_busy(path)
    if kind == sqlite3.SQLITE_FULL:
        return OutputError(
            path,
            expected="to be a ledger that can be written",
            found=str(error),
            remedy="Free some space, or name another folder with --output.",
        )
    if any(word in getattr(error, "sqlite_errorname", "") for word in _LOCKS):
        return _refuse(
            path,
            f"{error}: the file system gives no locks",
            "Name a folder with --output whose file system knows locks, such as a local disk.",
        )
    if _is_read_only(path.parent):
        return _refuse(
            path,
            f"{error}: its file system can only be read",
            "Mount it so that it can be written, or name another folder with --output.",
        )
    if kind in _RIGHTS or isinstance(error, PermissionError):
        return _refuse(
            path,
            f"{error} ({_tell_owner(path)})",
            f"Let user {os.geteuid()} write it and its folder (chown, chmod u+w), or name another folder"
            " with --output.",
        )
    if isinstance(error, sqlite3.Error) and is_damage(error):
        return _refuse(path, str(error), "Start again: it is made anew from the annotated files then.")
    return _refuse(path, str(error), "Check the disk of its folder, or name another folder with --output.")


def _is_read_only(folder: Path) -> bool:
    """Tell a file system that nobody may write to."""
    try:
        return bool(os.statvfs(folder).f_flag & os.ST_RDONLY)
    except OSError:
        return False


def refuse_busy(path: Path) -> LedgerFileError:
    """Say that somebody holds the ledger."""
    return _refuse(
        path,
        "it locked by another program for a minute",
        f"Wait for that program or end it (fuser {path.name} names it), and start again.",
    )


def _refuse(path: Path, found: str, remedy: str) -> LedgerFileError:
    """Say that the ledger cannot be used."""
    return LedgerFileError(path, expected="to be a ledger that can be written", found=found, remedy=remedy)


def _find_kind(error: Exception) -> int:
    """Find SQLite's code for a kind of error; SQLITE_CORRUPT for what Python or we say without one."""
    code: int = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)
    return code & _KIND


def _tell_owner(path: Path) -> str:
    """Tell whose a file is, or the folder where it would be made."""
    for place in (path, path.parent):
        try:
            return (
                f"{place.name} is of user {place.stat().st_uid}, with mode {place.stat().st_mode & 0o777:o}"
            )
        except OSError:
            continue
    return "nothing is there"
