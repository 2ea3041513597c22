"""Versions in the registry that a test trained for nothing: linear models with fixed random weights."""

from linear_bundle import N_PANEL
from models import bundles
from simulate import LABELS

from annotary import registry
from annotary.config import PromoteConfig
from annotary.quality.prepare import InputSpec
from annotary.registry import RegisteredVersion
from annotary.tracking import stage_run


def register_linear(name: str, *, seed: int, label_names: tuple[str, ...] = LABELS) -> RegisteredVersion:
    """Register a version whose labels follow from the seed."""
    spec = InputSpec(
        gene_ids=tuple(f"GENE{gene:04d}" for gene in range(N_PANEL)), id_type="symbol", min_panel_genes=10
    )
    with stage_run("baselines", PromoteConfig()) as run:
        bundle = bundles.make_bundle(
            label_names, spec, seed=seed, provenance=bundles.make_provenance(run_id=run.run_id)
        )
        candidate = registry.log_bundle(bundle)
    return registry.register(candidate, name, tags={})
