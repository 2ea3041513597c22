"""What a killed run left: claims, temporary files, outputs that the ledger does not know."""

import contextlib
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from annotary.data.atomic import TEMPORARY_PREFIX
from annotary.data.damage import UNREADABLE
from annotary.data.discovery import ANNOTATED_SUFFIX
from annotary.scoring.identity import Identity
from annotary.scoring.ledger import Adopted, Ledger
from annotary.scoring.ledger_file import hide_address
from annotary.scoring.records import FIGURES, read_record

_OWNER = "score-"


def name_owner(run: str) -> str:
    """Name the temporary files of a run, so that another run can tell whose they are."""
    return f"{_OWNER}{run}-"


def recover(ledger: Ledger) -> None:
    """Clear up after dead runs: their claims become free, or done where the output has its name already."""
    for row in ledger.list_dead_claims():
        output = ledger.folder / f"{row['target']}{ANNOTATED_SUFFIX}"
        record = _read(output)
        if record.get("ledger_run") == row["run"] and record.get("input_id") == hide_address(row["address"]):
            ledger.adopt_claim(row, _adopt(output, record))
        else:
            ledger.drop(row)
    left = list(ledger.folder.rglob(f"{TEMPORARY_PREFIX}{_OWNER}*"))
    alive = {name_owner(run) for run in ledger.list_alive()}  # after the list: who begins now owns none of it
    for path in left:
        if not path.name.removeprefix(TEMPORARY_PREFIX).startswith(tuple(alive)):
            _remove(path)


def _remove(path: Path) -> None:
    """Remove a temporary file, or a folder of fetched ones."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def rebuild(ledger: Ledger) -> int:
    """Fill a new ledger with the annotated files of the output folder, by their own records.

    Returns
    -------
    Files that were found.
    """
    n_found = 0
    for output, record in _iter_records(ledger.folder):
        identity = Identity(size=int(str(record["input_size"])), fingerprint="", changed=None)
        ledger.adopt(
            _adopt(output, record),
            address=str(record["input_id"]),
            identity=identity,
            key=str(record["ledger_key"]),
        )
        n_found += 1
    ledger.mark_filled()
    return n_found


def _adopt(output: Path, record: Mapping[str, Any]) -> Adopted:
    """Take from a record what the ledger keeps."""
    details = {name: _to_number(record[name]) for name in FIGURES if name in record}
    return Adopted(output=output, sha256=str(record["input_sha256"]), details=details)


def _to_number(value: Any) -> int | float:
    """Make a plain number of one that HDF5 gave, for JSON."""
    number: int | float = np.asarray(value).item()
    return number


def _iter_records(folder: Path) -> Iterator[tuple[Path, dict[str, object]]]:
    """Read the records of the annotated files in a folder and below; older ones without a key are no help."""
    for output in sorted(folder.rglob(f"*{ANNOTATED_SUFFIX}")):
        record = _read(output)
        if {"ledger_key", "input_id", "input_sha256", "input_size"} <= set(record):
            yield output, record


def _read(output: Path) -> dict[str, object]:
    """Read a record; an empty one where there is none."""
    with contextlib.suppress(*UNREADABLE):
        return read_record(output)
    return {}
