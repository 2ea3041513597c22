"""The UMAP of a sample of the cells that were annotated."""

import numpy as np

from annotary.log import warn
from annotary.quality.embedding_process import open_embedding
from annotary.quality.prepare import TARGET_SUM, log_normalize
from annotary.scoring.survey import CellSample


def draw_scored_cells(sample: CellSample, label_names: tuple[str, ...]) -> bytes | None:
    """Draw cells by label, and by file where there are several, as PNG; None where the UMAP fails."""
    with open_embedding(seed=0) as process:
        try:
            process.start(log_normalize(sample.cells, target_sum=TARGET_SUM))
        except OSError as error:
            warn(f"there is no UMAP, since its cells could not be handed over: {error}")
            return None
        from annotary.evaluation.embedding_figure import draw_embedding  # loads matplotlib
        from annotary.evaluation.figures import to_png

        positions = process.get()
    if positions is None:
        return None
    groups = {"Predicted label": np.array(label_names, dtype=object)[sample.codes]}
    if len(set(sample.sources)) > 1:
        groups["File"] = sample.sources
    return to_png(draw_embedding(positions, groups))
