"""The UMAP of training cells, drawn while the dataset is written."""

import contextlib
from collections.abc import Iterator

import numpy as np
import pandas as pd

from annotary import keys
from annotary.data.dataset import DatasetTables
from annotary.data.source import Cells
from annotary.evaluation.embedding_figure import draw_embedding
from annotary.evaluation.figures import to_png
from annotary.quality.embedding_process import EmbeddingProcess, start_embedding
from annotary.quality.prepare import TARGET_SUM, PreparedCells, log_normalize

EMBEDDED_CELLS = 2000
"""Training cells in the picture; a sample, so that its time does not grow with the data."""


class TrainingPicture:
    """A picture that is on its way."""

    def __init__(self, process: EmbeddingProcess, obs: pd.DataFrame) -> None:
        self._process = process
        self._obs = obs

    def draw(self) -> bytes | None:
        """Wait for the positions and draw them by label and by source, as PNG; None where there are none."""
        positions = self._process.get()
        if positions is None:
            return None
        groups = {"Label": self._obs[keys.LABEL].astype(str).to_numpy()}
        if len(self._obs[keys.SOURCE].cat.categories) > 1:
            groups["Source"] = self._obs[keys.SOURCE].astype(str).to_numpy()
        return to_png(draw_embedding(positions, groups))


@contextlib.contextmanager
def start_picture(cells: Cells, tables: DatasetTables, *, seed: int) -> Iterator[TrainingPicture]:
    """Start to embed a sample of the training cells.

    Parameters
    ----------
    cells
        Cells of the dataset, ``(n_cells, n_genes)``.
    tables
        The dataset's tables.
    seed
        Seed of the sample and of the embedding.
    """
    obs = tables.obs
    training = np.flatnonzero(obs[keys.SPLIT] == keys.TRAIN)
    by_id = training[np.argsort(obs.index[training].to_numpy(dtype=str), kind="stable")]
    drawn = np.sort(np.random.default_rng(seed).permutation(by_id)[:EMBEDDED_CELLS])
    sample = PreparedCells(
        counts=cells.counts.take_rows(drawn)
        .take_columns(np.flatnonzero(cells.gene_ids.isin(tables.panel)))
        .load(),
        depth=obs[keys.DEPTH].to_numpy(dtype=np.float64)[drawn],
    )
    log_expr = log_normalize(sample, target_sum=TARGET_SUM)
    with start_embedding(log_expr, seed=seed) as process:
        yield TrainingPicture(process, obs.iloc[drawn])
