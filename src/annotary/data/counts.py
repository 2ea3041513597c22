"""Raw counts are the contract: non-negative, finite, integer."""

import numpy as np
import pandas as pd
from scipy.sparse import csc_matrix, csr_matrix

from annotary.data.diagnosis import diagnose
from annotary.errors import CountsError

LARGEST_COUNT = 2**24
"""Largest count that float32 holds exactly; a gene of one cell never reaches it."""

_NOISE = 1e-6
_NOISE_ABOUT_ZERO = 1e-9
_MOST_NOISE = 0.05


def find_non_count(values: np.ndarray) -> int | None:
    """Find the first value that is no raw count.

    Parameters
    ----------
    values
        Stored values of a matrix, ``(n_stored,)``, any numeric dtype.

    Returns
    -------
    Its position, or None when all are counts.
    """
    if values.dtype.kind in "bu" and values.dtype.itemsize <= 2:
        return None
    with np.errstate(invalid="ignore"):
        good = (values >= 0) & (values <= LARGEST_COUNT)
        if values.dtype.kind == "f":
            good &= values == np.floor(values)
    return None if good.all() else int(np.argmin(good))


def round_values(values: np.ndarray) -> np.ndarray:
    """Round values that floating-point noise keeps from being integers, such as 8.000000001.

    Parameters
    ----------
    values
        Any values, ``(n_values,)``.

    Returns
    -------
    The same array where no value changes, else a copy. Values that are further than a millionth of
    themselves (at most 0.05) from an integer stay as they are.
    """
    if values.dtype.kind != "f":
        return values
    with np.errstate(invalid="ignore"):
        nearest = np.rint(values)
        reach = np.where(nearest == 0, _NOISE_ABOUT_ZERO, np.minimum(_NOISE * nearest, _MOST_NOISE))
        is_noise = (values != nearest) & (np.abs(values - nearest) <= reach)
    return np.where(is_noise, nearest, values) if is_noise.any() else values


def validate_counts(counts: csr_matrix, *, place: str, cell_ids: pd.Index, gene_ids: pd.Index) -> csr_matrix:
    """Refuse a matrix that does not hold raw counts.

    Parameters
    ----------
    counts
        Rows to check, ``(n_cells, n_genes)``.
    place
        File and element, for the message.
    cell_ids, gene_ids
        Ids of the rows ``(n_cells,)`` and columns ``(n_genes,)``.

    Returns
    -------
    The counts: the same matrix, or a copy with the values rounded that :func:`round_values` rounds.

    Raises
    ------
    CountsError
        Naming the first value at fault, its cell and its gene, and what the values look like.
    """
    at = find_non_count(counts.data)
    if at is None:
        return counts
    rounded = csr_matrix(
        (round_values(counts.data), counts.indices, counts.indptr), shape=counts.shape, copy=False
    )
    at = find_non_count(rounded.data)
    if at is None:
        return rounded
    value = rounded.data[at]
    expected = "non-negative integers"
    if value > LARGEST_COUNT:
        expected += f" of at most {LARGEST_COUNT}"
    cell, gene = locate(rounded, at, cell_ids=cell_ids, gene_ids=gene_ids)
    raise CountsError(
        place,
        expected=expected,
        found=f"{value:.6g} at cell {cell!r}, gene {gene!r}",
        remedy=f"Name the raw-count layer with --counts-layer. {diagnose(rounded)}",
    )


def locate(matrix: csr_matrix, at: int, *, cell_ids: pd.Index, gene_ids: pd.Index) -> tuple[str, str]:
    """Name the cell and gene of a stored value."""
    row = int(np.searchsorted(matrix.indptr, at, side="right")) - 1
    return str(cell_ids[row]), str(gene_ids[int(matrix.indices[at])])


def count_genes_per_cell(counts: csr_matrix) -> np.ndarray:
    """Count the genes that each cell expresses, ``(n_cells,)``."""
    if counts.data.all():  # many times as fast
        return np.diff(counts.indptr)
    expressed = np.concatenate([[0], np.cumsum(counts.data > 0)])
    return expressed[counts.indptr[1:]] - expressed[counts.indptr[:-1]]


def count_cells_per_gene(counts: csr_matrix) -> np.ndarray:
    """Count the cells that express each gene, ``(n_genes,)``."""
    expressed = counts.indices if counts.data.all() else counts.indices[counts.data > 0]
    return np.bincount(expressed, minlength=counts.shape[1])


def sum_depth(counts: csr_matrix) -> np.ndarray:
    """Sum each cell's counts, ``(n_cells,)``, float64."""
    return np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()


def move_columns(counts: csr_matrix, target: np.ndarray, *, n_columns: int) -> csr_matrix:
    """Move columns to other places, adding up those that meet.

    Parameters
    ----------
    counts
        Counts, ``(n_cells, n_before)``.
    target
        New position of each column, ``(n_before,)``; -1 drops it.
    n_columns
        Columns of the result.

    Returns
    -------
    Counts with sorted indices, ``(n_cells, n_columns)``; dtype kept, input untouched.
    """
    is_kept = target >= 0
    is_in_order = counts.has_sorted_indices and (np.diff(target[is_kept]) > 0).all()
    if is_in_order or 2 * is_kept.sum() < len(target):
        counts = counts.copy() if is_kept.all() else counts[:, np.flatnonzero(is_kept)]
        target = target[is_kept]
    if is_in_order:
        places = target.astype(counts.indices.dtype)
        moved = csr_matrix(
            (counts.data, places[counts.indices], counts.indptr), shape=(counts.shape[0], n_columns)
        )
    else:
        moved = _sort_columns(counts, target, n_columns)
    moved.sum_duplicates()
    return moved


def _sort_columns(counts: csr_matrix, target: np.ndarray, n_columns: int) -> csr_matrix:
    """Move columns out of their order: to columns and back to rows, which sorts in linear time."""
    places = np.where(target >= 0, target, n_columns).astype(counts.indices.dtype)
    shape = (counts.shape[0], n_columns + 1)  # the last column takes what is dropped
    by_column = csr_matrix((counts.data, places[counts.indices], counts.indptr), shape=shape).tocsc()
    n_stored = by_column.indptr[n_columns]
    kept = (by_column.data[:n_stored], by_column.indices[:n_stored], by_column.indptr[:-1])
    return csc_matrix(kept, shape=(counts.shape[0], n_columns)).tocsr()


def take_columns(counts: csr_matrix, columns: np.ndarray) -> csr_matrix:
    """Keep columns by their ascending positions, ``(n_cells, n_columns)``."""
    target = np.full(counts.shape[1], -1, dtype=np.int32)
    target[columns] = np.arange(len(columns), dtype=np.int32)
    return move_columns(counts, target, n_columns=len(columns))
