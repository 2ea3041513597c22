"""A linear support vector machine, one class against the others; calibration makes margins probabilities."""

from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_matrix

from annotary.models.baselines.baseline import (
    CLASS_WEIGHT,
    Baseline,
    Params,
    suggest_class_weight,
    weigh_classes,
)
from annotary.models.baselines.linear import LinearAnnotator

if TYPE_CHECKING:
    import optuna
    from sklearn.svm import LinearSVC

_MAX_ITER = 5000


class LinearSvmAnnotator(LinearAnnotator):
    """Linear support vector machine with squared hinge loss."""

    kind = "linear_svm"


def _suggest(trial: "optuna.Trial") -> Params:
    return {"C": trial.suggest_float("C", 1e-4, 1, log=True), **suggest_class_weight(trial)}


def _fit(log_expr: csr_matrix, codes: np.ndarray, params: Params, *, seed: int, n_jobs: int) -> "LinearSVC":
    """Fit by LIBLINEAR, whose coordinate descent draws cells at random; it runs in one thread."""
    from sklearn.svm import LinearSVC

    estimator = LinearSVC(
        C=params["C"],
        class_weight=weigh_classes(codes, params[CLASS_WEIGHT]),
        max_iter=_MAX_ITER,
        random_state=seed,
    )
    return estimator.fit(log_expr, codes)


LINEAR_SVM = Baseline(
    kind=LinearSvmAnnotator.kind,
    notebook={"C": 0.01, CLASS_WEIGHT: "balanced"},
    start={"C": 0.003, CLASS_WEIGHT: "balanced", "n_top_genes": 0, "target_sum": 300.0},
    suggest=_suggest,
    fit=_fit,
    to_annotator=LinearSvmAnnotator.from_estimator,
)
