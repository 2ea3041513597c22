"""Small bundles for tests: any model, with confidence learned from simulated cells."""

import numpy as np
from models.conformance import N_PANEL, make_cells
from scipy.sparse import csr_matrix

from annotary.models.base import Annotator
from annotary.models.baselines import LogisticRegressionAnnotator
from annotary.models.bundle import Bundle, Provenance
from annotary.models.confidence.confidence import Confidence, ConfidenceSettings
from annotary.models.confidence.held_out import FittedCells, HeldOutCells
from annotary.models.profile import TrainingProfile
from annotary.quality.prepare import InputSpec, log_normalize
from annotary.quality.qc import QualityThresholds

SETTINGS = ConfidenceSettings(conformal_alpha=0.1, min_precision=0.9, ood_rate=0.01)


def make_held_out(n_classes: int, n_cells: int = 300, *, seed: int = 0) -> HeldOutCells:
    """Probabilities that are right as often as they say."""
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.full(n_classes, 0.3), size=n_cells)
    codes = (probabilities.cumsum(axis=1) < rng.random((n_cells, 1))).sum(axis=1).clip(max=n_classes - 1)
    distances = rng.chisquare(20, size=n_cells) ** 0.5
    return HeldOutCells(probabilities=probabilities.astype(np.float32), codes=codes, distances=distances)


def make_fitted(n_panel: int = N_PANEL, n_cells: int = 150, *, n_classes: int = 3) -> FittedCells:
    """Log-normalised cells of the conformance suite's classes, or of random counts for other panels."""
    if n_panel == N_PANEL:
        cells, codes = make_cells(n_cells)
        log_expr = log_normalize(cells, target_sum=1e4)
    else:
        rng = np.random.default_rng(0)
        codes = rng.integers(n_classes, size=n_cells)
        log_expr = csr_matrix(np.log1p(rng.poisson(1.0, size=(n_cells, n_panel))).astype(np.float32))
    return FittedCells(log_expr=log_expr, codes=codes)


def make_profile(n_classes: int, n_panel: int) -> TrainingProfile:
    thresholds = QualityThresholds(min_genes=20, min_counts=0, max_pct_mito=100.0)
    return TrainingProfile.measure(
        make_held_out(n_classes), make_fitted(n_panel, n_classes=n_classes), thresholds
    )


def make_confidence(n_classes: int, n_panel: int) -> Confidence:
    return Confidence.fit(make_held_out(n_classes), make_fitted(n_panel, n_classes=n_classes), SETTINGS)


def make_provenance(
    dataset_hash: str = "d", split_hash: str = "s", *, run_id: str = "r", config: str = "{}"
) -> Provenance:
    return Provenance(
        dataset_hash=dataset_hash,
        split_hash=split_hash,
        run_id=run_id,
        config=config,
        package_version="0",
        label_source="cell_type of cells.h5ad",
        libraries={"numpy": "2"},
    )


def make_bundle(
    label_names: tuple[str, ...],
    spec: InputSpec,
    *,
    model: Annotator | None = None,
    provenance: Provenance | None = None,
    seed: int = 0,
) -> Bundle:
    """A bundle of a linear model with fixed random weights, or of the model that is given."""
    n_classes, n_panel = len(label_names), len(spec.gene_ids)
    rng = np.random.default_rng(seed)
    return Bundle(
        model=model
        or LogisticRegressionAnnotator(
            coef=rng.normal(size=(n_classes, n_panel)), intercept=rng.normal(size=n_classes), target_sum=1e4
        ),
        spec=spec,
        label_names=label_names,
        label_counts=tuple(range(5, 5 + n_classes)),
        confidence=make_confidence(n_classes, n_panel),
        provenance=provenance or make_provenance(),
        seen_cells=np.array([3, -5, 2**62]),
        profile=make_profile(n_classes, n_panel),
    )
