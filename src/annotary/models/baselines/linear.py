"""Linear models of log-normalised expression as two arrays."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from scipy.sparse import csr_matrix

from annotary.models.baselines.annotator import BaselineAnnotator


@dataclass(frozen=True)
class LinearAnnotator(BaselineAnnotator):
    """A linear score for each class.

    Attributes
    ----------
    coef
        Weights, ``(n_classes, n_panel)``, float32 or float64.
    intercept
        ``(n_classes,)``; ``-inf`` for a class that no fitted cell had.
    """

    coef: np.ndarray
    intercept: np.ndarray
    target_sum: float
    temperature: float = 1.0

    @classmethod
    def from_estimator(cls, estimator: Any, *, target_sum: float, n_classes: int) -> Self:
        """Take the weights of a fitted estimator; its classes are some of 0 to ``n_classes - 1``."""
        fitted, fitted_intercept = estimator.coef_, np.atleast_1d(estimator.intercept_)
        if len(estimator.classes_) == 2:
            # Two classes have one row, for the second; the softmax of (0, z) is its sigmoid.
            fitted = np.vstack([np.zeros_like(fitted), fitted])
            fitted_intercept = np.concatenate([[0.0], fitted_intercept])
        coef = np.zeros((n_classes, fitted.shape[1]), dtype=fitted.dtype)
        intercept = np.full(n_classes, -np.inf)
        coef[estimator.classes_] = fitted
        intercept[estimator.classes_] = fitted_intercept
        return cls(coef=coef, intercept=intercept, target_sum=target_sum)

    def score(self, log_expr: csr_matrix) -> np.ndarray:  # noqa: D102
        # float32 weights on float32 cells: a wider product would copy the cells.
        return np.asarray(log_expr @ self.coef.T, dtype=np.float64) + self.intercept

    def weigh_genes(self) -> np.ndarray:  # noqa: D102
        weights = self.coef.astype(np.float64)
        return (weights - weights.mean(axis=0)).T  # a shift of all classes changes no prediction

    def _get_arrays(self) -> dict[str, np.ndarray]:
        return {"coef": self.coef, "intercept": self.intercept}

    @classmethod
    def _from_arrays(cls, arrays: dict[str, np.ndarray], *, target_sum: float, temperature: float) -> Self:
        return cls(**arrays, target_sum=target_sum, temperature=temperature)
