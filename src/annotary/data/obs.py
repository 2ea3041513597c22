"""Columns of a file's cell table, checked."""

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
    """Read a column of finite, non-negative numbers, ``(n_cells,)``, that an option names.

    Raises
    ------
    InputFileError
        If there is no such column, or it holds something else.
    """
    remedy = f"Name another column with {option}, or leave it out."
    column = _get_column(counts_file, key, kind="numbers", remedy=remedy)
    values = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64)
    wrong = np.flatnonzero(~np.isfinite(values) | (values < 0))
    if len(wrong):
        raise InputFileError(
            f"{counts_file.path}: obs[{key!r}]",
            expected="a finite, non-negative number for each cell",
            found=f"'{column.iloc[wrong[0]]}' at cell {str(column.index[wrong[0]])!r}",
            remedy=remedy,
        )
    return values


def read_obs_names(counts_file: CountsFile, key: str, *, option: str) -> np.ndarray:
    """Read a column of names (a donor, a lane), ``(n_cells,)``, that an option names.

    Raises
    ------
    InputFileError
        If there is no such column, or a cell has no name in it.
    """
    remedy = f"Name another column with {option}."
    column = _get_column(counts_file, key, kind="names", remedy=remedy)
    if column.isna().any():
        raise InputFileError(
            f"{counts_file.path}: obs[{key!r}]",
            expected="a name for each cell",
            found=f"none at cell {str(column.index[column.isna()][0])!r}",
            remedy=remedy,
        )
    return column.astype(str).to_numpy(dtype=object)


def _get_column(counts_file: CountsFile, key: str, *, kind: str, remedy: str) -> pd.Series:
    """Take a column, or say which there are."""
    if key not in counts_file.obs:
        raise InputFileError(
            f"{counts_file.path}: obs[{key!r}]",
            expected=f"to be a column of {kind}",
            found="no such column among " + (", ".join(map(str, counts_file.obs.columns)) or "none"),
            remedy=remedy,
        )
    return counts_file.obs[key]
