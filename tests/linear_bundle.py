"""A linear model with fixed random weights, for tests of scoring."""

from models import bundles
from simulate import LABELS

from annotary.models.bundle import Bundle
from annotary.quality.prepare import InputSpec

N_PANEL = 80


def make_bundle(*, id_type: str = "symbol", gene_ids: tuple[str, ...] | None = None) -> Bundle:
    gene_ids = gene_ids or tuple(f"GENE{gene:04d}" for gene in range(N_PANEL))
    return bundles.make_bundle(
        LABELS, InputSpec(gene_ids=gene_ids, id_type=id_type, min_panel_genes=10), seed=5
    )
