"""What a model says of cells that it was not fitted to: kept with its run, and what a vote is weighed by."""

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from annotary.data.damage import UNREADABLE
from annotary.errors import RegistryError
from annotary.registry import Candidate
from annotary.tracking import StageRun, fetch

_FOLDER = "held_out"


def log_held_out(
    run: StageRun,
    kind: str,
    cell_ids: pd.Index,
    probabilities: np.ndarray,
    label_names: tuple[str, ...],
) -> None:
    """Log calibrated probabilities ``(n_cells, n_classes)`` of cells that the model was not fitted to."""
    table = pd.DataFrame(probabilities, index=cell_ids.rename("cell_id"), columns=list(label_names))
    with tempfile.TemporaryDirectory(prefix="annotary-") as folder:
        path = Path(folder) / f"{kind}.parquet"
        table.to_parquet(path)
        run.log_file(path, _FOLDER)


def read_held_out(candidate: Candidate, cell_ids: pd.Index) -> np.ndarray:
    """Read what a candidate says of some cells ``(n_cells,)``.

    Returns
    -------
    Probabilities, ``(n_cells, n_classes)``, float32.

    Raises
    ------
    RegistryError
        If its run has no such table, or the table lacks one of the cells.
    """
    address = f"runs:/{candidate.run_id}/{_FOLDER}/{candidate.kind}.parquet"
    found = "none"
    try:
        table = pd.read_parquet(fetch(address))
        missing = cell_ids.difference(table.index)
        if missing.empty:
            return table.loc[cell_ids].to_numpy(dtype=np.float32)
        found = f"none of {missing[0]!r}"
    except UNREADABLE as error:
        raise _describe(candidate, address, found) from error
    raise _describe(candidate, address, found)


def _describe(candidate: Candidate, address: str, found: str) -> RegistryError:
    """Describe a candidate that said nothing of the cells."""
    return RegistryError(
        f"candidate {candidate.model_id} ({candidate.kind})",
        expected=f"its probabilities of every validation cell of the dataset, {address}",
        found=found,
        remedy="Name candidates that were trained on this dataset by this version of annotary.",
    )
