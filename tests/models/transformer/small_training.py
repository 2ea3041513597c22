"""A training that takes a second: 120 simulated cells, and how it is called."""

from dataclasses import replace

from models.conformance import N_CLASSES, N_PANEL, make_cells

from annotary.models.transformer.config import NetworkConfig, TrainingConfig
from annotary.models.transformer.epochs import EpochMetrics
from annotary.models.transformer.training import fit_transformer

NETWORK = NetworkConfig(
    n_genes=N_PANEL, n_classes=N_CLASSES, d_model=16, n_layers=1, n_heads=2, dropout=0.1, linear_path=False
)
TRAINING = TrainingConfig(
    learning_rate=1e-2, batch_size=16, max_epochs=4, patience=4, thinning=0.3, seed=3, device="cpu"
)
STILL = {"learning_rate": 1e-12, "gene_learning_rate": 1e-12, "linear_learning_rate": 1e-12}
"""Rates at which nothing is learned."""


def fit(*, network=NETWORK, on_epoch=lambda metrics: None, checkpoint=None, first=None, **changes):
    cells, codes = make_cells(120, seed=0)
    validation_cells, validation_codes = make_cells(40, seed=1)
    return fit_transformer(
        cells,
        codes,
        validation_cells,
        validation_codes,
        network=network,
        training=replace(TRAINING, **changes),
        on_epoch=on_epoch,
        checkpoint=checkpoint,
        first_weights=first,
    )


def numbers(history: list[EpochMetrics]) -> list[EpochMetrics]:
    """Take what does not depend on the clock."""
    return [replace(metrics, seconds=0, cells_per_second=0, loading_share=0) for metrics in history]
