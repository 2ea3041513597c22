"""A linear model with fixed random weights, for tests of scoring."""

import numpy as np
from simulate import LABELS

from annotary.models.baselines import LogisticRegressionAnnotator
from annotary.models.bundle import Bundle, Provenance
from annotary.quality.prepare import InputSpec

N_PANEL = 80


def make_bundle(*, id_type: str = "symbol", gene_ids: tuple[str, ...] | None = None) -> Bundle:
    rng = np.random.default_rng(5)
    gene_ids = gene_ids or tuple(f"GENE{gene:04d}" for gene in range(N_PANEL))
    model = LogisticRegressionAnnotator(
        coef=rng.normal(size=(len(LABELS), len(gene_ids))),
        intercept=rng.normal(size=len(LABELS)),
        target_sum=1e4,
    )
    return Bundle(
        model=model,
        spec=InputSpec(gene_ids=gene_ids, id_type=id_type, min_panel_genes=10),
        label_names=LABELS,
        provenance=Provenance("d" * 64, "s" * 64, "run", "{}", "0"),
        seen_cells=np.zeros(0, dtype=np.int64),
    )
