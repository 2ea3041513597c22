"""Writing a matrix that is read by rows."""

import h5py

from annotary.data.csr_writer import CsrWriter
from annotary.data.scratch import CHUNK_SIZE
from annotary.data.sparse import RowsOnDisk


def write_rows(file: h5py.File, name: str, rows: RowsOnDisk) -> None:
    """Write a matrix that is read by rows as CSR."""
    n_cells, n_genes = rows.shape
    with CsrWriter(file, name, n_genes, dtype=rows.dtype, compressed=False) as writer:
        for start in range(0, n_cells, CHUNK_SIZE):
            writer.append(rows[start : min(start + CHUNK_SIZE, n_cells)])
