"""Matrices on disk, read a stretch of rows at a time, and checked before scipy touches foreign memory."""

from collections.abc import Iterator
from typing import Any, Protocol, TypeAlias

import h5py
import numpy as np
import zarr
from scipy.sparse import csr_matrix

_MOST_DENSE_BYTES = 1 << 26
_MOST_STORED = 1 << 22
_LARGEST_INT32 = np.iinfo(np.int32).max

Array: TypeAlias = h5py.Dataset | zarr.Array
Group: TypeAlias = Any
"""An HDF5 or zarr group; what lies in them is not typed."""


class RowsOnDisk(Protocol):
    """A matrix whose consecutive rows can be read.

    Attributes
    ----------
    shape
        Rows and columns.
    dtype
        Type of the values as they are read.
    """

    shape: tuple[int, ...]
    dtype: np.dtype

    def __getitem__(self, rows: slice) -> csr_matrix:
        """Read consecutive rows, ``(n_rows, n_genes)``."""


class CompressedRows:
    """A matrix stored as values, their positions and the starts of rows: CSR, or CSC taken on its side.

    Parameters
    ----------
    group
        HDF5 or zarr group with ``data``, ``indices`` and ``indptr``.
    shape
        Rows and columns.

    Raises
    ------
    KeyError
        If one of the three is missing.
    ValueError
        If they do not agree with each other or the shape, or do not hold numbers.
    """

    def __init__(self, group: Group, shape: tuple[int, int]) -> None:
        self.shape: tuple[int, ...] = shape
        self._values, self._indices = _get_arrays(group)
        self.dtype = choose_dtype(self._values.dtype)
        self.starts = _read_starts(group, n_rows=shape[0], n_stored=self.n_stored)
        _refuse_long_rows(self.starts, n_columns=shape[1])

    @property
    def n_stored(self) -> int:
        """Number of stored values."""
        return int(self._values.shape[0])

    def __getitem__(self, rows: slice) -> csr_matrix:
        """Read consecutive rows, ``(n_rows, n_columns)``; values of the same place are added up.

        Raises
        ------
        IndexError
            If a column is outside the matrix.
        """
        start, stop, _ = rows.indices(self.shape[0])
        first, last = int(self.starts[start]), int(self.starts[stop])
        indices = np.asarray(self._indices[first:last])
        if len(indices) and not 0 <= indices.min() <= indices.max() < self.shape[1]:
            raise IndexError(
                f"indices from {indices.min()} to {indices.max()} in a matrix of {self.shape[1]}"
            )
        index_type = np.int32 if max(last - first, self.shape[1]) <= _LARGEST_INT32 else np.int64
        taken = csr_matrix(
            (
                np.asarray(self._values[first:last]).astype(self.dtype),
                indices.astype(index_type),
                (self.starts[start : stop + 1] - first).astype(index_type),
            ),
            shape=(stop - start, self.shape[1]),
        )
        if not taken.has_canonical_format:
            taken.sum_duplicates()
        return taken


class DenseRows:
    """A matrix that is stored with its zeros.

    Parameters
    ----------
    array
        HDF5 or zarr array, ``(n_rows, n_columns)``.

    Raises
    ------
    ValueError
        If it does not hold numbers.
    """

    def __init__(self, array: Array) -> None:
        self.shape: tuple[int, ...] = tuple(map(int, array.shape))
        self.dtype = choose_dtype(array.dtype)
        self._array = array

    @property
    def most_rows(self) -> int:
        """Rows that take a reasonable space in memory."""
        row_bytes = self.shape[1] * max(self.dtype.itemsize, self._array.dtype.itemsize)
        return max(1, _MOST_DENSE_BYTES // max(row_bytes, 1))

    def __getitem__(self, rows: slice) -> csr_matrix:
        """Read consecutive rows, ``(n_rows, n_columns)``."""
        return csr_matrix(np.asarray(self._array[rows]).astype(self.dtype, copy=False))


def split_rows(matrix: RowsOnDisk, n_rows: int) -> Iterator[tuple[int, int]]:
    """Split a matrix into stretches of ``n_rows`` rows, shorter where they would take much memory.

    Yields
    ------
    First row of each, and the one after its last.
    """
    start, n_all = 0, matrix.shape[0]
    while start < n_all:
        stop = min(start + n_rows, n_all)
        if isinstance(matrix, DenseRows):
            stop = min(stop, start + matrix.most_rows)
        elif isinstance(matrix, CompressedRows):
            last = int(np.searchsorted(matrix.starts, matrix.starts[start] + _MOST_STORED, side="right")) - 1
            stop = min(stop, max(last, start + 1))
        yield start, stop
        start = stop


def choose_dtype(stored: np.dtype) -> np.dtype:
    """Choose a type of this machine that scipy computes with, and that has room for sums of small counts.

    Raises
    ------
    ValueError
        If ``stored`` is no type of real numbers.
    """
    if not holds_numbers(stored):
        raise ValueError(f"values of the type {stored}, which are no numbers")
    if stored.kind in "bu" and stored.itemsize <= 2:
        return np.dtype(np.uint32)
    if stored.kind == "i" and stored.itemsize <= 2:
        return np.dtype(np.int32)
    if stored.kind == "f" and stored.itemsize not in (4, 8):
        return np.dtype(np.float32 if stored.itemsize < 4 else np.float64)
    return stored.newbyteorder("=")


def holds_numbers(dtype: np.dtype) -> bool:
    """Tell a type of real numbers (or yes and no) from complex ones, text and records."""
    return dtype.kind in "buif"


def _get_arrays(group: Group) -> tuple[Array, Array]:
    """Take the values and their positions, one of each."""
    values, indices = _get(group, "data"), _get(group, "indices")
    if indices.dtype.kind not in "iu":
        raise ValueError(f"indices of the type {indices.dtype}")
    if values.shape != indices.shape or len(values.shape) != 1:
        raise ValueError(f"data of the shape {values.shape}, indices of the shape {indices.shape}")
    return values, indices


def _read_starts(group: Group, *, n_rows: int, n_stored: int) -> np.ndarray:
    """Read where each row starts, and where the last one ends, ``(n_rows + 1,)``, int64."""
    array = _get(group, "indptr")
    if array.dtype.kind not in "iu" or array.shape != (n_rows + 1,):
        raise ValueError(f"indptr of the shape {array.shape} and the type {array.dtype} for {n_rows} rows")
    starts = np.asarray(array[...]).astype(np.int64)
    if starts[0] != 0:
        raise ValueError(f"indptr that starts at {starts[0]}, not at 0")
    if (np.diff(starts) < 0).any():
        raise ValueError(f"indptr that goes down at row {int(np.argmax(np.diff(starts) < 0))}")
    if starts[-1] > n_stored:
        raise ValueError(f"indptr that ends at {starts[-1]} of {n_stored} values")
    return starts


def _refuse_long_rows(starts: np.ndarray, *, n_columns: int) -> None:
    """Refuse rows of many more values than there are columns: one is read at once, whatever it takes."""
    lengths = np.diff(starts)
    if len(lengths) and lengths.max() > max(n_columns, _MOST_STORED):
        raise ValueError(f"row {int(lengths.argmax())} of {lengths.max()} values in {n_columns} columns")


def _get(group: Group, name: str) -> Any:
    """Take an array of a group."""
    if name not in group:
        raise KeyError(f"no {name}")
    array = group[name]
    if not isinstance(array, Array):
        raise ValueError(f"{name} that is no array")
    return array
