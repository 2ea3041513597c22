"""How well cells of a label that a model was never shown are told from those that it knows.

    python benchmarks/confidence.py --data sorted_pbmc_3874.h5ad [--out benchmarks/confidence.csv]

Labels come from ``obs["cell_type"]``. One label after the other is held out. Of the other labels' cells,
64 % train a logistic regression on all genes, 16 % calibrate it, and 20 % are the known cells that the
held-out label's are told from, by

- annotary's score (``annotary_ood_score``), made of the next two;
- the distance from the nearest label's cells;
- the entropy of the probabilities;
- the energy of the model's scores (Liu et al. 2020, *NeurIPS*);
- the fewness of expressed genes.

Figures are areas under the ROC curve (0.5 is chance), the shares of known and of held-out cells that are
called out of distribution or unassigned, and the coverage of the known cells' prediction sets.
"""

import argparse
import time
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix
from scipy.special import logsumexp
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, train_test_split

from annotary.data.labels import read_labels
from annotary.models.baselines import BASELINES, BaselineAnnotator
from annotary.models.confidence.confidence import Confidence, ConfidenceSettings
from annotary.models.confidence.held_out import FittedCells, HeldOutCells, calibrate_probabilities
from annotary.models.confidence.novelty import LabelGaussians, compute_entropy
from annotary.quality.prepare import PreparedCells, log_normalize

LABEL_KEY = "cell_type"
SEED = 42
SCORES = ("ood_score", "distance", "entropy", "energy", "few_genes")
SETTINGS = ConfidenceSettings(conformal_alpha=0.1, min_precision=0.9, ood_rate=0.01)

_MIN_CELLS = 10
_TARGET_SUM = 300.0
_PARAMS = {"C": 0.3, "l1_ratio": 0.0, "class_weight": "balanced"}
_BASELINE = BASELINES["logistic_regression"]
_TITLES = {
    "ood_score": "OOD score",
    "distance": "distance",
    "entropy": "entropy",
    "energy": "energy",
    "few_genes": "few genes",
    "known_ood": "known called OOD",
    "new_ood": "held-out called OOD",
    "known_unassigned": "known unassigned",
    "new_unassigned": "held-out unassigned",
    "coverage": "coverage of known",
}


def read_cells(path: Path) -> tuple[csr_matrix, np.ndarray]:
    """Read log-normalised cells ``(n_cells, n_genes)`` and their labels ``(n_cells,)``."""
    adata = anndata.read_h5ad(path)
    labels = read_labels(adata.obs, LABEL_KEY, place=path.name)
    counts = csr_matrix(adata.X[labels.notna().to_numpy()], dtype=np.float32)
    depth = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
    counts = counts[:, np.flatnonzero((counts > 0).sum(axis=0).A1 >= _MIN_CELLS)]
    cells = PreparedCells(counts=counts, depth=depth)
    return log_normalize(cells, target_sum=_TARGET_SUM), labels.dropna().to_numpy(dtype=object)


