"""The transformer's genes for people: which of them spoke for each label."""

import numpy as np
import pandas as pd

from annotary.evaluation.baseline_figures import draw_top_genes
from annotary.models.transformer.attribution import weigh_genes
from annotary.models.transformer.classifier import TransformerAnnotator
from annotary.quality.prepare import PreparedCells
from annotary.tracking import StageRun


def log_gene_contributions(
    run: StageRun,
    annotator: TransformerAnnotator,
    cells: PreparedCells,
    codes: np.ndarray,
    *,
    panel: pd.Index,
    label_names: tuple[str, ...],
    seed: int,
    device: str,
) -> None:
    """Log each gene's mean contribution to each label in validation cells, as a table and a picture."""
    weights = pd.DataFrame(
        weigh_genes(annotator.networks, cells, codes, seed=seed, device=device),
        index=panel.rename("gene"),
        columns=list(label_names),
    )
    run.log_table(weights, f"{annotator.kind}_gene_contributions")
    run.log_figure(
        draw_top_genes(weights, measure="Mean contribution to the logit"), f"{annotator.kind}_top_genes"
    )
