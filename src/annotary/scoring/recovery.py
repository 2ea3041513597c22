"""What a killed run left: claims, temporary files, outputs that the ledger does not know."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from annotary.data.atomic import TEMPORARY_PREFIX
from annotary.data.discovery import ANNOTATED_SUFFIX
from annotary.scoring.identity import Identity
from annotary.scoring.ledger import Adopted, Ledger
from annotary.scoring.ledger_file import hide_address
from annotary.scoring.records import FIGURES, read_records

_OWNER = "score-"


def name_owner(run: str) -> str:
    """Name the temporary files of a run, so that another run can tell whose they are."""
    return f"{_OWNER}{run}-"


def recover(ledger: Ledger) -> None:
    """Clear up after dead runs: their claims become free, or done where the output has its name already."""
    for row in ledger.list_dead_claims():
        output = ledger.folder / f"{row['target']}{ANNOTATED_SUFFIX}"
        found = [
            adopted
            for prefix, record in read_records(output).items()
            if record.get("ledger_run") == row["run"]
            and record.get("input_id") == hide_address(row["address"])
            and (adopted := _adopt(output, record, prefix))
        ]
        if found:
            ledger.adopt_claim(row, found[0])
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
    for output in sorted(ledger.folder.rglob(f"*{ANNOTATED_SUFFIX}")):
        n_adopted = 0
        for prefix, record in read_records(output).items():
            adopted, size = _adopt(output, record, prefix), _to_number(record.get("input_size"))
            if adopted is None or size is None or not {"ledger_key", "input_id"} <= set(record):
                continue  # an older record without a key, or an odd one, is no help
            ledger.adopt(
                adopted,
                address=str(record["input_id"]),
                identity=Identity(size=int(size), fingerprint="", changed=None),
                key=str(record["ledger_key"]),
            )
            n_adopted = 1
        n_found += n_adopted
    ledger.mark_filled()
    return n_found


def _adopt(output: Path, record: Mapping[str, Any], prefix: str) -> Adopted | None:
    """Take from a record what the ledger keeps; None where it has no hash, or no figures."""
    details = {name: _to_number(record[name]) for name in FIGURES if name in record}
    if "input_sha256" not in record or None in details.values():
        return None
    return Adopted(output=output, sha256=str(record["input_sha256"]), details=details, prefix=prefix)


def _to_number(value: Any) -> int | float | None:
    """Make a plain number of one that HDF5 gave, for JSON; None where it is none."""
    number = np.asarray(value)
    if number.size != 1 or number.dtype.kind not in "iuf" or not np.isfinite(number).all():
        return None
    plain: int | float = number.item()
    return plain
