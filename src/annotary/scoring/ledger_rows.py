"""Rows of the ledger, checked as they are read: one that does not parse is taken for none."""

import json
import sqlite3
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any, TypedDict

from annotary.scoring.records import FIGURES

CLAIMED, DONE, FAILED = "claimed", "done", "failed"

Details = dict[str, Any]
"""What is stored of a file beside its standing, as JSON holds it."""

ERROR_PARTS = frozenset({"place", "expected", "found", "remedy"})
"""What is stored of a file that cannot be annotated."""

COLUMNS = (
    "address",
    "key",
    "fingerprint",
    "size",
    "sha256",
    "status",
    "run",
    "target",
    "outputs_fingerprint",
    "details",
    "package_version",
)

_TEXTS = ("address", "key", "fingerprint", "run", "target")
_OPTIONAL_TEXTS = ("sha256", "outputs_fingerprint", "package_version")


class FileRow(TypedDict):
    """What the ledger knows of one file under one key."""

    address: str
    key: str
    fingerprint: str
    size: int
    sha256: str | None
    status: str
    run: str
    target: str
    outputs_fingerprint: str | None
    details: Details
    package_version: str | None


def read_row(row: sqlite3.Row | None) -> FileRow | None:
    """Read a row of the table ``files``; None where there is none, or it does not parse."""
    if row is None:
        return None
    values: dict[str, Any] = {name: row[name] for name in COLUMNS}
    try:
        values["details"] = json.loads(values["details"] or "{}")
    except (ValueError, TypeError, RecursionError):
        return None
    return FileRow(**values) if _is_whole(values) else None  # type: ignore[typeddict-item]


def iter_rows(rows: list[sqlite3.Row]) -> Iterator[FileRow]:
    """Read the rows that parse, one after the other: most of the time goes into parsing."""
    return (row for row in map(read_row, rows) if row is not None)


def drop_odd_rows(database: sqlite3.Connection) -> int:
    """Remove the rows that do not parse, whose files are looked up in the annotated files then.

    Returns
    -------
    How many there were.
    """
    found = database.execute("SELECT rowid, * FROM files").fetchall()
    odd = [(row["rowid"],) for row in found if read_row(row) is None]
    database.executemany("DELETE FROM files WHERE rowid = ?", odd)
    return len(odd)


def _is_whole(values: dict[str, Any]) -> bool:
    """Tell whether every field has its type, and the details are those of the status."""
    return (
        all(isinstance(values[name], str) for name in _TEXTS)
        and all(values[name] is None or isinstance(values[name], str) for name in _OPTIONAL_TEXTS)
        and _is_number(values["size"])
        and isinstance(values["size"], int)
        and _is_below(values["target"])
        and isinstance(values["details"], dict)
        and _fits(values["status"], values["details"])
    )


def _fits(status: object, details: Details) -> bool:
    """Tell whether details are such as a file of this status has."""
    if status == FAILED:
        return set(details) == ERROR_PARTS and all(isinstance(text, str) for text in details.values())
    if status == DONE:
        outputs = details.get("outputs")
        return (
            isinstance(outputs, list)
            and bool(outputs)
            and all(isinstance(name, str) and _is_below(name) for name in outputs)
            and _has_figures(details)
        )
    return status == CLAIMED


def _has_figures(details: Details) -> bool:
    """Tell whether the figures are numbers; which there are differs between versions."""
    figures = [value for name, value in details.items() if name in FIGURES or name.startswith("n_")]
    labels, bins = details.get("labels", {}), details.get("confidence_bins", [])
    if not isinstance(labels, dict) or not isinstance(bins, list):
        return False
    has_counts = {"n_low_information", "n_unassigned", "n_ood"} <= set(details)
    if {"labels", "confidence_bins"} <= set(details) and not has_counts:
        return False
    return all(_is_number(value) for value in [*figures, *labels.values(), *bins])


def _is_number(value: object) -> bool:
    """Tell a number from what JSON and SQLite hold besides."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_below(name: str) -> bool:
    """Tell a path below the output folder from one that leads out of it."""
    path = PurePosixPath(name)
    return bool(name) and "\0" not in name and not path.is_absolute() and ".." not in path.parts
