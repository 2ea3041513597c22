"""The table of malformed and odd inputs: what is written, and what must come of it."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix
from simulate import simulate_cells

from annotary.data.dataset import Dataset

N_CELLS, N_GENES = 120, 150
LAST_CELL = 4999
"""Position of the last cell of :func:`many_cells`, in the second chunk of 4096."""

Write = Callable[[Path], Path]
Twin = Callable[[], anndata.AnnData]


@dataclass(frozen=True)
class Refused:
    """One error line; each part matches a regular expression.

    Attributes
    ----------
    place, expected, found, remedy
        Parts of ``PLACE needs EXPECTED; found FOUND. REMEDY``.
    named
        File that the place names; empty for the input itself.
    """

    place: str
    expected: str
    found: str
    remedy: str
    named: str = ""


@dataclass(frozen=True)
class Accepted:
    """A dataset.

    Attributes
    ----------
    twin
        Cells that, written plainly, must give the same dataset hash; None where ``check`` says it all.
    check
        What else must hold of the dataset.
    says
        Regular expressions that standard error must match.
    """

    twin: Twin | None
    check: Callable[[Dataset], None] | None
    says: tuple[str, ...]


@dataclass(frozen=True)
class Case:
    """One input.

    Attributes
    ----------
    name
        What is odd about it.
    write
        Writes it into an empty folder and gives its path.
    outcome
        What must come of it.
    options
        Further words of the command line; ``{folder}`` stands for the folder.
    twin_options
        The same for the twin.
    """

    name: str
    write: Write
    outcome: Refused | Accepted
    options: tuple[str, ...] = ()
    twin_options: tuple[str, ...] = ()


CASES: dict[str, Case] = {}


def add(case: Case) -> None:
    """Put a case into the table."""
    assert case.name not in CASES, f"two cases are named {case.name!r}"
    CASES[case.name] = case


def refused(
    name: str,
    *,
    place: str = "",
    expected: str,
    found: str,
    remedy: str,
    named: str = "",
    options: tuple[str, ...] = (),
) -> Callable[[Write], Write]:
    """Make a case of a function whose file must be refused."""

    def decorate(write: Write) -> Write:
        outcome = Refused(place=place, expected=expected, found=found, remedy=remedy, named=named)
        add(Case(name, write, outcome, options=options))
        return write

    return decorate


def clean() -> anndata.AnnData:
    """Simulate the cells that most cases damage."""
    return simulate_cells(N_CELLS, N_GENES)


def accepted(
    name: str,
    *,
    twin: Twin | None = clean,
    check: Callable[[Dataset], None] | None = None,
    says: tuple[str, ...] = (),
    options: tuple[str, ...] = (),
    twin_options: tuple[str, ...] = (),
) -> Callable[[Write], Write]:
    """Make a case of a function whose file must give a dataset."""

    def decorate(write: Write) -> Write:
        outcome = Accepted(twin=twin, check=check, says=says)
        add(
            Case(
                name,
                write,
                outcome,
                options=options,
                twin_options=twin_options,
            )
        )
        return write

    return decorate


def many_cells() -> anndata.AnnData:
    """Simulate cells of more than one chunk of 4096."""
    return simulate_cells(LAST_CELL + 1, 30)


def write(folder: Path, adata: anndata.AnnData | None = None, *, name: str = "cells.h5ad") -> Path:
    """Write cells as h5ad."""
    path = folder / name
    (clean() if adata is None else adata).write_h5ad(path)
    return path


def write_matrix(folder: Path, matrix: object) -> Path:
    """Write the clean cells with another matrix."""
    adata = clean()
    return write(folder, anndata.AnnData(matrix, obs=adata.obs, var=adata.var))


def write_labels(folder: Path, labels: object) -> Path:
    """Write the clean cells with other labels."""
    adata = clean()
    adata.obs["cell_type"] = labels
    return write(folder, adata)


@contextlib.contextmanager
def edited(folder: Path, adata: anndata.AnnData | None = None) -> Iterator[h5py.File]:
    """Write cells as ``cells.h5ad`` and open the file to damage it."""
    with h5py.File(write(folder, adata), "r+") as file:
        yield file


def replace_element(group: h5py.Group, name: str, value: object) -> None:
    """Put another array in an array's place, keeping its attributes."""
    attributes = dict(group[name].attrs)
    del group[name]
    group[name] = value
    group[name].attrs.update(attributes)


def dense() -> np.ndarray:
    """Give the clean counts, ``(N_CELLS, N_GENES)``."""
    return clean().X.toarray()


def with_matrix(matrix: object) -> anndata.AnnData:
    """Give the clean cells with another matrix."""
    adata = clean()
    return anndata.AnnData(csr_matrix(matrix), obs=adata.obs, var=adata.var)


def with_labels(labels: object) -> anndata.AnnData:
    """Give the clean cells with other labels."""
    adata = clean()
    adata.obs["cell_type"] = pd.Series(labels, index=adata.obs_names)
    return adata


def label_names(*names: str) -> Callable[[Dataset], None]:
    """Make a check of a dataset's labels."""

    def check(dataset: Dataset) -> None:
        assert dataset.record.label_names == names

    return check
