"""The annotated file: the input, byte for byte where possible, with the annotation added."""

import json
from dataclasses import asdict
from pathlib import Path

import anndata.io
import h5py
import numpy as np
import pandas as pd

from annotary import keys
from annotary.data.hashing import hash_strings
from annotary.data.hdf5 import read_element
from annotary.errors import InputFileError
from annotary.scoring.annotate import AnnotatedCells
from annotary.scoring.records import ScoreRecord

_KEPT_SUFFIX = "_before_annotary"


def list_columns(cells: AnnotatedCells, prefix: str = "") -> dict[str, pd.Categorical | np.ndarray]:
    """List the columns that a result adds to the cell table, each ``(n_cells,)``, by name."""
    columns = {
        keys.PREDICTED_LABELS: cells.predicted_labels,
        keys.CONF_SCORE: cells.annotation.confidence,
        keys.LOW_INFORMATION: cells.annotation.low_information,
        keys.UNASSIGNED: cells.annotation.unassigned,
        keys.OOD: cells.annotation.ood,
        keys.OOD_SCORE: cells.annotation.ood_score,
        **cells.more_columns,
    }
    return {f"{prefix}{name}": values for name, values in columns.items()}


def list_matrices(cells: AnnotatedCells, prefix: str = "") -> dict[str, np.ndarray]:
    """List the matrices that a result adds, one column a label, ``(n_cells, n_classes)``, by name."""
    return {
        f"{prefix}{keys.PROBABILITIES}": cells.annotation.probabilities,
        f"{prefix}{keys.PREDICTION_SETS}": cells.annotation.prediction_sets,
    }


def add_annotation(
    path: Path, cells: AnnotatedCells, record: ScoreRecord, *, shown_as: str, prefix: str = ""
) -> list[str]:
    """Add the annotation to a copy of the input.

    Everything that was in the file stays. Columns of another tool under the
    same names are kept under ``NAME_before_annotary``; those of an earlier
    annotary run are replaced.

    Parameters
    ----------
    path
        The copy.
    cells
        The annotation.
    record
        Where it comes from.
    shown_as
        Name of the input in messages.
    prefix
        Put before every name in obs and obsm.

    Returns
    -------
    Names that were moved aside.
    """
    with h5py.File(path, "r+") as file:
        table = file["obs"]
        if not isinstance(table, h5py.Group) or "column-order" not in table.attrs:
            raise InputFileError(
                f"{shown_as}: obs",
                expected="the table layout that anndata has written since version 0.7",
                found="an older one",
                remedy="Read it with anndata and write it again with write_h5ad.",
            )
        columns, matrices = list_columns(cells, prefix), list_matrices(cells, prefix)
        is_ours = _is_ours(file, f"{prefix}{keys.PREDICTED_LABELS}")
        moved = [] if is_ours else _move_aside(file, list(columns), list(matrices))
        _add_columns(table, columns)
        for name, matrix in matrices.items():
            _replace(file, "obsm", name, matrix)
        _replace(file, "uns", keys.RECORD, describe(cells, record))
    return moved


def describe(cells: AnnotatedCells, record: ScoreRecord) -> dict[str, object]:
    """Make the record as ``uns`` holds it."""
    return (
        asdict(record)
        | cells.measure()
        | {
            "probability_columns": np.array(cells.label_names, dtype=object),
            "labels_hash": hash_strings(cells.predicted_labels.astype(str)),
            "warnings": json.dumps(list(cells.warnings)),
        }
    )


def _add_columns(table: h5py.Group, columns: dict[str, pd.Categorical | np.ndarray]) -> None:
    """Add columns to obs."""
    order = [name for name in table.attrs["column-order"] if name not in columns]
    for name, values in columns.items():
        if name in table:
            del table[name]
        anndata.io.write_elem(table, name, values)
    _write_order(table, [*order, *columns])


def _is_ours(file: h5py.File, labels_name: str) -> bool:
    """Tell labels that annotary wrote, and nobody changed since, from those of another tool."""
    if keys.RECORD not in file.get("uns", {}) or labels_name not in file["obs"]:
        return False
    path = Path(file.filename)
    record = read_element(file["uns"][keys.RECORD], path=path)
    labels = pd.Series(read_element(file["obs"][labels_name], path=path)).astype(str)
    return isinstance(record, dict) and record.get("labels_hash") == hash_strings(labels)


def _move_aside(file: h5py.File, names: list[str], matrices: list[str]) -> list[str]:
    """Rename what another tool wrote under our names in obs and obsm."""
    moved = []
    table = file["obs"]
    order = [str(name) for name in table.attrs["column-order"]]
    for name in names:
        if name in order:
            kept = _free_name(table, name)
            table.move(name, kept)
            order[order.index(name)] = kept
            moved.append(f"obs[{name!r}] -> obs[{kept!r}]")
    _write_order(table, order)
    for name in matrices:
        if name in file.get("obsm", {}):
            kept = _free_name(file["obsm"], name)
            file["obsm"].move(name, kept)
            moved.append(f"obsm[{name!r}] -> obsm[{kept!r}]")
    return moved


def _free_name(group: h5py.Group, name: str) -> str:
    """Find a name that is not taken."""
    kept = f"{name}{_KEPT_SUFFIX}"
    while kept in group:
        kept += "_"
    return kept


def _write_order(table: h5py.Group, order: list[str]) -> None:
    """Store the order of a table's columns as anndata does."""
    table.attrs.create("column-order", np.array(order, dtype=object), dtype=h5py.string_dtype())


def _replace(file: h5py.File, mapping: str, name: str, value: object) -> None:
    """Put a value into obsm or uns, making the mapping where it is missing."""
    if mapping not in file:
        anndata.io.write_elem(file, mapping, {})
    if name in file[mapping]:
        del file[mapping][name]
    anndata.io.write_elem(file[mapping], name, value)
