"""The embedding in a process of its own: it takes as long as writing the dataset, so both go on at once."""

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix, load_npz, save_npz

from annotary.log import warn

_CELLS_NAME = "cells.npz"
_POSITIONS_NAME = "positions.npy"


class EmbeddingProcess:
    """Positions that another process works out.

    Parameters
    ----------
    log_expr
        Log-normalised expression, ``(n_cells, n_genes)``.
    seed
        Seed of all steps.
    folder
        Where the cells and the positions are exchanged.
    """

    def __init__(self, log_expr: csr_matrix, *, seed: int, folder: Path) -> None:
        self._folder = folder
        save_npz(folder / _CELLS_NAME, log_expr, compressed=False)
        command = [sys.executable, "-m", __name__, str(folder), str(seed)]
        self._process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )

    def get(self) -> np.ndarray | None:
        """Wait for the positions, ``(n_cells, 2)``; None, with a warning, where the process failed."""
        _, said = self._process.communicate()
        if self._process.returncode == 0:
            return np.load(self._folder / _POSITIONS_NAME)
        last = said.strip().splitlines()[-1] if said.strip() else f"exit code {self._process.returncode}"
        warn(f"there is no UMAP, since its process failed: {last}")
        return None

    def stop(self) -> None:
        """End the process, if it still runs."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.__exit__(None, None, None)  # waits, and closes the pipe


@contextlib.contextmanager
def start_embedding(log_expr: csr_matrix, *, seed: int) -> Iterator[EmbeddingProcess]:
    """Start a process that embeds cells ``(n_cells, n_genes)`` as ``embedding.embed_cells`` does."""
    with tempfile.TemporaryDirectory(prefix="annotary-") as folder:
        process = EmbeddingProcess(log_expr, seed=seed, folder=Path(folder))
        try:
            yield process
        finally:
            process.stop()


def main() -> None:
    """Embed the cells of a folder; the other process calls this."""
    from annotary.quality.embedding import embed_cells

    folder, seed = Path(sys.argv[1]), int(sys.argv[2])
    np.save(folder / _POSITIONS_NAME, embed_cells(csr_matrix(load_npz(folder / _CELLS_NAME)), seed=seed))


if __name__ == "__main__":
    main()
