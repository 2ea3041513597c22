"""What versions called the test cells: as evaluate logged it, or asked of the version again."""

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import anndata
import numpy as np
import pandas as pd

import annotary
from annotary import keys
from annotary.data.csv_text import unguard_table
from annotary.data.damage import UNREADABLE
from annotary.data.dataset import Dataset, LabelledCells
from annotary.errors import RegistryError
from annotary.pyfunc_gate import check_loader
from annotary.registry import RegisteredVersion, fetch_bundle
from annotary.tracking import KIND_TAG, fetch

EVALUATION_TAG = "annotary.evaluation_run"
TABLE = "predictions"

_PROBABILITY = "probability "
_PROCESS = Path(annotary.__file__).parent / "pyfunc_process.py"
_LAST_WORDS = 300


@dataclass(frozen=True)
class HeldOutCalls:
    """Test cells with their labels and what a version called them.

    Attributes
    ----------
    cell_ids, truth, calls
        Cell ids, true labels and calls, ``(n_cells,)``; labels by name.
    """

    cell_ids: np.ndarray
    truth: np.ndarray
    calls: np.ndarray

    def take(self, cell_ids: pd.Index | np.ndarray) -> "HeldOutCalls":
        """Take some of the cells, in the order given.

        Raises
        ------
        RegistryError
            If some of them are not there.
        """
        rows = pd.Index(self.cell_ids).get_indexer(pd.Index(cell_ids))
        if (rows < 0).any():
            raise RegistryError(
                f"the table {TABLE} of evaluate",
                expected="every test cell",
                found=f"no {pd.Index(cell_ids)[rows < 0][0]!r}",
                remedy="Run annotary evaluate on the dataset of both models.",
            )
        return HeldOutCalls(self.cell_ids[rows], self.truth[rows], self.calls[rows])


def name_column(kind: str, number: str) -> str:
    """Name a version in the tables and figures of evaluate."""
    return f"{kind}_v{number}"


def read_calls(version: RegisteredVersion) -> HeldOutCalls:
    """Read what evaluate logged of a version's test cells.

    Raises
    ------
    RegistryError
        If there is no such table.
    """
    run_id = version.tags.get(EVALUATION_TAG, "")
    column = name_column(version.tags.get(KIND_TAG, ""), version.number)
    address = f"runs:/{run_id}/tables/{TABLE}.csv"
    try:
        table = unguard_table(pd.read_csv(fetch(address), dtype=str, keep_default_na=False))
        return HeldOutCalls(*(table[name].to_numpy(dtype=object) for name in ("cell_id", "label", column)))
    except UNREADABLE as error:
        raise RegistryError(
            f"{version.name} version {version.number}",
            expected=f"its calls of the test cells, column {column!r} of {address}",
            found="none",
            remedy="Run annotary evaluate on its dataset.",
        ) from error


def ask_again(
    version: RegisteredVersion, dataset: Dataset, cells: LabelledCells, *, device: str
) -> np.ndarray:
    """Have a version call cells in a process of its own, by its own code.

    Returns
    -------
    Names of the most probable labels, ``(n_cells,)``.

    Raises
    ------
    RegistryError
        If the version does not answer.
    BundleError
        If it would run other code than annotary's.
    """
    model = check_loader(fetch_bundle(version.uri).parents[1])
    with tempfile.TemporaryDirectory(prefix="annotary-") as name:
        source, target = Path(name) / "cells.h5ad", Path(name) / "table.csv"
        obs = pd.DataFrame({keys.DEPTH: cells.depth}, index=cells.cell_ids.astype(str))
        anndata.AnnData(X=cells.counts, obs=obs, var=dataset.var[[]]).write_h5ad(source)
        params = json.dumps({"device": device, "depth_key": keys.DEPTH})
        command = [sys.executable, "-P", str(_PROCESS), str(model), str(source), str(target), params]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RegistryError(
                version.uri,
                expected="to annotate the test cells in a process of its own",
                found=f"exit code {done.returncode}, {done.stderr.strip()[-_LAST_WORDS:]}",
                remedy="Check its files with annotary verify, or evaluate it on the new dataset.",
            )
        table = pd.read_csv(target, keep_default_na=False)
    names = [column for column in table.columns if column.startswith(_PROBABILITY)]
    best = table[names].to_numpy(dtype=np.float64).argmax(axis=1)
    return np.array([name.removeprefix(_PROBABILITY) for name in names], dtype=object)[best]
