"""Cells that an earlier preprocess has cleaned already: the same inputs and settings, by content hashes."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from annotary.data.dataset import FILE_NAME, reread_cells
from annotary.errors import AnnotaryError
from annotary.log import say, warn
from annotary.stages.cleaning import Cleaning, read_cleaning
from annotary.stages.dataset_input import fetch_dataset
from annotary.tracking import StageRun, fetch, find_run

CLEANING_TAG = "annotary.cleaning_hash"
REUSED_TAG = "annotary.reused_run"
CLEANING_FOLDER = "cleaning"


@contextlib.contextmanager
def reuse_cleaning(
    run: StageRun, cleaning_hash: str, folder: Path, *, read_timeout: float
) -> Iterator[tuple[Cleaning, str] | None]:
    """Give what the newest run with this hash kept, and the run's id; None where there is none.

    Its dataset file is checked against its own hashes. A run whose files are gone or altered
    is passed over with a warning.
    """
    run_id = find_run(run, CLEANING_TAG, cleaning_hash)
    with contextlib.ExitStack() as stack:
        found = None
        if run_id:
            try:
                address = f"runs:/{run_id}/dataset/{FILE_NAME}"
                path = fetch_dataset(address, read_timeout=read_timeout)
                cells = stack.enter_context(reread_cells(path, folder))
                found = read_cleaning(fetch(f"runs:/{run_id}/{CLEANING_FOLDER}"), cells), run_id
                for note in found[0].notes:
                    warn(note)
                say(f"reusing the {len(cells.obs)} clean cells of run {run_id}: same inputs and settings")
            except AnnotaryError as error:
                warn(f"run {run_id} had the same inputs and settings but cannot be reused: {error}")
        yield found
