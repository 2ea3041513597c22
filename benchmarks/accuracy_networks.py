"""The transformer of the accuracy benchmark, its vote with the linear model, and the notebook's network.

Each does what its stage does, on the cells of a fold: a part of them decides when to stop and how votes are
weighed, then the network is trained again on all.
"""

import time
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from accuracy_models import SEED, Cells, Result, find_common, fit_tuned
from sklearn.model_selection import GroupShuffleSplit, train_test_split

from annotary.data.genes import align_genes
from annotary.models.ensemble import fit_weights, vote
from annotary.models.transformer.classifier import TransformerAnnotator
from annotary.models.transformer.config import NetworkConfig, TrainingConfig
from annotary.models.transformer.training import fit_transformer
from annotary.quality.panel import choose_panel, rank_by_score
from annotary.quality.prepare import PreparedCells

TRANSFORMER, ENSEMBLE, NOTEBOOK = "transformer", "ensemble", "notebook transformer"

_VALIDATION_SHARE = 1 / 8  # as 10 % beside 70 % training cells
_NOTEBOOK_GENES = 1200
_NOTEBOOK_SHAPE = {
    "values": "bins",
    "attention_genes": 0,
    "d_model": 128,
    "n_layers": 4,
    "n_heads": 4,
    "norm": "post",
    "linear_path": False,
    "dropout": 0.1,
}
_NOTEBOOK_TRAINING = {"learning_rate": 1e-3, "gene_learning_rate": 0.02}


@dataclass(frozen=True)
class Said:
    """Probabilities of a model: of validation cells it was not fitted to, and of the held-out cells.

    Attributes
    ----------
    validation, held_out
        ``(n_cells, n_classes)``.
    seconds
        What training and both took.
    """

    validation: np.ndarray
    held_out: np.ndarray
    seconds: float


def run_transformer(train: Cells, labels: np.ndarray, held_out: Cells, *, n_trials: int) -> list[Result]:
    """Train the transformer with its defaults, tune the linear model, and let both vote."""
    train = train.take_genes(find_common(train.counts))
    names, codes = np.unique(labels, return_inverse=True)
    fitted, validation = _split(train, codes)
    network = _ask_transformer(train, codes, held_out, fitted, validation)
    started = time.perf_counter()
    linear = fit_tuned(train, codes, kind="logistic_regression", n_trials=n_trials)
    said = (linear.held_out[validation], network.validation)
    weights = fit_weights(said, codes[validation])
    both = vote((linear.predict(held_out), network.held_out), weights)
    seconds = network.seconds + time.perf_counter() - started
    print(f"  weights: linear {weights[0]:.2f}, transformer {weights[1]:.2f}", flush=True)
    return [
        Result(TRANSFORMER, names[network.held_out.argmax(axis=1)], network.seconds),
        Result(ENSEMBLE, names[both.argmax(axis=1)], seconds),
    ]


def predict_notebook(train: Cells, labels: np.ndarray, held_out: Cells) -> np.ndarray:
    """Train the notebook's network on highly variable genes, bins for values, once.

    Only a cell's expressed genes are its tokens: with all 1200 it would take hours. Optimiser, loss and
    stopping are the transformer's.
    """
    train = train.take_genes(find_common(train.counts))
    names, codes = np.unique(labels, return_inverse=True)
    fitted, validation = _split(train, codes)
    table = choose_panel(
        train.take_rows(fitted).counts,
        train.gene_ids,
        depth=train.depth[fitted],
        codes=codes[fitted],
        method="seurat",
        n_top_genes=_NOTEBOOK_GENES,
    )
    panel = table.index[table["in_panel"]]
    seen = _prepare(train, panel)
    network, _ = fit_transformer(
        seen[fitted],
        codes[fitted],
        seen[validation],
        codes[validation],
        network=NetworkConfig(len(panel), len(names), **_NOTEBOOK_SHAPE),
        training=TrainingConfig(seed=SEED, **_NOTEBOOK_TRAINING),
    )
    said = TransformerAnnotator([network]).predict_proba(_prepare(held_out, panel))
    return names[said.argmax(axis=1)]


def _ask_transformer(
    train: Cells, codes: np.ndarray, held_out: Cells, fitted: np.ndarray, validation: np.ndarray
) -> Said:
    """Train as the stage does: on a part, then on all cells for as many epochs."""
    started = time.perf_counter()
    table = choose_panel(
        train.counts[fitted],
        train.gene_ids,
        depth=train.depth[fitted],
        codes=codes[fitted],
        method="f_test",
        n_top_genes=0,
    )
    panel = rank_by_score(table)
    seen, shape = _prepare(train, panel), NetworkConfig(len(panel), int(codes.max()) + 1)
    training = TrainingConfig(seed=SEED)
    first, history = fit_transformer(
        seen[fitted],
        codes[fitted],
        seen[validation],
        codes[validation],
        network=shape,
        training=training,
    )
    last, _ = fit_transformer(
        seen, codes, None, None, network=shape, training=replace(training, max_epochs=len(history))
    )
    said = TransformerAnnotator([first]).predict_proba(seen[validation])
    answer = TransformerAnnotator([last]).predict_proba(_prepare(held_out, panel))
    return Said(said, answer, time.perf_counter() - started)


def _split(train: Cells, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Split training cells, by position: most to fit to, some to decide by; whole donors where known."""
    rows = np.arange(len(codes))
    if train.donors is None or len(np.unique(train.donors)) == 1:
        fitted, validation = train_test_split(
            rows, test_size=_VALIDATION_SHARE, stratify=codes, random_state=SEED
        )
        return np.sort(fitted), np.sort(validation)
    splitter = GroupShuffleSplit(1, test_size=1, random_state=SEED)
    return next(splitter.split(rows, groups=train.donors))


def _prepare(cells: Cells, panel: pd.Index) -> PreparedCells:
    """Bring cells to a panel."""
    return PreparedCells(align_genes(cells.counts, cells.gene_ids, panel), cells.depth)
