"""verify: an annotated file against the registry, the file that was annotated, and itself."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from annotary import keys
from annotary.config import VerifyConfig
from annotary.data.damage import READERS_RAISE
from annotary.data.h5ad_elements import read_table
from annotary.data.hashing import hash_file, hash_strings
from annotary.data.hdf5 import open_hdf5, read_element
from annotary.errors import InputFileError, OutputError
from annotary.outage import naming_outages
from annotary.recorded_version import check_recorded
from annotary.tracking import connect

_MOST_NAMED = 5


@dataclass(frozen=True)
class Finding:
    """One check.

    Attributes
    ----------
    what
        What was checked.
    holds
        Whether it is as recorded; None where it could not be checked.
    says
        What was found.
    """

    what: str
    holds: bool | None
    says: str


@dataclass(frozen=True)
class AnnotatedFile:
    """What an annotated file holds of annotary.

    Attributes
    ----------
    record
        ``uns["annotary"]``.
    labels
        The label column, indexed by cell id, ``(n_cells,)``; None where it is gone.
    best
        Most probable label of each cell by the stored probabilities, ``(n_cells,)``; None without them.
    """

    record: dict[str, object]
    labels: pd.Series | None
    best: np.ndarray | None


@naming_outages()
def verify(config: VerifyConfig) -> list[Finding]:
    """Check a file's labels, the version that gave them, and the input if it is named."""
    connect()
    annotated = read_annotated(Path(config.file))
    findings = [_check_labels(annotated), *_check_version(annotated.record)]
    if config.input:
        findings.append(_check_input(annotated.record, Path(config.input)))
    else:
        findings.append(Finding("input", None, "not checked: name it with --input"))
    return findings


def refuse_altered(findings: list[Finding], file: str) -> None:
    """End with an error where a check does not hold.

    Raises
    ------
    OutputError
        Naming all that was altered.
    """
    altered = [f"{one.what}: {one.says}" for one in findings if one.holds is False]
    if altered:
        raise OutputError(
            file,
            expected="to be as annotary wrote it, from a version that is as it was registered",
            found="; ".join(altered),
            remedy="Annotate the input again with annotary score.",
        )


def read_annotated(path: Path) -> AnnotatedFile:
    """Read what a file holds of annotary.

    Raises
    ------
    InputFileError
        If it is no annotated file.
    """
    try:
        with open_hdf5(path) as file:
            record = read_element(file["uns"][keys.RECORD], path=path)
            obs = read_table(file, "obs", path=path)
            stored = file.get(f"obsm/{keys.PROBABILITIES}")
            probabilities = None if stored is None else np.asarray(read_element(stored, path=path))
    except READERS_RAISE as error:
        raise InputFileError(
            path,
            expected=f"to be an h5ad file with a record in uns[{keys.RECORD!r}]",
            found="none" if path.exists() else "no such file",
            remedy="Name a file that annotary score wrote.",
        ) from error
    labels = obs[keys.PREDICTED_LABELS].astype(str) if keys.PREDICTED_LABELS in obs else None
    names = np.asarray(record.get("probability_columns", []), dtype=object)
    fits = probabilities is not None and probabilities.shape == (len(obs), len(names))
    best = names[probabilities.argmax(axis=1)] if fits and probabilities is not None else None
    return AnnotatedFile(record=record, labels=labels, best=best)


def _check_labels(annotated: AnnotatedFile) -> Finding:
    """Check that the label column is the one that was written, and name the cells that differ."""
    what = f"obs[{keys.PREDICTED_LABELS!r}]"
    labels = annotated.labels
    if labels is None:
        return Finding(what, False, "the column is gone")
    if hash_strings(labels) == annotated.record.get("labels_hash"):
        return Finding(what, True, f"{len(labels)} labels as they were written")
    if annotated.best is None:
        return Finding(what, False, "altered, or cells were removed or reordered")
    other = np.flatnonzero(labels.to_numpy(dtype=object) != annotated.best)
    if not other.size:
        return Finding(what, False, "cells were removed or reordered; the labels fit their probabilities")
    named = ", ".join(
        f"{labels.index[row]!r} says {labels.iloc[row]!r}, not {annotated.best[row]!r}"
        for row in other[:_MOST_NAMED]
    )
    return Finding(
        what, False, f"{other.size} of {len(labels)} cells do not fit their probabilities: {named}"
    )


def _check_version(record: dict[str, object]) -> Iterator[Finding]:
    """Check that the version is there and the recorded one, its files and its ledger as they were."""
    for one in check_recorded(record):
        yield Finding(one.what, one.holds, one.says)


def _hash_or_none(path: Path) -> str | None:
    """Hash a file; None where there is none."""
    return hash_file(path) if path.is_file() else None


def _check_input(record: dict[str, object], path: Path) -> Finding:
    """Check that a file is the one that was annotated."""
    found = _hash_or_none(path)
    if found is None:
        return Finding("input", False, f"no file {path}")
    wanted = str(record.get("input_sha256"))
    if found == wanted:
        return Finding("input", True, f"{path.name}, SHA-256 {found[:12]}")
    return Finding("input", False, f"{path.name} has SHA-256 {found[:12]}, annotated was {wanted[:12]}")
