"""The ledger's file: made, opened, and set aside when it is damaged or lost its content."""

import contextlib
import fcntl
import hashlib
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

from annotary.log import warn
from annotary.scoring import sightings
from annotary.scoring.ledger_errors import describe_failure, is_damage, refuse_busy
from annotary.scoring.ledger_rows import COLUMNS, drop_odd_rows

LEDGER_NAME = "annotary-ledger.db"

_BUSY_TIMEOUT_S = 60.0
_POLL_S = 0.1
_MAKING_S = 2.0
"""A file without content that stays so is no ledger that another run is just making."""
_PARTS = ("", "-wal", "-shm")
_FILLED, _BEING_FILLED = 1, 2
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS runs"
    " (id TEXT PRIMARY KEY, host TEXT, pid INTEGER, birth TEXT, heartbeat REAL)",
    "CREATE TABLE IF NOT EXISTS files"
    " (address TEXT NOT NULL, key TEXT NOT NULL, fingerprint TEXT NOT NULL, size INTEGER NOT NULL,"
    " sha256 TEXT, status TEXT NOT NULL, run TEXT NOT NULL, target TEXT NOT NULL,"
    " outputs_fingerprint TEXT, details TEXT, package_version TEXT, PRIMARY KEY (address, key))",
    "CREATE INDEX IF NOT EXISTS files_by_size ON files (key, size)",
    "CREATE INDEX IF NOT EXISTS files_by_target ON files (target)",
    sightings.SCHEMA,
)


@contextlib.contextmanager
def open_database(folder: Path) -> Iterator[tuple[sqlite3.Connection, bool]]:
    """Open the ledger of an output folder, making it where there is none.

    One that is damaged, empty or something else is set aside under another name, and a new one made. Rows
    that do not parse are removed.

    Yields
    ------
    The open database, and whether it must be filled from the annotated files: it is new, was not filled to
    the end, has no row at all, or lost some.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    path = folder / LEDGER_NAME
    try:
        with _alone(folder):  # a new file has one maker
            database, needs_filling = _open(path)
    except (sqlite3.Error, OSError) as error:
        raise describe_failure(path, error) from error
    with contextlib.closing(database):
        yield database, needs_filling


def mark_filled(database: sqlite3.Connection) -> None:
    """Note that a ledger has all that the annotated files say."""
    with change(database):
        database.execute(f"PRAGMA user_version = {_FILLED}")


@contextlib.contextmanager
def change(database: sqlite3.Connection) -> Iterator[None]:
    """Change a ledger in one transaction, which waits for those of other runs.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    with reading(database):
        database.execute("BEGIN IMMEDIATE")
        try:
            yield
            database.execute("COMMIT")
        except BaseException:
            if database.in_transaction:
                database.execute("ROLLBACK")
            raise


@contextlib.contextmanager
def reading(database: sqlite3.Connection) -> Iterator[None]:
    """Turn what SQLite says of a ledger into an error for people.

    Raises
    ------
    OutputError
        If it cannot be read or written.
    """
    try:
        yield
    except sqlite3.Error as error:
        raise describe_failure(_find_path(database), error) from error


def hide_address(address: str) -> str:
    """Make an id of an input's address, which an annotated file can hold without telling the path."""
    return "#" + hashlib.sha256(address.encode(errors="surrogateescape")).hexdigest()[:16]


def _find_path(database: sqlite3.Connection) -> Path:
    """Find where an open database lies."""
    with contextlib.suppress(sqlite3.Error):
        return Path(database.execute("PRAGMA database_list").fetchone()["file"])
    return Path(LEDGER_NAME)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other runs from opening the folder's ledger while the block lasts; no lock file is left.

    Raises
    ------
    OutputError
        If another run is at it for a minute.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        _wait_for_lock(handle, folder / LEDGER_NAME)
        yield
    finally:
        os.close(handle)


def _wait_for_lock(handle: int, path: Path) -> None:
    """Lock a folder, where the file system knows locks."""
    until = time.monotonic() + _BUSY_TIMEOUT_S
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                raise refuse_busy(path) from None
            time.sleep(_POLL_S)
            continue
        except OSError:  # some network file systems know no locks
            return
        return


def _open(path: Path) -> tuple[sqlite3.Connection, bool]:
    """Open a ledger, or a new one in the place of what is none; tell whether it must be filled."""
    if not os.path.lexists(path):
        return _connect(path), True
    if path.is_file() and _stays_empty(path):
        _set_aside(path, "it is empty")
        return _connect(path), True
    try:
        database = _connect(path)
    except sqlite3.Error as error:
        if not is_damage(error):
            raise
        _set_aside(path, str(error))
        return _connect(path), True
    try:
        return database, _needs_filling(path, database)
    except BaseException:
        database.close()
        raise


def _stays_empty(path: Path) -> bool:
    """Tell a file without content from one that another run begins to write at this moment."""
    until = time.monotonic() + _MAKING_S
    while path.stat().st_size == 0:
        if time.monotonic() >= until:
            return True
        time.sleep(_POLL_S)
    return False


def _needs_filling(path: Path, database: sqlite3.Connection) -> bool:
    """Tell whether rows are missing that the annotated files may know; remove those that do not parse."""
    n_odd = drop_odd_rows(database)
    if n_odd:
        warn(
            f"{path}: {n_odd} entries cannot be read and are left out; the annotated files are asked instead"
        )
    is_being_filled = database.execute("PRAGMA user_version").fetchone()[0] == _BEING_FILLED
    has_rows = database.execute("SELECT 1 FROM files LIMIT 1").fetchone() is not None
    return bool(n_odd) or is_being_filled or not has_rows


def _connect(path: Path) -> sqlite3.Connection:
    """Open a database and check it."""
    is_new = not os.path.lexists(path)
    database = sqlite3.connect(path, timeout=_BUSY_TIMEOUT_S, isolation_level=None)
    try:
        database.row_factory = sqlite3.Row
        database.text_factory = _decode
        database.execute("PRAGMA journal_mode = WAL").fetchone()
        database.execute("PRAGMA synchronous = FULL")
        found = database.execute("PRAGMA quick_check").fetchone()[0]
        if found != "ok":
            raise sqlite3.DatabaseError(found)
        if is_new:
            database.execute(f"PRAGMA user_version = {_BEING_FILLED}")
        for statement in _SCHEMA:
            database.execute(statement)
        database.execute(f"SELECT {', '.join(COLUMNS)} FROM files LIMIT 1").fetchall()
        database.execute("SELECT id, host, pid, birth, heartbeat FROM runs LIMIT 1").fetchall()
        database.execute("SELECT observer, run, heartbeat, since FROM sightings LIMIT 1").fetchall()
    except BaseException:
        database.close()
        raise
    return database


def _decode(text: bytes) -> str:
    """Read text as file names are read, so that bytes that are no UTF-8 cost nothing but their own row."""
    return text.decode(errors="surrogateescape")


def _set_aside(path: Path, reason: str) -> None:
    """Give a damaged ledger another name."""
    kept = path.with_name(f"{path.stem}-damaged-{time.time_ns()}.db")
    warn(f"{path}: damaged ({reason}); set aside as {kept.name}, a new one is made from the annotated files")
    for part in _PARTS:
        with contextlib.suppress(FileNotFoundError):
            Path(f"{path}{part}").rename(f"{kept}{part}")
