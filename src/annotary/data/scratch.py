"""Counts on disk while a stage runs: in files without a name, gone when the process ends, however it ends."""

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import numpy as np
from scipy.sparse import csr_matrix, vstack

from annotary.data.atomic import make_folder
from annotary.data.counts import take_columns
from annotary.errors import OutputError

CHUNK_SIZE = 1024
"""Cells in memory at a time."""

_VALUE = np.dtype(np.uint32)


class CountsStore:
    """Checked raw counts of many cells, appended and read back in row chunks.

    Parameters
    ----------
    folder
        Where the bytes lie; the files have no name there.
    n_genes
        Columns of every row.
    """

    def __init__(self, folder: Path, n_genes: int) -> None:
        self.n_genes = n_genes
        self._index = np.dtype(np.uint16 if n_genes <= np.iinfo(np.uint16).max else np.uint32)
        self._indices = open_scratch(folder)
        self._values = open_scratch(folder)
        self._starts = [np.zeros(1, dtype=np.int64)]
        self._n_stored = 0

    def close(self) -> None:
        """Give the disk space back."""
        self._indices.close()
        self._values.close()

    def append(self, counts: csr_matrix) -> None:
        """Add cells, ``(n_cells, n_genes)``, with whole non-negative values.

        Raises
        ------
        OutputError
            If the disk is full.
        """
        write_scratch(self._indices, counts.indices.astype(self._index))
        write_scratch(self._values, counts.data.astype(_VALUE))
        self._starts.append(self._n_stored + counts.indptr[1:].astype(np.int64))
        self._n_stored += counts.nnz

    def view(self) -> "StoredCounts":
        """Give all cells and genes, once every cell is there."""
        starts = np.concatenate(self._starts)
        self._starts = [starts]
        return StoredCounts(self, starts, np.arange(len(starts) - 1), None)

    def read(self, starts: np.ndarray, start: int, stop: int) -> csr_matrix:
        """Read the rows from ``start`` to ``stop``, ``(stop - start, n_genes)``, float32."""
        first, last = int(starts[start]), int(starts[stop])
        return csr_matrix(
            (
                read_scratch(self._values, _VALUE, first, last).astype(np.float32),
                read_scratch(self._indices, self._index, first, last).astype(np.int32),
                (starts[start : stop + 1] - first).astype(np.int32),
            ),
            shape=(stop - start, self.n_genes),
        )


@dataclass(frozen=True)
class StoredCounts:
    """Some cells and genes of a store, read when they are asked for."""

    _store: CountsStore
    _starts: np.ndarray
    _rows: np.ndarray
    _columns: np.ndarray | None

    @property
    def shape(self) -> tuple[int, int]:
        """Cells and genes."""
        return len(self._rows), self._store.n_genes if self._columns is None else len(self._columns)

    def take_rows(self, kept: np.ndarray) -> "StoredCounts":
        """Keep some cells, by a mask or ascending positions."""
        return replace(self, _rows=self._rows[kept])

    def take_columns(self, kept: np.ndarray) -> "StoredCounts":
        """Keep some genes, by a mask or ascending positions."""
        columns = np.arange(self._store.n_genes) if self._columns is None else self._columns
        return replace(self, _columns=columns[kept])

    def iter_chunks(self) -> Iterator[csr_matrix]:
        """Read all cells in order, ``(at most CHUNK_SIZE, n_genes)`` at a time, float32."""
        for start in range(0, len(self._starts) - 1, CHUNK_SIZE):
            stop = min(start + CHUNK_SIZE, len(self._starts) - 1)
            first, last = np.searchsorted(self._rows, [start, stop])
            if first == last:
                continue
            chunk = self._store.read(self._starts, start, stop)
            if last - first < stop - start:
                chunk = chunk[self._rows[first:last] - start]
            yield chunk if self._columns is None else take_columns(chunk, self._columns)

    def load(self) -> csr_matrix:
        """Read all cells at once, ``(n_cells, n_genes)``; for few cells or few genes."""
        chunks = list(self.iter_chunks())
        return vstack(chunks, format="csr") if chunks else csr_matrix(self.shape, dtype=np.float32)


@contextlib.contextmanager
def open_store(folder: Path, n_genes: int) -> Iterator[CountsStore]:
    """Make a store whose disk space is given back when the block ends."""
    store = CountsStore(folder, n_genes)
    try:
        yield store
    finally:
        store.close()


def open_scratch(folder: Path) -> IO[bytes]:
    """Open a file without a name.

    Raises
    ------
    OutputError
        If the folder cannot be written.
    """
    make_folder(folder)
    try:
        return tempfile.TemporaryFile(dir=folder)
    except OSError as error:
        raise _describe_refusal(folder, error) from error


def write_scratch(file: IO[bytes], values: np.ndarray) -> None:
    """Append values to a scratch file.

    Raises
    ------
    OutputError
        If the disk is full.
    """
    try:
        file.write(values.tobytes())
        file.flush()
    except OSError as error:
        raise _describe_refusal(Path(str(file.name)), error) from error


def read_scratch(file: IO[bytes], dtype: np.dtype, first: int, last: int) -> np.ndarray:
    """Read the values from ``first`` to ``last``, ``(last - first,)``."""
    file.seek(first * dtype.itemsize)
    return np.frombuffer(file.read((last - first) * dtype.itemsize), dtype=dtype)


def _describe_refusal(place: Path, error: OSError) -> OutputError:
    """Say that the operating system does not let us write."""
    return OutputError(
        place,
        expected="room for a working copy of the counts",
        found=error.strerror or str(error),
        remedy="Free some space or name another folder with --output.",
    )
