"""verify: an annotated file against the registry, the file that was annotated, and itself."""

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from annotary.config import VerifyConfig
from annotary.data.damage import UNREADABLE
from annotary.data.h5ad_elements import read_table
from annotary.data.hashing import hash_source
from annotary.data.hdf5 import open_hdf5, read_element
from annotary.data.special_files import refuse_special_files
from annotary.errors import AnnotaryError, InputFileError, OutputError, RegistryError, list_some
from annotary.first_look import FirstLook, open_first_look
from annotary.outage import naming_outages
from annotary.recorded_version import check_recorded, find_recorded, name_recorded
from annotary.scoring.findings import Finding
from annotary.scoring.input_check import check_content
from annotary.scoring.tables import TABLE_SUFFIXES
from annotary.scoring.written import CellOrder, Written, find_records
from annotary.scoring.written_check import check_elements, check_labels, check_record, check_seal
from annotary.stages.written_log import find_written, has_run, leave_open
from annotary.tracking import connect

__all__ = ["Finding", "UncheckedError", "refuse_altered", "verify"]

_MOST_FINDINGS = 20


class UncheckedError(AnnotaryError):
    """Nothing was found altered, and what was written could not be asked of the registry."""

    exit_code = 3


@naming_outages()
def verify(config: VerifyConfig) -> list[Finding]:
    """Check what a file holds of annotary, the versions that it comes from, and the input if it is named.

    Raises
    ------
    InputFileError
        If it is no annotated h5ad file, or the input cannot be read.
    """
    with open_first_look(config.read_timeout) as first:
        first.begin()
        path = Path(config.file)
        _refuse_table(path)
        first.look(path)
        records = read_records_of(path)
        absence = _find_absence()
        findings = list(_check_file(path, records, absence))
        findings += _check_versions(records.values(), absence)
        if config.input:
            return [*findings, *_check_input(path, records, Path(config.input), first)]
        return [*findings, Finding("input", None, "not checked: name it with --input")]


def _find_absence() -> str:
    """Open the tracking store; say why it cannot be asked, and nothing where it can."""
    try:
        connect()
    except RegistryError as error:
        return f"{error.place}: {error.found}"
    return ""


def refuse_altered(findings: list[Finding], file: str) -> None:
    """End with an error where a check does not hold, or one that is needed could not be made.

    Raises
    ------
    OutputError
        Naming all that was altered.
    UncheckedError
        If nothing was found altered, and the registry could not tell.
    """
    altered = [f"{one.what}: {one.says}" for one in findings if one.holds is False]
    if altered:
        raise OutputError(
            file,
            expected="to be as annotary wrote it, from a version that is as it was registered",
            found=list_some(altered, most=_MOST_FINDINGS, separator="; "),
            remedy="Annotate the input again with annotary score.",
        )
    unchecked = [f"{one.what}: {one.says}" for one in findings if one.holds is None and one.is_needed]
    if unchecked:
        raise UncheckedError(
            file,
            expected="to be compared with what its scoring run wrote",
            found="; ".join(unchecked),
            remedy="Set MLFLOW_TRACKING_URI to the store of that run, or annotate the input again.",
        )


def read_records_of(path: Path) -> dict[str, dict[str, Any]]:
    """Read the records of an annotated file, by prefix.

    Raises
    ------
    InputFileError
        If it is no annotated h5ad file.
    """
    _refuse_table(path)
    records: dict[str, dict[str, Any]] = {}
    cause: Exception | None = None
    try:
        with open_hdf5(path) as file:
            stored = file["uns"]
            records = find_records(stored, lambda name: read_element(stored[name], path=path))
    except UNREADABLE as error:
        cause = error
    if not records:
        raise InputFileError(
            path,
            expected="to be an h5ad file with a record in uns['annotary']",
            found="none" if path.exists() else "no such file",
            remedy="Name a file that annotary score wrote.",
        ) from cause
    return records


def _refuse_table(path: Path) -> None:
    """Refuse a table by its name."""
    if path.name.lower().endswith(tuple(TABLE_SUFFIXES.values())):
        raise InputFileError(
            path,
            expected="to be an annotated h5ad file",
            found="a table, which verify does not check",
            remedy="Name the h5ad file beside it; score with --form both writes one.",
        )


def _check_file(path: Path, records: Mapping[str, dict[str, Any]], absence: str) -> Iterator[Finding]:
    """Check each prefix's columns and record; ``absence`` says why the store cannot be asked."""
    with open_hdf5(path) as file:
        obs = read_table(file, "obs", path=path)
        order = CellOrder(obs.index)
        for prefix, record in records.items():
            yield from check_labels(file, record, obs, prefix)
            told, held = (leave_open(record, absence), None) if absence else find_written(record)
            yield told
            seal = check_seal(record, prefix)
            if held is not None:
                yield check_record(record, held, prefix)
            elif seal:
                yield seal
            written = Written.from_record(record if held is None else held)
            if written is not None:
                yield from check_elements(file, written, order)


def _check_versions(records: Iterable[dict[str, Any]], absence: str) -> Iterator[Finding]:
    """Check that the versions are there and the recorded ones, their files and their ledger as they were."""
    seen = set()
    for record in records:
        why = absence or ("" if _is_known(record) else "the store has neither it nor the scoring run")
        if why:
            says = f"not checked against the registry: {why}"
            yield Finding(name_recorded(record), None, says, is_needed=True)
            continue
        for one in check_recorded(record):
            if (one.what, one.says) not in seen:
                yield Finding(one.what, one.holds, one.says)
            seen.add((one.what, one.says))


def _is_known(record: Mapping[str, Any]) -> bool:
    """Tell whether the store has the version or the scoring run of a record: else it is another's store."""
    return find_recorded(record) is not None or has_run(record)


def _check_input(
    path: Path, records: Mapping[str, dict[str, Any]], original: Path, first: FirstLook
) -> list[Finding]:
    """Check that a file is the one that was annotated, and that all of it is in the annotated one."""
    if not original.exists():
        return [Finding("input", False, f"no file {original}")]
    refuse_special_files(original)
    found = hash_source(original)
    wanted = [str(record.get("input_sha256")) for record in records.values()]
    if found in wanted:
        same = Finding("input", True, f"{original.name}, SHA-256 {found[:12]}")
    else:
        others = ", ".join(one[:12] for one in wanted)
        same = Finding("input", False, f"{original.name} has SHA-256 {found[:12]}, annotated was {others}")
    replaced = {
        place
        for record in records.values()
        if (written := Written.from_record(record))
        for place in written.replaced
    }
    with tempfile.TemporaryDirectory(prefix="annotary-") as name:
        scratch = Path(name)
        h5ad = first.open_as_h5ad(original, scratch / "input.h5ad")
        if h5ad == original:
            first.look(h5ad)
        return [same, *check_content(path, h5ad, replaced=replaced, scratch=scratch)]
