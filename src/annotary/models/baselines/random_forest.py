"""Random forest."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
from scipy.sparse import csr_matrix

from annotary.models.baselines.annotator import BaselineAnnotator
from annotary.models.baselines.baseline import (
    CLASS_WEIGHT,
    Baseline,
    Params,
    suggest_class_weight,
    weigh_classes,
)
from annotary.models.forest import ForestArrays, export_forest, weigh_splits

if TYPE_CHECKING:
    import optuna
    from sklearn.ensemble import RandomForestClassifier

_GENE_WEIGHTS = "gene_weights"


@dataclass(frozen=True)
class RandomForestAnnotator(BaselineAnnotator):
    """Random forest.

    Attributes
    ----------
    forest
        Its trees.
    gene_weights
        What :func:`weigh_splits` gives, ``(n_panel, n_classes)``.
    """

    kind = "random_forest"

    forest: ForestArrays
    gene_weights: np.ndarray
    target_sum: float
    temperature: float = 1.0

    @classmethod
    def from_estimator(
        cls, estimator: "RandomForestClassifier", *, target_sum: float, n_classes: int
    ) -> Self:
        """Take the trees of a fitted estimator; its classes are some of 0 to ``n_classes - 1``."""
        return cls(
            forest=export_forest(estimator, n_classes=n_classes),
            gene_weights=weigh_splits(estimator, n_classes=n_classes),
            target_sum=target_sum,
        )

    def score(self, log_expr: csr_matrix) -> np.ndarray:
        """Score by the logarithm of the trees' mean; a class without a vote gets half of one tree's."""
        proba = self.forest.predict_proba(log_expr)
        return np.log(np.maximum(proba, 0.5 / len(self.forest.roots)))

    def weigh_genes(self) -> np.ndarray:  # noqa: D102
        return self.gene_weights.astype(np.float64)

    def _get_arrays(self) -> dict[str, np.ndarray]:
        return {**asdict(self.forest), _GENE_WEIGHTS: self.gene_weights}

    @classmethod
    def _from_arrays(cls, arrays: dict[str, np.ndarray], *, target_sum: float, temperature: float) -> Self:
        gene_weights = arrays.pop(_GENE_WEIGHTS)
        return cls(
            forest=ForestArrays(**arrays),
            gene_weights=gene_weights,
            target_sum=target_sum,
            temperature=temperature,
        )


def _suggest(trial: "optuna.Trial") -> Params:
    """Draw from a space whose trials cost at most some times the first: a share of all genes would not."""
    return {
        "n_estimators": trial.suggest_int("n_estimators", 100, 300, step=50),
        "max_depth": trial.suggest_categorical("max_depth", [None, 16, 32]),
        "min_samples_split": trial.suggest_int("min_samples_split", 2, 8),
        "min_samples_leaf": trial.suggest_int("min_samples_leaf", 1, 5),
        "max_features": trial.suggest_categorical("max_features", ["sqrt", "log2"]),
        **suggest_class_weight(trial),
    }


def _fit(
    log_expr: csr_matrix, codes: np.ndarray, params: Params, *, seed: int, n_jobs: int
) -> "RandomForestClassifier":
    from sklearn.ensemble import RandomForestClassifier

    own = params | {CLASS_WEIGHT: weigh_classes(codes, params[CLASS_WEIGHT])}
    return RandomForestClassifier(**own, random_state=seed, n_jobs=n_jobs).fit(log_expr, codes)


_NOTEBOOK: Params = {
    "n_estimators": 100,
    "max_depth": None,
    "min_samples_split": 2,
    "min_samples_leaf": 1,
    "max_features": "sqrt",
    CLASS_WEIGHT: "balanced",
}

RANDOM_FOREST = Baseline(
    kind=RandomForestAnnotator.kind,
    notebook=_NOTEBOOK,
    start=_NOTEBOOK | {"panel_method": "f_test", "n_top_genes": 300},
    suggest=_suggest,
    fit=_fit,
    to_annotator=RandomForestAnnotator.from_estimator,
)
