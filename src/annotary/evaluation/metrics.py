"""Metrics of predictions on labelled cells; macro averages, since rare types count."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn import metrics

HEADLINE = "macro_f1"


@dataclass(frozen=True)
class Evaluation:
    """How well one model does on labelled cells.

    Attributes
    ----------
    metrics
        Named figures, each between 0 and 1 but ``log_loss``.
    per_class
        Precision, recall, F1 and support of each label, ``(n_classes, 4)``.
    confusion
        Cells by true label (rows) and predicted label (columns), ``(n_classes, n_classes)``.
    """

    metrics: dict[str, float]
    per_class: pd.DataFrame
    confusion: pd.DataFrame

    @property
    def confusion_by_row(self) -> pd.DataFrame:
        """Share of each true label's cells, ``(n_classes, n_classes)``; rows add up to 1."""
        support = self.confusion.sum(axis=1).clip(lower=1)
        return self.confusion.div(support, axis=0)


def evaluate_predictions(
    codes: np.ndarray, probabilities: np.ndarray, label_names: Sequence[str]
) -> Evaluation:
    """Compare predictions with the truth.

    Parameters
    ----------
    codes
        True labels, ``(n_cells,)``, positions in ``label_names``.
    probabilities
        Predicted probabilities, ``(n_cells, n_classes)``.
    label_names
        Names of the columns, ``(n_classes,)``.

    Returns
    -------
    Metrics, per-class table and confusion matrix. Averages are over the labels
    that are true or predicted in some cell.
    """
    predicted = probabilities.argmax(axis=1)
    every = np.arange(len(label_names))
    seen = np.union1d(codes, predicted)
    macro = metrics.precision_recall_fscore_support(
        codes, predicted, labels=seen, average="macro", zero_division=0.0
    )
    named = {
        "accuracy": metrics.accuracy_score(codes, predicted),
        "balanced_accuracy": metrics.recall_score(
            codes, predicted, labels=np.unique(codes), average="macro", zero_division=0.0
        ),
        HEADLINE: macro[2],
        "weighted_f1": metrics.f1_score(codes, predicted, average="weighted", zero_division=0.0),
        "macro_precision": macro[0],
        "macro_recall": macro[1],
        "log_loss": metrics.log_loss(codes, _normalized(probabilities), labels=every),
    }
    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        codes, predicted, labels=every, zero_division=0.0
    )
    names = pd.Index(label_names, name="label")
    confusion = metrics.confusion_matrix(codes, predicted, labels=every)
    return Evaluation(
        metrics={name: float(value) for name, value in named.items()},
        per_class=pd.DataFrame(
            {"precision": precision, "recall": recall, "f1": f1, "support": support}, index=names
        ),
        confusion=pd.DataFrame(confusion, index=names.rename("true"), columns=names.rename("predicted")),
    )


def _normalized(probabilities: np.ndarray) -> np.ndarray:
    """Make float32 rows add up to 1 in float64."""
    wide = probabilities.astype(np.float64)
    return wide / wide.sum(axis=1, keepdims=True)
