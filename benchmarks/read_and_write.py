"""Read an h5ad file once in row chunks and write it as the dataset file is written: the least there is to do.

Run as ``python benchmarks/read_and_write.py IN OUT``.
"""

import argparse
from pathlib import Path

import h5py
from anndata.io import read_elem, sparse_dataset, write_elem
from scipy.sparse import csr_matrix

from annotary.data.csr_writer import CsrWriter

CHUNK_CELLS = 4_096


def read_and_write(source: Path, target: Path) -> None:
    """Copy X, obs and var, never holding more than one chunk of X."""
    with h5py.File(source) as read, h5py.File(target, "w") as written:
        counts = sparse_dataset(read["X"])
        n_cells, n_genes = counts.shape
        with CsrWriter(written, "X", n_genes, dtype=counts.dtype, compressed=True) as writer:
            for start in range(0, n_cells, CHUNK_CELLS):
                writer.append(csr_matrix(counts[start : start + CHUNK_CELLS]))
        for name in ("obs", "var"):
            write_elem(written, name, read_elem(read[name]))
        written.attrs.update(read.attrs)


def main() -> None:
    """Copy the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    options = parser.parse_args()
    read_and_write(options.source, options.target)


if __name__ == "__main__":
    main()
