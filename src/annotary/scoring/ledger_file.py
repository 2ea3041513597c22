"""The ledger's file: made, opened, and set aside when it is damaged."""

import contextlib
import fcntl
import hashlib
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

from annotary.errors import OutputError
from annotary.log import warn

LEDGER_NAME = "annotary-ledger.db"

_BUSY_TIMEOUT_S = 60.0
_PARTS = ("", "-wal", "-shm")
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS runs"
    " (id TEXT PRIMARY KEY, host TEXT, pid INTEGER, birth TEXT, heartbeat REAL)",
    "CREATE TABLE IF NOT EXISTS files"
    " (address TEXT NOT NULL, key TEXT NOT NULL, fingerprint TEXT NOT NULL, size INTEGER NOT NULL,"
    " sha256 TEXT, status TEXT NOT NULL, run TEXT NOT NULL, target TEXT NOT NULL,"
    " outputs_fingerprint TEXT, details TEXT, package_version TEXT, PRIMARY KEY (address, key))",
    "CREATE INDEX IF NOT EXISTS files_by_size ON files (key, size)",
    "CREATE INDEX IF NOT EXISTS files_by_target ON files (target)",
)


@contextlib.contextmanager
def open_database(folder: Path) -> Iterator[tuple[sqlite3.Connection, bool]]:
    """Open the ledger of an output folder, making it where there is none.

    A damaged one is set aside under another name, and a new one made.

    Yields
    ------
    The open database, and whether it is new.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    path = folder / LEDGER_NAME
    try:
        with _alone(folder):  # a new file has one maker
            is_new = not path.exists()
            try:
                database = _connect(path)
            except sqlite3.DatabaseError as error:
                if isinstance(error, sqlite3.OperationalError):
                    raise
                _set_aside(path, error)
                database, is_new = _connect(path), True
    except (sqlite3.Error, OSError) as error:
        raise _describe(path, error) from error
    with contextlib.closing(database):
        yield database, is_new


@contextlib.contextmanager
def change(database: sqlite3.Connection) -> Iterator[None]:
    """Change a ledger in one transaction, which waits for those of other runs.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    try:
        database.execute("BEGIN IMMEDIATE")
        try:
            yield
            database.execute("COMMIT")
        except BaseException:
            if database.in_transaction:
                database.execute("ROLLBACK")
            raise
    except sqlite3.Error as error:
        place = database.execute("PRAGMA database_list").fetchone()["file"]
        raise _describe(Path(place), error) from error


def hide_address(address: str) -> str:
    """Make an id of an input's address, which an annotated file can hold without telling the path."""
    return "#" + hashlib.sha256(address.encode("utf-8", "surrogateescape")).hexdigest()[:16]


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other runs from opening the folder's ledger while the block lasts; no lock file is left."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems know no locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _connect(path: Path) -> sqlite3.Connection:
    """Open a database and check it."""
    database = sqlite3.connect(path, timeout=_BUSY_TIMEOUT_S, isolation_level=None)
    try:
        database.row_factory = sqlite3.Row
        database.execute("PRAGMA journal_mode = WAL").fetchone()
        database.execute("PRAGMA synchronous = FULL")
        found = database.execute("PRAGMA quick_check").fetchone()[0]
        if found != "ok":
            raise sqlite3.DatabaseError(found)
        for statement in _SCHEMA:
            database.execute(statement)
        database.execute("SELECT address, outputs_fingerprint FROM files LIMIT 1").fetchall()
    except BaseException:
        database.close()
        raise
    return database


def _set_aside(path: Path, error: sqlite3.Error) -> None:
    """Give a damaged ledger another name."""
    kept = path.with_name(f"{path.stem}-damaged-{time.time_ns()}.db")
    warn(f"{path}: damaged ({error}); set aside as {kept.name}, a new one is made from the annotated files")
    for part in _PARTS:
        with contextlib.suppress(FileNotFoundError):
            Path(f"{path}{part}").rename(f"{kept}{part}")


def _describe(path: Path, error: Exception) -> OutputError:
    """Say that the ledger cannot be written."""
    return OutputError(
        path,
        expected="to be a ledger that can be written",
        found=str(error),
        remedy="Free some space, or name another folder with --output.",
    )
