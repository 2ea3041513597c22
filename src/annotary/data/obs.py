"""Numbers that a file's cell table gives about each cell."""

import numpy as np
import pandas as pd

from annotary.data.h5ad import CountsFile
from annotary.errors import InputFileError


def read_depth(counts_file: CountsFile, depth_key: str) -> np.ndarray | None:
    """Read each cell's counts over all genes, ``(n_cells,)``, if a column is named.

    Raises
    ------
    InputFileError
        If there is no such column, or it holds something else than counts.
    """
    if not depth_key:
        return None
    return read_obs_numbers(counts_file, depth_key, option="--depth-key")


def read_obs_numbers(counts_file: CountsFile, key: str, *, option: str) -> np.ndarray:
    """Read a column of finite, non-negative numbers from obs, ``(n_cells,)``."""
    place = f"{counts_file.path}: obs[{key!r}]"
    if key not in counts_file.obs:
        raise InputFileError(
            place,
            expected="to be a column of numbers",
            found="no such column among " + (", ".join(map(str, counts_file.obs.columns)) or "none"),
            remedy=f"Name another column with {option}, or leave it out.",
        )
    values = pd.to_numeric(counts_file.obs[key], errors="coerce").to_numpy(dtype=np.float64)
    wrong = np.flatnonzero(~np.isfinite(values) | (values < 0))
    if len(wrong):
        cell = counts_file.obs.index[wrong[0]]
        raise InputFileError(
            place,
            expected="a finite, non-negative number for each cell",
            found=f"'{counts_file.obs[key].iloc[wrong[0]]}' at cell {str(cell)!r}",
            remedy=f"Name another column with {option}, or leave it out.",
        )
    return values
