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
from transformer_speed import NOTEBOOK_SIZE

from annotary.data.genes import align_genes
from annotary.models.ensemble import fit_weights, vote
from annotary.models.transformer.classifier import TransformerAnnotator
from annotary.models.transformer.config import NetworkConfig, TrainingConfig
from annotary.models.transformer.training import fit_transformer
from annotary.quality.panel import choose_panel, rank_by_score
from annotary.quality.prepare import PreparedCells

TRANSFORMER, ENSEMBLE, NOTEBOOK = "transformer", "ensemble", "notebook transformer"
TRANSFORMER_3, ENSEMBLE_3 = "transformer of 3", "ensemble of 3"
PANEL_GENES = 1200
TRANSFORMER_PANEL = f"transformer on {PANEL_GENES} genes"
LINEAR_PANEL = f"logistic regression on {PANEL_GENES} genes"

_VALIDATION_SHARE = 1 / 8  # as 10 % beside 70 % training cells
_NOTEBOOK_GENES = 1200
_NOTEBOOK_TRAINING = {"learning_rate": 1e-3, "gene_learning_rate": 0.02}


@dataclass(frozen=True)
class Said:
    """Probabilities of a model: of validation cells it was not fitted to, and of the held-out cells.

    Attributes
    ----------
    rows
        Positions of the validation cells, ``(n_validation,)``.
    validation, held_out
        ``(n_cells, n_classes)``.
    seconds
        What training and both took.
    """

    rows: np.ndarray
    validation: np.ndarray
    held_out: np.ndarray
    seconds: float


def run_transformer(
    train: Cells,
    labels: np.ndarray,
    held_out: Cells,
    *,
    n_trials: int,
    names: tuple[str, str] = (TRANSFORMER, ENSEMBLE),
    n_networks: int = 1,
) -> list[Result]:
    """Train the transformer with its defaults, tune the linear model, and let both vote.

    Returns
    -------
    Results of the transformer and of the vote, by these ``names``.
    """
    train = train.take_genes(find_common(train.counts))
    classes, codes = np.unique(labels, return_inverse=True)
    network = train_and_ask(train, codes, held_out, n_networks=n_networks)
    started = time.perf_counter()
    linear = fit_tuned(train, codes, kind="logistic_regression", n_trials=n_trials)
    said = (linear.held_out[network.rows], network.validation)
    weights = fit_weights(said, codes[network.rows])
    both = vote((linear.predict(held_out), network.held_out), weights)
    seconds = network.seconds + time.perf_counter() - started
    print(f"  weights: linear {weights[0]:.2f}, transformer {weights[1]:.2f}", flush=True)
    return [
        Result(names[0], classes[network.held_out.argmax(axis=1)], network.seconds),
        Result(names[1], classes[both.argmax(axis=1)], seconds),
    ]


def predict_on_panel(train: Cells, labels: np.ndarray, held_out: Cells) -> np.ndarray:
    """Train the transformer with its defaults, but on a panel chosen by an F test, and label cells."""
    train = train.take_genes(find_common(train.counts))
    names, codes = np.unique(labels, return_inverse=True)
    return names[train_and_ask(train, codes, held_out, n_genes=PANEL_GENES).held_out.argmax(axis=1)]


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
        network=NetworkConfig(len(panel), len(names), **NOTEBOOK_SIZE),
        training=TrainingConfig(seed=SEED, **_NOTEBOOK_TRAINING),
    )
    said = TransformerAnnotator([network]).predict_proba(_prepare(held_out, panel))
    return names[said.argmax(axis=1)]


def train_and_ask(
    train: Cells, codes: np.ndarray, held_out: Cells, *, n_genes: int = 0, n_networks: int = 1
) -> Said:
    """Train each network as the stage does: on a part, then on all cells for as many epochs.

    Parameters
    ----------
    train, codes
        Cells to train on, and their encoded labels ``(n_train,)``.
    held_out
        Cells to label.
    n_genes
        Genes of the panel; 0 takes all.
    n_networks
        Networks of different seeds, whose probabilities are averaged.
    """
    started = time.perf_counter()
    fitted, validation = _split(train, codes)
    table = choose_panel(
        train.counts[fitted],
        train.gene_ids,
        depth=train.depth[fitted],
        codes=codes[fitted],
        method="f_test",
        n_top_genes=n_genes,
    )
    panel = rank_by_score(table[table["in_panel"]])
    seen, shape = _prepare(train, panel), NetworkConfig(len(panel), int(codes.max()) + 1)
    first, last = [], []
    for number in range(n_networks):
        training = TrainingConfig(seed=SEED + number)
        network, history = fit_transformer(
            seen[fitted],
            codes[fitted],
            seen[validation],
            codes[validation],
            network=shape,
            training=training,
        )
        first.append(network)
        training = replace(training, max_epochs=len(history))
        last.append(fit_transformer(seen, codes, None, None, network=shape, training=training)[0])
    said = TransformerAnnotator(first).predict_proba(seen[validation])
    answer = TransformerAnnotator(last).predict_proba(_prepare(held_out, panel))
    return Said(validation, said, answer, time.perf_counter() - started)


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
