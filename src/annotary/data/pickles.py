"""Files that may hold pickles, which run whatever code is in them: read only where that is asked for."""

from pathlib import Path
from typing import Any

import numpy as np

from annotary.errors import InputFileError

NPY = ".npy"
PICKLES = (NPY, ".npz", ".pkl", ".pickle", ".joblib", ".pt", ".pth")
"""Endings of files that are pickles, or may hold some."""


def is_pickle(name: str) -> bool:
    """Tell by its name a file that may hold pickles."""
    return name.lower().endswith(PICKLES)


def refuse_pickle(path: Path, *, allow_pickle: bool, shown_as: object = None) -> None:
    """Refuse a file that may hold a pickle, unless it is a ``.npy`` and that was asked for.

    Raises
    ------
    InputFileError
        With what to do.
    """
    if not is_pickle(path.name):
        return
    is_npy = path.name.lower().endswith(NPY)
    if is_npy and allow_pickle:
        return
    raise InputFileError(
        shown_as or path,
        expected="--allow-pickle to be read" if is_npy else "to be of a format that runs no code",
        found="a pickled array, which runs whatever code it holds when it is read"
        if is_npy
        else "a file that may hold pickles, which run whatever code they hold when they are read",
        remedy="Pass --allow-pickle to annotary preprocess if you trust where the file comes from; it "
        "writes the content as h5ad too, which annotary score can read."
        if is_npy
        else "Write its content as h5ad with anndata.",
    )


def unpickle_npy(path: Path) -> Any:
    """Read the one object of a ``.npy`` file that a person trusts."""
    return np.load(path, allow_pickle=True).ravel()[0]
