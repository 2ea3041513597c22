"""The embedding in a process of its own: ready when cells are read, done when they are written."""

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix, load_npz, random_array, save_npz

from annotary.log import warn

LONGEST_SECONDS = 120
"""No picture is worth more waiting."""

_CELLS_NAME = "cells.npz"
_POSITIONS_NAME = "positions.npy"
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
"""The other cores have work."""


class EmbeddingProcess:
    """A process that works out positions of cells.

    Parameters
    ----------
    seed
        Seed of all steps.
    folder
        Where the cells and the positions are exchanged.
    """

    def __init__(self, *, seed: int, folder: Path) -> None:
        self._folder = folder
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(folder), str(seed)],
            env=os.environ | _ONE_THREAD,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def start(self, log_expr: csr_matrix) -> None:
        """Give it the cells, ``(n_cells, n_genes)``, log-normalised."""
        save_npz(self._folder / _CELLS_NAME, log_expr, compressed=False)
        with contextlib.suppress(BrokenPipeError):  # it has failed: `get` tells
            print(file=self._process.stdin, flush=True)

    def get(self) -> np.ndarray | None:
        """Wait for the positions, ``(n_cells, 2)``; None, with a warning, where there are none in time."""
        try:
            _, said = self._process.communicate(timeout=LONGEST_SECONDS)
        except subprocess.TimeoutExpired:
            warn(f"there is no UMAP, since it was not done in {LONGEST_SECONDS} seconds")
            return None
        if self._process.returncode == 0:
            return np.load(self._folder / _POSITIONS_NAME)
        last = said.strip().splitlines()[-1] if said.strip() else f"exit code {self._process.returncode}"
        warn(f"there is no UMAP, since its process failed: {last}")
        return None

    def stop(self) -> None:
        """End the process, if it still runs."""
        if self._process.poll() is None:
            self._process.kill()
        with contextlib.suppress(BrokenPipeError):
            self._process.__exit__(None, None, None)  # waits, and closes the pipes


@contextlib.contextmanager
def open_embedding(*, seed: int) -> Iterator[EmbeddingProcess]:
    """Start a process that embeds as ``embedding.embed_cells`` does; it ends with the block."""
    with tempfile.TemporaryDirectory(prefix="annotary-") as folder:
        process = EmbeddingProcess(seed=seed, folder=Path(folder))
        try:
            yield process
        finally:
            process.stop()


def main() -> None:
    """Compile what takes long, wait for the cells, embed them; the other process calls this."""
    from annotary.quality.embedding import embed_cells

    folder, seed = Path(sys.argv[1]), int(sys.argv[2])
    embed_cells(csr_matrix(random_array((60, 40), density=0.5, rng=np.random.default_rng(0))), seed=seed)
    if sys.stdin.readline():  # empty where the other process has ended
        np.save(folder / _POSITIONS_NAME, embed_cells(csr_matrix(load_npz(folder / _CELLS_NAME)), seed=seed))


if __name__ == "__main__":
    main()
