"""How a baseline is searched and fitted."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from scipy.sparse import csr_matrix

from annotary.models.baselines.annotator import BaselineAnnotator

if TYPE_CHECKING:
    import optuna

Params = dict[str, Any]
"""Hyperparameters by their names."""

CLASS_WEIGHT = "class_weight"
CLASS_WEIGHTS = ("none", "balanced", "sqrt")


class Fit(Protocol):
    """Fit log-normalised cells ``(n_cells, n_panel)`` with codes ``(n_cells,)``."""

    def __call__(
        self, log_expr: csr_matrix, codes: np.ndarray, params: Params, *, seed: int, n_jobs: int
    ) -> Any:
        """Return the fitted scikit-learn estimator."""


class ToAnnotator(Protocol):
    """Turn a fitted scikit-learn estimator into a model of ``n_classes`` classes, not calibrated yet."""

    def __call__(self, estimator: Any, *, target_sum: float, n_classes: int) -> BaselineAnnotator:
        """Return the model."""


@dataclass(frozen=True)
class Baseline:
    """How a baseline is searched and fitted.

    Attributes
    ----------
    kind
        Kind of the model.
    notebook
        Hyperparameters of the seed notebook's grid, or the nearest to it: tried first.
    start
        Hyperparameters that did well on other data, tried next; they may name the preparation of cells too.
    suggest
        Draws hyperparameters from the search space.
    fit
        Fits scikit-learn's estimator; the number of jobs does not change it.
    to_annotator
        Makes the model of the estimator.
    folds_at_once
        Whether folds are fitted side by side in threads: for a fit that takes one processor, holds no lock
        and draws no numbers from a generator that others share.
    """

    kind: str
    notebook: Params
    start: Params
    suggest: Callable[["optuna.Trial"], Params]
    fit: Fit
    to_annotator: ToAnnotator
    folds_at_once: bool = False


def suggest_class_weight(trial: "optuna.Trial") -> Params:
    """Draw how classes are weighted."""
    return {CLASS_WEIGHT: trial.suggest_categorical(CLASS_WEIGHT, CLASS_WEIGHTS)}


def weigh_classes(codes: np.ndarray, how: str) -> dict[int, float] | None:
    """Weigh classes by the inverse of their size (``balanced``), its root (``sqrt``), or alike (``none``).

    Parameters
    ----------
    codes
        Encoded labels, ``(n_cells,)``.
    how
        One of ``CLASS_WEIGHTS``.

    Returns
    -------
    Weight of each class that some cell has, as scikit-learn takes them.
    """
    if how == "none":
        return None
    classes, sizes = np.unique(codes, return_counts=True)
    balanced = len(codes) / (len(classes) * sizes)
    weights = balanced if how == "balanced" else np.sqrt(balanced)
    return {int(code): float(weight) for code, weight in zip(classes, weights, strict=True)}
