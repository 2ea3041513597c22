"""Read the counts of an h5ad file in row chunks, multiply each with dense weights: the least there is to do.

Run as ``python benchmarks/read_and_multiply.py FILE``; it prints the seconds without imports as JSON.
"""

import argparse
import json
import time
from pathlib import Path

import h5py
import numpy as np
from scipy.sparse import csr_matrix

CHUNK_CELLS = 4_096
N_CLASSES = 11


def read_and_multiply(path: Path) -> np.ndarray:
    """Score every cell with random weights, ``(n_cells, N_CLASSES)``."""
    with h5py.File(path) as file:
        matrix = file["X"]
        n_cells, n_genes = matrix.attrs["shape"]
        starts = matrix["indptr"][...]
        weights = np.random.default_rng(0).normal(size=(n_genes, N_CLASSES)).astype(np.float32)
        scores = []
        for start in range(0, n_cells, CHUNK_CELLS):
            rows = starts[start : start + CHUNK_CELLS + 1]
            values, columns = (matrix[name][rows[0] : rows[-1]] for name in ("data", "indices"))
            counts = csr_matrix((values, columns, rows - rows[0]), shape=(len(rows) - 1, n_genes))
            scores.append(counts @ weights)
    return np.concatenate(scores)


def main() -> None:
    """Read the file and say how long it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("path", type=Path)
    options = parser.parse_args()
    started = time.perf_counter()
    read_and_multiply(options.path)
    print(json.dumps({"seconds": time.perf_counter() - started}))


if __name__ == "__main__":
    main()
