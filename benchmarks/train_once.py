"""Train one model on four fifths of a file's cells, label the others, and print what that took as JSON.

    python benchmarks/train_once.py FILE MODEL

MODEL is one of ``MODELS``. Labels are in ``obs["cell_type"]``; the split is stratified and seeded, so that
all models see the same cells. Seconds are those of training and labelling, from counts in memory to labels:
reading the file and importing libraries are not in them.
"""

import argparse
import json
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import scanpy as sc
from accuracy import read_data
from accuracy_comparison import write_letters
from accuracy_models import SEED, Cells, Predict, find_common, predict_celltypist, predict_tuned
from anndata import AnnData
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.model_selection import GridSearchCV, train_test_split

N_TOP_GENES = 1200
TEST_SHARE = 0.2

_N_FOLDS = 3
_GRIDS = {
    "logistic regression": (
        LogisticRegression(random_state=SEED, class_weight="balanced"),
        {"C": [0.1], "max_iter": [100, 300]},
    ),
    "random forest": (
        RandomForestClassifier(random_state=SEED, class_weight="balanced"),
        {"n_estimators": [100], "max_depth": [None], "min_samples_split": [2], "min_samples_leaf": [1]},
    ),
}


def predict_notebook(train: Cells, labels: np.ndarray, held_out: Cells, *, model: str) -> np.ndarray:
    """Search the notebook's grid on a dense array of highly variable genes, and label the held-out cells.

    As in the notebook, these are chosen among genes that ten cells express. Its own scoring fails for more
    than two classes, so macro-F1 takes its place.
    """
    common = find_common(train.counts)
    train, held_out = train.take_genes(common), held_out.take_genes(common)
    log_expr = train.log_normalize()
    table = sc.pp.highly_variable_genes(AnnData(log_expr), n_top_genes=N_TOP_GENES, inplace=False)
    chosen = table["highly_variable"].to_numpy()
    estimator, grid = _GRIDS[model]
    search = GridSearchCV(estimator, grid, cv=_N_FOLDS, scoring="f1_macro", n_jobs=-1, refit=True)
    search.fit(log_expr[:, chosen].toarray(), labels)
    return search.predict(held_out.log_normalize()[:, chosen].toarray())


OURS = {
    "annotary logistic regression": ("logistic_regression", 1),
    "annotary logistic regression, two trials": ("logistic_regression", 2),
    "annotary random forest": ("random_forest", 1),
}
NOTEBOOK = {
    "logistic regression": "notebook logistic regression",
    "random forest": "notebook random forest",
}
CELLTYPIST = "CellTypist"

MODELS: dict[str, Predict] = {
    **{name: partial(predict_tuned, kind=kind, n_trials=n_trials) for name, (kind, n_trials) in OURS.items()},
    **{name: partial(predict_notebook, model=model) for model, name in NOTEBOOK.items()},
    CELLTYPIST: predict_celltypist,
}
"""What is compared; our first trial has the notebook's hyperparameters on as many genes, chosen anew in each
fold, and the second has the hyperparameters that did well on other data, on all genes."""


def train_once(path: Path, predict: Predict) -> dict[str, object]:
    """Train and score."""
    data = read_data(str(path))
    train, held_out = train_test_split(
        np.arange(len(data.labels)), test_size=TEST_SHARE, stratify=data.labels, random_state=SEED
    )
    seen, unseen = data.cells.take_rows(train), data.cells.take_rows(held_out)
    started = time.perf_counter()
    predicted = predict(seen, data.labels[train], unseen)
    seconds = time.perf_counter() - started
    names = np.unique(data.labels)
    return {
        "cells": len(data.labels),
        "genes": len(data.cells.gene_ids),
        "seconds": seconds,
        "macro_f1": float(f1_score(data.labels[held_out], predicted, average="macro")),
        "truth": write_letters(data.labels[held_out], names),
        "calls": write_letters(predicted, names),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Train and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("path", type=Path)
    parser.add_argument("model", choices=MODELS)
    options = parser.parse_args(arguments)
    print(json.dumps(train_once(options.path, MODELS[options.model])))


if __name__ == "__main__":
    main()
