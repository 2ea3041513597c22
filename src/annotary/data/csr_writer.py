"""A sparse matrix written row chunk by row chunk, as anndata lays it out in HDF5."""

from types import TracebackType
from typing import Self

import h5py
import numpy as np
from scipy.sparse import csr_matrix

from annotary.pulse import beat

GZIP_LEVEL = 1
HDF5_CHUNK = 1 << 17
"""Stored values in one compressed piece."""


class CsrWriter:
    """Writes rows into a group of an open file; the matrix is whole when the block ends.

    Parameters
    ----------
    file
        File to write into.
    name
        Group to make, such as ``X``.
    n_genes
        Columns of every row.
    dtype
        Type of the values.
    compressed
        Whether they are compressed (gzip).
    """

    def __init__(
        self, file: h5py.File, name: str, n_genes: int, *, dtype: np.dtype, compressed: bool
    ) -> None:
        self._n_genes = n_genes
        self._n_stored = 0
        self._starts = [np.zeros(1, dtype=np.int64)]
        self._group = file.create_group(name)
        options = {"compression": "gzip", "compression_opts": GZIP_LEVEL, "shuffle": True}
        self._indices, self._values = (
            self._group.create_dataset(
                part,
                shape=(0,),
                maxshape=(None,),
                chunks=(HDF5_CHUNK,),
                dtype=kind,
                **(options if compressed else {}),
            )
            for part, kind in (("indices", np.dtype(np.int32)), ("data", dtype))
        )

    def append(self, rows: csr_matrix) -> None:
        """Add rows, ``(n_rows, n_genes)``."""
        beat()
        before, after = self._n_stored, self._n_stored + rows.nnz
        for dataset, values in ((self._indices, rows.indices), (self._values, rows.data)):
            dataset.resize((after,))
            dataset[before:after] = values
        self._starts.append(before + rows.indptr[1:].astype(np.int64))
        self._n_stored = after

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            return
        starts = np.concatenate(self._starts)
        # Readers keep the types they find, and scipy wants both index arrays of one type.
        fits = self._n_stored <= np.iinfo(np.int32).max
        self._group.create_dataset("indptr", data=starts.astype(np.int32) if fits else starts)
        self._group.attrs["encoding-type"] = "csr_matrix"
        self._group.attrs["encoding-version"] = "0.1.0"
        self._group.attrs["shape"] = np.array([len(starts) - 1, self._n_genes], dtype=np.int64)
