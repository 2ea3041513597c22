"""Where an annotation comes from, as the annotated file itself says."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from annotary import keys
from annotary.data.damage import UNREADABLE
from annotary.data.hdf5 import open_hdf5, read_element
from annotary.scoring.written import find_records

FIGURES = ("n_cells", "mean_confidence", "n_low_information", "n_unassigned", "n_ood", "n_panel_genes_found")
"""Figures of an annotated file that its record, the ledger and the run tell."""


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
    input_name, input_sha256, input_size
        The file that was annotated, and its bytes; -1 where its size is not known.
    input_id
        Hash of its address, which tells files of the same name apart.
    counts_place
        Element that the counts came from.
    ledger_key
        Hash of version and settings, under which the ledger knows the file.
    ledger_run
        Id of the run in the ledger.
    package_version
        annotary's version.
    time
        UTC, ISO 8601.
    ledger_head
        ``NUMBER:HASH`` of the promotion ledger's last entry then; empty where there was none to believe.
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
    input_size: int
    input_id: str
    counts_place: str
    ledger_key: str
    ledger_run: str
    package_version: str
    time: str
    ledger_head: str = ""

    def to_json(self) -> str:
        """Write as JSON, for outputs that hold text only."""
        return json.dumps(asdict(self))


def read_record(path: Path, prefix: str = "") -> dict[str, object]:
    """Read the record of an annotated file.

    Raises
    ------
    InputFileError, KeyError
        If it is no file that annotary wrote.
    """
    with open_hdf5(path) as file:
        record: dict[str, object] = read_element(file["uns"][f"{prefix}{keys.RECORD}"], path=path)
    return record


def read_records(path: Path) -> dict[str, dict[str, Any]]:
    """Read the records of an annotated file by their prefixes; none where anything about it is odd."""
    try:
        with open_hdf5(path) as file:
            stored = file["uns"]
            return find_records(stored, lambda name: read_element(stored[name], path=path))
    except UNREADABLE:
        return {}
