"""Multinomial logistic regression with an L2, elastic-net or L1 penalty."""

import warnings
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
    from sklearn.linear_model import LogisticRegression

_L2 = 0.0
_L1_RATIOS = (_L2, 0.1, 0.5, 1.0)
_MAX_ITER = 5000
_SAGA_MAX_ITER = 50
_SAGA_TOL = 1e-3


class LogisticRegressionAnnotator(LinearAnnotator):
    """Multinomial logistic regression."""

    kind = "logistic_regression"


def _suggest(trial: "optuna.Trial") -> Params:
    return {
        "C": trial.suggest_float("C", 1e-3, 10, log=True),
        "l1_ratio": trial.suggest_categorical("l1_ratio", _L1_RATIOS),
        **suggest_class_weight(trial),
    }


def _fit(
    log_expr: csr_matrix, codes: np.ndarray, params: Params, *, seed: int, n_jobs: int
) -> "LogisticRegression":
    """Fit by L-BFGS, or by SAGA where there is an L1 part.

    L-BFGS calls BLAS on vectors of some thousand numbers. Several BLAS threads
    made it 8 to 90 times slower on a busy machine of two cores, and another
    number of threads gives another last digit. Newton's method with conjugate
    gradients takes half to all of its time, but is further from the optimum at the same tolerance.
    SAGA is stopped early: the folds judge the weights that it has by then.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    smooth = params["l1_ratio"] == _L2
    estimator = LogisticRegression(
        C=params["C"],
        l1_ratio=params["l1_ratio"],
        class_weight=weigh_classes(codes, params[CLASS_WEIGHT]),
        solver="lbfgs" if smooth else "saga",
        max_iter=_MAX_ITER if smooth else _SAGA_MAX_ITER,
        tol=1e-4 if smooth else _SAGA_TOL,
        random_state=seed,
    )
    with threadpool_limits(1, user_api="blas"), warnings.catch_warnings():
        if not smooth:
            warnings.simplefilter("ignore", ConvergenceWarning)
        return estimator.fit(log_expr, codes)


LOGISTIC_REGRESSION = Baseline(
    kind=LogisticRegressionAnnotator.kind,
    notebook={"C": 0.1, "l1_ratio": _L2, CLASS_WEIGHT: "balanced"},
    start={"C": 0.3, "l1_ratio": _L2, CLASS_WEIGHT: "balanced", "n_top_genes": 0, "target_sum": 300.0},
    suggest=_suggest,
    fit=_fit,
    to_annotator=LogisticRegressionAnnotator.from_estimator,
)
