"""Logistic regression and random forest, predicted without scikit-learn.

A registered model holds arrays alone, so it loads and predicts the same
whatever scikit-learn is installed later.
"""

from abc import abstractmethod
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
from safetensors.numpy import load_file, save_file
from scipy.sparse import csr_matrix
from scipy.special import softmax

from annotary.models.base import Annotator
from annotary.models.forest import ForestArrays, export_forest
from annotary.quality.prepare import PreparedCells, log_normalize

if TYPE_CHECKING:
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression

WEIGHTS_NAME = "weights.safetensors"

_TARGET_SUM = "target_sum"


class BaselineAnnotator(Annotator):
    """A model of log-normalised expression.

    Attributes
    ----------
    target_sum
        Counts that each cell is scaled to before log1p.
    """

    target_sum: float

    def predict_proba(self, cells: PreparedCells, *, device: str = "auto") -> np.ndarray:  # noqa: D102
        log_expr = log_normalize(cells, target_sum=self.target_sum)
        return self.predict_log_expr(log_expr).astype(np.float32)

    @abstractmethod
    def predict_log_expr(self, log_expr: csr_matrix) -> np.ndarray:
        """Predict from log-normalised values.

        Parameters
        ----------
        log_expr
            What :func:`log_normalize` gives, ``(n_cells, n_panel)``, float32.

        Returns
        -------
        Probabilities, ``(n_cells, n_classes)``, float64.
        """

    def save(self, folder: Path) -> None:  # noqa: D102
        arrays = self._get_arrays() | {_TARGET_SUM: np.array([self.target_sum])}
        # safetensors writes the memory as it lies, whatever the strides say.
        contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        save_file(contiguous, folder / WEIGHTS_NAME)

    @classmethod
    def load(cls, folder: Path) -> Self:  # noqa: D102
        arrays = load_file(folder / WEIGHTS_NAME)
        target_sum = float(arrays.pop(_TARGET_SUM)[0])
        return cls._from_arrays(arrays, target_sum=target_sum)

    @abstractmethod
    def _get_arrays(self) -> dict[str, np.ndarray]:
        """Give the arrays to save."""

    @classmethod
    @abstractmethod
    def _from_arrays(cls, arrays: dict[str, np.ndarray], *, target_sum: float) -> Self:
        """Take the arrays that were saved."""


@dataclass(frozen=True)
class LogisticRegressionAnnotator(BaselineAnnotator):
    """Multinomial logistic regression.

    Attributes
    ----------
    coef
        Weights, ``(n_classes, n_panel)``, float64.
    intercept
        ``(n_classes,)``, float64.
    """

    kind = "logistic_regression"

    coef: np.ndarray
    intercept: np.ndarray
    target_sum: float

    @classmethod
    def from_estimator(cls, estimator: "LogisticRegression", *, target_sum: float) -> Self:
        """Take the weights of a fitted estimator whose classes are 0 to ``n_classes - 1``."""
        coef, intercept = estimator.coef_, estimator.intercept_
        if len(coef) == 1:
            # Two classes have one row, for class 1; the softmax of (0, z) is its sigmoid.
            coef = np.vstack([np.zeros_like(coef), coef])
            intercept = np.concatenate([[0.0], intercept])
        return cls(coef=coef, intercept=intercept, target_sum=target_sum)

    def predict_log_expr(self, log_expr: csr_matrix) -> np.ndarray:  # noqa: D102
        return softmax(log_expr @ self.coef.T + self.intercept, axis=1)

    def _get_arrays(self) -> dict[str, np.ndarray]:
        return {"coef": self.coef, "intercept": self.intercept}

    @classmethod
    def _from_arrays(cls, arrays: dict[str, np.ndarray], *, target_sum: float) -> Self:
        return cls(**arrays, target_sum=target_sum)


@dataclass(frozen=True)
class RandomForestAnnotator(BaselineAnnotator):
    """Random forest.

    Attributes
    ----------
    forest
        Its trees.
    """

    kind = "random_forest"

    forest: ForestArrays
    target_sum: float

    @classmethod
    def from_estimator(cls, estimator: "RandomForestClassifier", *, target_sum: float) -> Self:
        """Take the trees of a fitted estimator whose classes are 0 to ``n_classes - 1``."""
        return cls(forest=export_forest(estimator), target_sum=target_sum)

    def predict_log_expr(self, log_expr: csr_matrix) -> np.ndarray:  # noqa: D102
        return self.forest.predict_proba(log_expr)

    def _get_arrays(self) -> dict[str, np.ndarray]:
        return asdict(self.forest)

    @classmethod
    def _from_arrays(cls, arrays: dict[str, np.ndarray], *, target_sum: float) -> Self:
        return cls(forest=ForestArrays(**arrays), target_sum=target_sum)