def hold_out(log_expr: csr_matrix, labels: np.ndarray, label: str) -> dict[str, object]:
    """Train without a label, and tell its cells from others that were not trained on."""
    known, new = np.flatnonzero(labels != label), np.flatnonzero(labels == label)
    _, codes = np.unique(labels[known], return_inverse=True)
    rest, tested = train_test_split(np.arange(len(known)), test_size=0.2, stratify=codes, random_state=SEED)
    fitted, validated = train_test_split(rest, test_size=0.2, stratify=codes[rest], random_state=SEED)
    estimator = _BASELINE.fit(log_expr[known[fitted]], codes[fitted], _PARAMS, seed=SEED, n_jobs=1)
    model = _BASELINE.to_annotator(estimator, target_sum=_TARGET_SUM, n_classes=int(codes.max()) + 1)
    asked = log_expr[np.concatenate([known[tested], new])]
    scores = model.score(asked)
    confidence = learn_confidence(
        model, log_expr[known[fitted]], codes[fitted], log_expr[known[validated]], codes[validated]
    )
    probabilities = confidence.calibrate(to_probabilities(scores))
    ood_score = confidence.score_novelty(asked, probabilities)
    is_new = np.arange(asked.shape[0]) >= len(tested)
    unassigned, ood = confidence.find_unassigned(probabilities), ood_score > 1
    sets = confidence.make_sets(probabilities)[np.arange(len(tested)), codes[tested]]
    strangeness = {
        "ood_score": ood_score,
        "distance": confidence.novelty.gaussians.measure_distance(asked),
        "entropy": compute_entropy(probabilities),
        "energy": -logsumexp(scores, axis=1),
        "few_genes": -np.diff(asked.indptr),
    }
    return {
        "label": label,
        "cells": len(new),
        **{name: roc_auc_score(is_new, values) for name, values in strangeness.items()},
        "known_ood": ood[~is_new].mean(),
        "new_ood": ood[is_new].mean(),
        "known_unassigned": unassigned[~is_new].mean(),
        "new_unassigned": unassigned[is_new].mean(),
        "coverage": sets.mean(),
    }


def learn_confidence(
    model: BaselineAnnotator,
    fitted: csr_matrix,
    fitted_codes: np.ndarray,
    validated: csr_matrix,
    validated_codes: np.ndarray,
) -> Confidence:
    """Learn a model's confidence on cells ``(n_validated, n_genes)`` that it was not fitted to."""
    probabilities, temperature = calibrate_probabilities(
        to_probabilities(model.score(validated)), validated_codes, fold(validated_codes)
    )
    held_out = HeldOutCells(
        probabilities=probabilities,
        codes=validated_codes,
        distances=LabelGaussians.fit(fitted, fitted_codes).measure_distance(validated),
        temperature=temperature,
    )
    return Confidence.fit(held_out, FittedCells(fitted, fitted_codes), SETTINGS)


def to_probabilities(scores: np.ndarray) -> np.ndarray:
    """Make probabilities of scores, ``(n_cells, n_classes)``."""
    return np.exp(scores - logsumexp(scores, axis=1, keepdims=True))


def fold(codes: np.ndarray) -> np.ndarray:
    """Put cells into three stratified folds, ``(n_cells,)``."""
    folds = np.empty(len(codes), dtype=np.int64)
    splitter = StratifiedKFold(3, shuffle=True, random_state=SEED)
    for number, (_, members) in enumerate(splitter.split(codes, codes)):
        folds[members] = number
    return folds


def make_markdown(table: pd.DataFrame) -> str:
    """Write the table for the README: AUROC to two places, shares in percent, and the mean of all labels."""
    mean = table.mean(numeric_only=True).to_frame().T.assign(label="mean")
    lines = [
        "| held-out label | cells | " + " | ".join(_TITLES.values()) + " |",
        "|" + "---|" * (2 + len(_TITLES)),
    ]
    for row in pd.concat([table, mean]).to_dict(orient="records"):
        shown = [f"{row[name]:.2f}" if name in SCORES else f"{row[name]:.1%}" for name in _TITLES]
        cells = "" if row["label"] == "mean" else f"{row['cells']:.0f}"
        lines.append(f"| {row['label']} | {cells} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def main() -> None:
    """Hold out each label of a file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".csv"))
    arguments = parser.parse_args()
    started = time.perf_counter()
    log_expr, labels = read_cells(arguments.data)
    rows = []
    for label in np.unique(labels):
        rows.append(hold_out(log_expr, labels, label))
        print(f"{label}: AUROC {rows[-1]['ood_score']:.3f}", flush=True)
    table = pd.DataFrame(rows)
    table.round(4).to_csv(arguments.out, index=False)
    print(make_markdown(table), f"{time.perf_counter() - started:.0f} seconds", sep="\n")


if __name__ == "__main__":
    main()
