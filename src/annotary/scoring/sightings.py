"""Whether runs on other machines are alive: their signs of life are watched by this machine's own clock.

Clocks of two machines may differ by hours, so that the time which a run wrote tells nothing. Each machine
notes in the ledger which sign of a run it saw and when, by a clock that only goes forward and that all its
processes share; a run whose sign stays the same for the lease is dead.
"""

import socket
import sqlite3
import time

from annotary.liveness import Process, find_boot

LEASE_S = 600.0
"""Silence after which a run on another machine is taken for dead."""

SCHEMA = (
    "CREATE TABLE IF NOT EXISTS sightings"
    " (observer TEXT, run TEXT, heartbeat REAL, since REAL, PRIMARY KEY (observer, run))"
)


def list_alive(database: sqlite3.Connection) -> set[str]:
    """List the runs that are alive, or that this machine has not watched for long enough to say no."""
    runs = database.execute("SELECT * FROM runs").fetchall()
    return {run["id"] for run in runs if _is_alive(database, run)}


def forget_ended(database: sqlite3.Connection) -> None:
    """Remove what was seen of runs that are gone."""
    database.execute("DELETE FROM sightings WHERE run NOT IN (SELECT id FROM runs)")


def _is_alive(database: sqlite3.Connection, run: sqlite3.Row) -> bool:
    """Judge by the process on this machine, by what was seen of it on another one; an odd row is no run."""
    values = (run["id"], run["host"], run["birth"])
    is_whole = all(isinstance(value, str) for value in values) and isinstance(run["pid"], int)
    if not is_whole or not isinstance(run["heartbeat"], float | int) or run["heartbeat"] <= 0:
        return False
    is_there = Process(run["host"], run["pid"], run["birth"]).is_there()
    return _was_heard(database, run["id"], run["heartbeat"]) if is_there is None else is_there


def _was_heard(database: sqlite3.Connection, run: str, heartbeat: float) -> bool:
    """Tell whether a run's sign of life changed within the lease, by this machine's monotonic clock."""
    observer, now = find_boot() or socket.gethostname(), time.monotonic()
    seen = database.execute(
        "SELECT heartbeat, since FROM sightings WHERE observer = ? AND run = ?", (observer, run)
    ).fetchone()
    if seen is not None and seen["heartbeat"] == heartbeat and _is_past(seen["since"], now):
        return bool(now - seen["since"] < LEASE_S)
    database.execute("INSERT OR REPLACE INTO sightings VALUES (?, ?, ?, ?)", (observer, run, heartbeat, now))
    return True


def _is_past(since: object, now: float) -> bool:
    """Tell a time of this clock from one of before a reboot, or from no time at all."""
    return isinstance(since, float | int) and since <= now
