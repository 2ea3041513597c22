"""The annotated file: the input, byte for byte where possible, with the annotation added."""

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import anndata.io
import h5py
import numpy as np
import pandas as pd

from annotary import keys
from annotary.data.hashing import hash_strings
from annotary.errors import InputFileError
from annotary.scoring.annotate import AnnotatedCells
from annotary.scoring.ownership import choose_layout, make_room, write_order
from annotary.scoring.records import ScoreRecord
from annotary.scoring.written import WRITTEN, CellOrder, Written, seal


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
) -> dict[str, Any]:
    """Add the annotation to a copy of the input.

    Everything that was in the file stays. What annotary wrote there under the same prefix, and nobody
    changed since, is replaced; all else under the names that are needed, the names of the cells among it,
    is kept under ``NAME_before_annotary``.

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
        Put before every name in obs, obsm and uns.

    Returns
    -------
    The record as the file holds it.
    """
    with h5py.File(path, "r+", libver=choose_layout(path)) as file:
        table = file["obs"]
        if not isinstance(table, h5py.Group) or "column-order" not in table.attrs:
            raise InputFileError(
                f"{shown_as}: obs",
                expected="the table layout that anndata has written since version 0.7",
                found="an older one",
                remedy="Read it with anndata and write it again with write_h5ad.",
            )
        order = CellOrder(cells.cell_ids)
        contents = list_contents(cells, prefix)
        record_place = f"uns/{prefix}{keys.RECORD}"
        room = make_room(file, [*contents, record_place], order, prefix=prefix)
        written = Written.of(order, contents, prefix=prefix)
        written = replace(
            written,
            elements={**written.elements, **room.earlier},
            moved=room.moved,
            replaced=tuple(room.replaced),
            earlier=tuple(room.earlier),
        )
        for place, content in contents.items():
            _write(file, place, content)
        names = [str(name) for name in file["obs"].attrs["column-order"]]
        added = [place.removeprefix("obs/") for place in contents if place.startswith("obs/")]
        write_order(file, [*(name for name in names if name not in added), *added])
        about = describe(cells, record, written)
        _write(file, record_place, about)
    return about


def list_contents(cells: AnnotatedCells, prefix: str = "") -> dict[str, pd.Categorical | np.ndarray]:
    """List all that a result adds, each ``(n_cells, ...)``, by its place such as ``obs/conf_score``."""
    return {
        **{f"obs/{name}": column for name, column in list_columns(cells, prefix).items()},
        **{f"obsm/{name}": matrix for name, matrix in list_matrices(cells, prefix).items()},
    }


def describe(cells: AnnotatedCells, record: ScoreRecord, written: Written) -> dict[str, Any]:
    """Make the record as ``uns`` holds it, with its hash."""
    return seal(
        asdict(record)
        | cells.measure()
        | {
            "probability_columns": np.array(cells.label_names, dtype=object),
            "labels_hash": hash_strings(cells.predicted_labels.astype(str)),
            "warnings": json.dumps(list(cells.warnings)),
            WRITTEN: written.to_json(),
        }
    )


def describe_table(cells: AnnotatedCells, record: ScoreRecord, prefix: str = "") -> dict[str, Any]:
    """Make the record of a result that is written as a table alone."""
    contents: Mapping[str, Any] = list_contents(cells, prefix)
    return describe(cells, record, Written.of(CellOrder(cells.cell_ids), contents, prefix=prefix))


def _write(file: h5py.File, place: str, value: object) -> None:
    """Put a value into obs, obsm or uns, making the mapping where it is missing."""
    slot, name = place.split("/", 1)
    if slot not in file:
        anndata.io.write_elem(file, slot, {})
    anndata.io.write_elem(file[slot], name, value)
