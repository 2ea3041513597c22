"""Many small clusters of a file's cells, found on a bounded number of them.

Leiden (Traag et al. 2019) runs on at most ``SKETCH_CELLS`` cells; the others get the cluster of the sketch's
cell that is nearest in the same components. Memory does not grow with the file, but for one number a cell.
"""

from collections.abc import Callable, Iterator

import numpy as np
from scipy.sparse import csr_matrix, vstack

SKETCH_CELLS = 20_000
N_COMPONENTS = 50

# CellTypist 1.7's: the more cells, the finer.
_RESOLUTIONS = ((5_000, 5.0), (20_000, 10.0), (40_000, 15.0), (100_000, 20.0), (200_000, 25.0))
_FINEST = 30.0


def over_cluster(read: Callable[[], Iterator[csr_matrix]], n_cells: int, *, seed: int = 0) -> np.ndarray:
    """Cluster cells that are read in row chunks, at most twice.

    Parameters
    ----------
    read
        Gives log-normalised expression of the panel from the first cell on, ``(n_chunk, n_panel)`` each.
    n_cells
        Cells in all.
    seed
        Seed of the sketch, the components and Leiden.

    Returns
    -------
    Cluster numbers, ``(n_cells,)``.
    """
    from sklearn.decomposition import TruncatedSVD
    from sklearn.neighbors import NearestNeighbors

    from annotary.quality.clusters import find_neighbors, run_leiden

    rng = np.random.default_rng(seed)
    rows = np.sort(rng.choice(n_cells, size=min(SKETCH_CELLS, n_cells), replace=False))
    sketch = _take_rows(read(), rows)
    if min(sketch.shape) < 3:  # too few for components and neighbours
        return np.zeros(n_cells, dtype=np.int64)
    decomposition = TruncatedSVD(min(N_COMPONENTS, min(sketch.shape) - 1), random_state=seed)
    components = decomposition.fit_transform(sketch)
    clusters = run_leiden(
        find_neighbors(components, seed=seed), resolution=choose_resolution(n_cells), seed=seed
    )
    if len(rows) == n_cells:
        return clusters
    nearest = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(components)
    found = [
        clusters[nearest.kneighbors(decomposition.transform(chunk), return_distance=False)[:, 0]]
        for chunk in read()
    ]
    return np.concatenate(found)


def choose_resolution(n_cells: int) -> float:
    """Choose Leiden's resolution as CellTypist does."""
    return next((resolution for limit, resolution in _RESOLUTIONS if n_cells < limit), _FINEST)


def _take_rows(chunks: Iterator[csr_matrix], rows: np.ndarray) -> csr_matrix:
    """Take ascending rows out of consecutive chunks, ``(n_rows, n_panel)``."""
    taken, start = [], 0
    for chunk in chunks:
        first, last = np.searchsorted(rows, [start, start + chunk.shape[0]])
        taken.append(chunk[rows[first:last] - start])
        start += chunk.shape[0]
    return vstack(taken, format="csr")
