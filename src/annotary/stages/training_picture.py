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
from annotary.quality.embedding_process import EmbeddingProcess, open_embedding
from annotary.quality.prepare import TARGET_SUM, PreparedCells, log_normalize

EMBEDDED_CELLS = 2000
"""Training cells in the picture; a sample, so that its time does not grow with the data."""


class TrainingPicture:
    """A picture that is on its way.

    Parameters
    ----------
    process
        Works out where the cells go.
    seed
        Seed of the sample.
    """

    def __init__(self, process: EmbeddingProcess, *, seed: int) -> None:
        self._process = process
        self._seed = seed
        self._obs = pd.DataFrame()

    def start(self, cells: Cells, tables: DatasetTables) -> None:
        """Start to embed a sample of the training cells of a dataset, on its panel."""
        training = np.flatnonzero(tables.obs[keys.SPLIT] == keys.TRAIN)
        by_id = training[np.argsort(tables.obs.index[training].to_numpy(dtype=object), kind="stable")]
        drawn = np.sort(np.random.default_rng(self._seed).permutation(by_id)[:EMBEDDED_CELLS])
        in_panel = np.flatnonzero(cells.gene_ids.isin(tables.panel))
        sample = PreparedCells(
            counts=cells.counts.take_rows(drawn).take_columns(in_panel).load(),
            depth=tables.obs[keys.DEPTH].to_numpy(dtype=np.float64)[drawn],
        )
        self._obs = tables.obs.iloc[drawn]
        self._process.start(log_normalize(sample, target_sum=TARGET_SUM))

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
def open_picture(*, seed: int) -> Iterator[TrainingPicture]:
    """Get ready to draw; what is under way ends with the block."""
    with open_embedding(seed=seed) as process:
        yield TrainingPicture(process, seed=seed)
