"""The annotated file: the input, byte for byte where possible, with the annotation added."""

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import anndata.io
import h5py
import numpy as np
import pandas as pd

from annotary import keys
from annotary.data.atomic import replacing
from annotary.data.discovery import ANNOTATED_SUFFIX, CONVERTED_SUFFIX
from annotary.data.hashing import hash_strings
from annotary.errors import InputFileError
from annotary.scoring.annotate import AnnotatedCells

_OBS_COLUMNS = (
    keys.PREDICTED_LABELS,
    keys.CONF_SCORE,
    keys.LOW_INFORMATION,
    keys.UNASSIGNED,
    keys.OOD,
    keys.OOD_SCORE,
)
_OBSM_MATRICES = (keys.PROBABILITIES, keys.PREDICTION_SETS)
_KEPT_SUFFIX = "_before_annotary"


@dataclass(frozen=True)
class ScoreRecord:
    """Where an annotation comes from; stored in ``uns["annotary"]``.

    Attributes
    ----------
    model_name, model_version, alias
        Registered model, and the version that the alias meant.
    run_id
        MLflow run that trained the model.
    scoring_run_id
        MLflow run that annotated the file.
    dataset_hash, split_hash, panel_hash
        What the model was trained on.
    input_name, input_sha256
        The file that was annotated.
    counts_place
        Element that the counts came from.
    package_version
        annotary's version.
    time
        UTC, ISO 8601.
    """

    model_name: str
    model_version: str
    alias: str
    run_id: str
    scoring_run_id: str
    dataset_hash: str
    split_hash: str
    panel_hash: str
    input_name: str
    input_sha256: str
    counts_place: str
    package_version: str
    time: str


def name_output(source: Path, folder: Path) -> Path:
    """Name the annotated file of an input: ``NAME.annotated.h5ad``."""
    name = source.name.removesuffix(CONVERTED_SUFFIX).removesuffix(".h5ad").removesuffix(".annotated")
    return folder / f"{name}{ANNOTATED_SUFFIX}"


def write_annotated(source: Path, target: Path, cells: AnnotatedCells, record: ScoreRecord) -> list[str]:
    """Copy the input and add the annotation; the target appears whole or not at all.

    Everything that was in the file stays. Columns of another tool under the
    same names are kept under ``NAME_before_annotary``; those of an earlier
    annotary run are replaced.

    Returns
    -------
    Names that were moved aside.
    """
    with replacing(target) as temporary:
        shutil.copyfile(source, temporary)
        with h5py.File(temporary, "r+") as file:
            table = file["obs"]
            if not isinstance(table, h5py.Group) or "column-order" not in table.attrs:
                raise InputFileError(
                    f"{source}: obs",
                    expected="the table layout that anndata has written since version 0.7",
                    found="an older one",
                    remedy="Read it with anndata and write it again with write_h5ad.",
                )
            moved = [] if _is_ours(file) else _move_aside(file)
            _add_columns(table, cells)
            _replace(file, "obsm", keys.PROBABILITIES, cells.annotation.probabilities)
            _replace(file, "obsm", keys.PREDICTION_SETS, cells.annotation.prediction_sets)
            _replace(file, "uns", keys.RECORD, _describe(cells, record))
    return moved


def _describe(cells: AnnotatedCells, record: ScoreRecord) -> dict[str, object]:
    """Make the record as uns holds it."""
    return asdict(record) | {
        "probability_columns": np.array(cells.label_names, dtype=object),
        "labels_hash": hash_strings(cells.predicted_labels.astype(str)),
        "n_panel_genes_found": cells.n_panel_genes_found,
        "n_low_information": int(cells.annotation.low_information.sum()),
        "n_unassigned": int(cells.annotation.unassigned.sum()),
        "n_ood": int(cells.annotation.ood.sum()),
        "warnings": json.dumps(list(cells.warnings)),
    }


def _add_columns(table: h5py.Group, cells: AnnotatedCells) -> None:
    """Add the columns of obs."""
    columns = {
        keys.PREDICTED_LABELS: cells.predicted_labels,
        keys.CONF_SCORE: cells.annotation.confidence,
        keys.LOW_INFORMATION: cells.annotation.low_information,
        keys.UNASSIGNED: cells.annotation.unassigned,
        keys.OOD: cells.annotation.ood,
        keys.OOD_SCORE: cells.annotation.ood_score,
    }
    order = [name for name in table.attrs["column-order"] if name not in columns]
    for name, values in columns.items():
        if name in table:
            del table[name]
        anndata.io.write_elem(table, name, values)
    _write_order(table, [*order, *columns])


def _is_ours(file: h5py.File) -> bool:
    """Tell labels that annotary wrote, and nobody changed since, from those of another tool."""
    if keys.RECORD not in file.get("uns", {}) or keys.PREDICTED_LABELS not in file["obs"]:
        return False
    record = anndata.io.read_elem(file["uns"][keys.RECORD])
    labels = pd.Series(anndata.io.read_elem(file["obs"][keys.PREDICTED_LABELS])).astype(str)
    return isinstance(record, dict) and record.get("labels_hash") == hash_strings(labels)


def _move_aside(file: h5py.File) -> list[str]:
    """Rename what another tool wrote under our names."""
    moved = []
    table = file["obs"]
    order = [str(name) for name in table.attrs["column-order"]]
    for name in _OBS_COLUMNS:
        if name in order:
            kept = _free_name(table, name)
            table.move(name, kept)
            order[order.index(name)] = kept
            moved.append(f"obs[{name!r}] -> obs[{kept!r}]")
    _write_order(table, order)
    for name in _OBSM_MATRICES:
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


def read_record(path: Path) -> dict[str, object]:
    """Read the record of an annotated file."""
    with h5py.File(path, "r") as file:
        record: dict[str, object] = anndata.io.read_elem(file["uns"][keys.RECORD])
    return record
