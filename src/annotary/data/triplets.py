"""Rows out of matrices that are stored by column: sorted into buckets of rows on disk."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
from scipy.sparse import csr_matrix, vstack

from annotary.data.scratch import open_scratch, read_scratch, write_scratch
from annotary.data.sparse import CompressedRows
from annotary.pulse import beat

_STORED_AT_A_TIME = 1 << 21


class RowBuckets:
    """Values with their rows and columns, added in any order and read back by row.

    Parameters
    ----------
    folder
        Where the bytes lie while the object lives; the files have no name there.
    shape
        Cells and genes.
    n_stored
        Number of values that will be added, to choose how many rows share a bucket.
    dtype
        Type of the values.
    """

    def __init__(self, folder: Path, shape: tuple[int, int], *, n_stored: int, dtype: np.dtype) -> None:
        self.shape: tuple[int, ...] = shape
        n_buckets = min(max(1, -(-n_stored // _STORED_AT_A_TIME)), shape[0], 256)
        self._rows_per_bucket = -(-shape[0] // n_buckets)
        self.dtype = np.dtype(dtype)
        self._record = np.dtype([("row", np.int32), ("column", np.int32), ("value", dtype)])
        self._files: list[IO[bytes]] = [open_scratch(folder) for _ in range(n_buckets)]
        self._lengths = [0] * n_buckets
        self._loaded: tuple[int, csr_matrix] | None = None

    def add(self, rows: np.ndarray, columns: np.ndarray, values: np.ndarray) -> None:
        """Add values, ``(n_values,)`` each.

        Raises
        ------
        IndexError
            If a row or column is outside the matrix.
        """
        for positions, size, name in ((rows, self.shape[0], "row"), (columns, self.shape[1], "column")):
            if len(positions) and not 0 <= positions.min() <= positions.max() < size:
                raise IndexError(f"{name} {positions.max()} in a matrix of {size}")
        beat()
        buckets = rows // self._rows_per_bucket
        order = np.argsort(buckets, kind="stable")
        bounds = np.searchsorted(buckets[order], np.arange(len(self._files) + 1))
        records = np.empty(len(rows), dtype=self._record)
        records["row"], records["column"], records["value"] = rows[order], columns[order], values[order]
        for bucket, (first, last) in enumerate(itertools.pairwise(bounds)):
            if first < last:
                write_scratch(self._files[bucket], records[first:last])
                self._lengths[bucket] += int(last - first)

    def __getitem__(self, rows: slice) -> csr_matrix:
        """Read consecutive rows, ``(n_rows, n_genes)``; values of the same place are added up."""
        start, stop, _ = rows.indices(self.shape[0])
        parts = []
        while start < stop:
            bucket = start // self._rows_per_bucket
            first = bucket * self._rows_per_bucket
            last = min(stop, first + self._rows_per_bucket)
            parts.append(self._load(bucket)[start - first : last - first])
            start = last
        return _stack(parts)

    def close(self) -> None:
        """Give the disk space back."""
        for file in self._files:
            file.close()

    def _load(self, bucket: int) -> csr_matrix:
        """Read one bucket, keeping the last one in memory."""
        if self._loaded is None or self._loaded[0] != bucket:
            records = read_scratch(self._files[bucket], self._record, 0, self._lengths[bucket])
            first = bucket * self._rows_per_bucket
            n_rows = min(self._rows_per_bucket, self.shape[0] - first)
            rows = csr_matrix(
                (records["value"], (records["row"] - first, records["column"])),
                shape=(n_rows, self.shape[1]),
            )
            self._loaded = (bucket, rows)
        return self._loaded[1]


def turn_to_rows(columns: CompressedRows, folder: Path) -> RowBuckets:
    """Turn a matrix that is stored by gene into rows, without ever holding it whole.

    Parameters
    ----------
    columns
        The matrix on its side, ``(n_genes, n_cells)``.
    folder
        Where the rows lie while the result lives.
    """
    n_genes, n_cells = columns.shape
    buckets = RowBuckets(folder, (n_cells, n_genes), n_stored=columns.n_stored, dtype=columns.dtype)
    for first, last in _group_columns(columns.starts):
        part = columns[first:last].tocoo()
        buckets.add(part.col, part.row + first, part.data)
    return buckets


def _group_columns(starts: np.ndarray) -> Iterator[tuple[int, int]]:
    """Group consecutive columns so that a group has not too many values, or is one column."""
    first, n_columns = 0, len(starts) - 1
    while first < n_columns:
        last = int(np.searchsorted(starts, starts[first] + _STORED_AT_A_TIME, side="right")) - 1
        last = min(max(last, first + 1), n_columns)
        yield first, last
        first = last


def _stack(parts: list[csr_matrix]) -> csr_matrix:
    """Put rows of several buckets together."""
    return parts[0] if len(parts) == 1 else vstack(parts, format="csr")
