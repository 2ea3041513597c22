"""What versions called the test cells: as evaluate logged it, or asked of the version again."""

import json
import os
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
from annotary.data.hashing import hash_file
from annotary.errors import RegistryError
from annotary.promotions import CALLS_HASH_TAG, EVALUATION_TAG
from annotary.pyfunc_gate import check_loader
from annotary.registry import RegisteredVersion
from annotary.tracking import KIND_TAG, fetch
from annotary.version_check import fetch_checked

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
        If there is no such table, or it was altered since.
    """
    run_id = version.tags.get(EVALUATION_TAG, "")
    column = name_column(version.tags.get(KIND_TAG, ""), version.number)
    address = _name_address(run_id)
    try:
        _refuse_altered(version, address)
        table = unguard_table(pd.read_csv(fetch(address), dtype=str, keep_default_na=False))
        return HeldOutCalls(*(table[name].to_numpy(dtype=object) for name in ("cell_id", "label", column)))
    except UNREADABLE as error:
        raise RegistryError(
            f"{version.name} version {version.number}",
            expected=f"its calls of the test cells, column {column!r} of {address}",
            found="none",
            remedy="Run annotary evaluate on its dataset.",
        ) from error


def hash_calls(run_id: str) -> str:
    """Hash the table of calls that an evaluation logged."""
    return hash_file(fetch(_name_address(run_id)))


def _name_address(run_id: str) -> str:
    """Name the table of calls of an evaluation."""
    return f"runs:/{run_id}/tables/{TABLE}.csv"


def _refuse_altered(version: RegisteredVersion, address: str) -> None:
    """Refuse a table of calls that is not the one that evaluate logged of a version."""
    wanted, found = version.tags.get(CALLS_HASH_TAG, ""), hash_file(fetch(address))
    if wanted and found != wanted:
        raise RegistryError(
            f"{version.name} version {version.number}",
            expected=f"its calls of the test cells, {address}, with SHA-256 {wanted[:12]} as evaluate logged",
            found=found[:12],
            remedy="The table or the version's tag was altered: run annotary evaluate on its dataset again.",
        )


def ask_again(
    version: RegisteredVersion, dataset: Dataset, cells: LabelledCells, *, device: str
) -> np.ndarray:
    """Have a version call cells in a process of its own, by its own code, as it was registered.

    Copies that Python compiled of that code and left beside it are not run.

    Returns
    -------
    Names of the most probable labels, ``(n_cells,)``.

    Raises
    ------
    RegistryError
        If the version does not answer.
    BundleError
        If its files were altered, or it would run other code than annotary's.
    """
    model = check_loader(fetch_checked(version))
    with tempfile.TemporaryDirectory(prefix="annotary-") as name:
        source, target = Path(name) / "cells.h5ad", Path(name) / "table.csv"
        obs = pd.DataFrame({keys.DEPTH: cells.depth}, index=cells.cell_ids.astype(str))
        anndata.AnnData(X=cells.counts, obs=obs, var=dataset.var[[]]).write_h5ad(source)
        params = json.dumps({"device": device, "depth_key": keys.DEPTH})
        folder = str(model)
        command = [sys.executable, "-P", str(_PROCESS), folder, str(source), str(target), params]
        environment = os.environ | {"PYTHONPYCACHEPREFIX": str(Path(name) / "compiled")}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
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
