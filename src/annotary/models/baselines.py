"""Logistic regression and random forest: fitted by scikit-learn, predicted without it.

A registered model holds arrays alone, so it loads and predicts the same
whatever scikit-learn is installed later; only the fits import it.
"""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
from safetensors.numpy import load_file, save_file
from scipy.sparse import csr_matrix
from scipy.special import softmax

from annotary.models.base import Annotator
from annotary.models.forest import ForestArrays, export_forest
from annotary.quality.prepare import PreparedCells, log_normalize

if TYPE_CHECKING:
    import optuna
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression

WEIGHTS_NAME = "weights.safetensors"

Params = dict[str, Any]
"""Hyperparameters by their scikit-learn names."""

_TARGET_SUM = "target_sum"
_MAX_ITER = 5000


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


class Fit(Protocol):
    """Fit log-normalised cells ``(n_cells, n_panel)`` with codes ``(n_cells,)``."""

    def __call__(
        self, log_expr: csr_matrix, codes: np.ndarray, params: Params, *, seed: int, n_jobs: int
    ) -> Any:
        """Return the fitted scikit-learn estimator."""


class ToAnnotator(Protocol):
    """Turn a fitted scikit-learn estimator into a model."""

    def __call__(self, estimator: Any, *, target_sum: float) -> BaselineAnnotator:
        """Return the model."""


@dataclass(frozen=True)
class Baseline:
    """How a baseline is searched and fitted.

    Attributes
    ----------
    kind
        Kind of the model.
    first_trial
        Hyperparameters tried first: those of the seed notebook's grid.
    suggest
        Draws hyperparameters from the search space.
    fit
        Fits scikit-learn's estimator; the number of jobs does not change it.
    to_annotator
        Makes the model of the estimator.
    """

    kind: str
    first_trial: Params
    suggest: Callable[["optuna.Trial"], Params]
    fit: Fit
    to_annotator: ToAnnotator


def _suggest_logistic_regression(trial: "optuna.Trial") -> Params:
    return {
        "C": trial.suggest_float("C", 1e-3, 10, log=True),
        "class_weight": trial.suggest_categorical("class_weight", [None, "balanced"]),
    }


def _fit_logistic_regression(
    log_expr: csr_matrix, codes: np.ndarray, params: Params, *, seed: int, n_jobs: int
) -> "LogisticRegression":
    """Fit by L-BFGS, which draws nothing and gains nothing from several jobs.

    L-BFGS calls BLAS on vectors of some thousand numbers. Several BLAS threads
    made it 8 to 90 times slower on a busy machine of two cores, and another
    number of threads gives another last digit.
    """
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, user_api="blas"):
        return LogisticRegression(**params, max_iter=_MAX_ITER).fit(log_expr.astype(np.float64), codes)


def _suggest_random_forest(trial: "optuna.Trial") -> Params:
    """Draw from a space that costs at most four times the first trial."""
    return {
        "n_estimators": trial.suggest_int("n_estimators", 100, 300, step=50),
        "max_depth": trial.suggest_categorical("max_depth", [None, 16, 32]),
        "min_samples_split": trial.suggest_int("min_samples_split", 2, 8),
        "min_samples_leaf": trial.suggest_int("min_samples_leaf", 1, 5),
        "max_features": trial.suggest_categorical("max_features", ["sqrt", 0.05]),
        "class_weight": trial.suggest_categorical("class_weight", [None, "balanced"]),
    }


def _fit_random_forest(
    log_expr: csr_matrix, codes: np.ndarray, params: Params, *, seed: int, n_jobs: int
) -> "RandomForestClassifier":
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(**params, random_state=seed, n_jobs=n_jobs).fit(log_expr, codes)


BASELINES: dict[str, Baseline] = {
    baseline.kind: baseline
    for baseline in (
        Baseline(
            kind=LogisticRegressionAnnotator.kind,
            first_trial={"C": 0.1, "class_weight": "balanced"},
            suggest=_suggest_logistic_regression,
            fit=_fit_logistic_regression,
            to_annotator=LogisticRegressionAnnotator.from_estimator,
        ),
        Baseline(
            kind=RandomForestAnnotator.kind,
            first_trial={
                "n_estimators": 100,
                "max_depth": None,
                "min_samples_split": 2,
                "min_samples_leaf": 1,
                "max_features": "sqrt",
                "class_weight": "balanced",
            },
            suggest=_suggest_random_forest,
            fit=_fit_random_forest,
            to_annotator=RandomForestAnnotator.from_estimator,
        ),
    )
}
"""The baselines by kind."""
