"""Two models of the accuracy benchmark on the same cells, and how sure their difference is."""

from collections.abc import Iterator
from string import ascii_letters

import numpy as np
import pandas as pd
from accuracy_models import SEED
from accuracy_networks import (
    ENSEMBLE,
    ENSEMBLE_3,
    LINEAR_PANEL,
    NOTEBOOK,
    TRANSFORMER,
    TRANSFORMER_3,
    TRANSFORMER_PANEL,
)
from sklearn.metrics import f1_score

from annotary.evaluation.bootstrap import compute_p, find_interval, resample

LINEAR = "logistic_regression"
PAIRS = (
    (TRANSFORMER, LINEAR),
    (TRANSFORMER_3, LINEAR),
    (TRANSFORMER_3, TRANSFORMER),
    (ENSEMBLE, LINEAR),
    (ENSEMBLE, TRANSFORMER),
    (ENSEMBLE_3, LINEAR),
    (TRANSFORMER_PANEL, LINEAR_PANEL),
    (TRANSFORMER_PANEL, LINEAR),
    (TRANSFORMER_PANEL, TRANSFORMER),
    (TRANSFORMER, NOTEBOOK),
)
"""Models that are compared cell by cell."""

_DRAWS = 2_000


def write_letters(labels: np.ndarray, names: np.ndarray) -> str:
    """Write labels as letters, a for the first name."""
    return "".join(ascii_letters[code] for code in np.searchsorted(names, labels))


def _read_letters(text: str) -> np.ndarray:
    """Read codes that were written as letters."""
    return np.array([ascii_letters.index(letter) for letter in text])


def compare(results: pd.DataFrame) -> pd.DataFrame:
    """Compare our networks with the tuned logistic regression, and the ensemble with both, cell by cell.

    Cells of each true label are drawn again within each fold, for both models alike; macro-F1 of a draw is
    the mean over folds. The models are not trained again.

    Returns
    -------
    Mean difference of macro-F1 with its interval (95 %) and two-sided p, by dataset and pair of models.
    """
    rows = []
    for (dataset, first, second), folds in _pair(results):
        rng = np.random.default_rng(SEED)
        draws = np.mean([draw_difference(*texts, rng) for texts in folds], axis=0)
        scores = [[_score(truth, calls) for calls in pair] for truth, *pair in folds]
        low, high = find_interval(draws)
        rows.append(
            {
                "dataset": dataset,
                "first": first,
                "second": second,
                "difference": float(np.mean([one - other for one, other in scores])),
                "low": float(low),
                "high": float(high),
                "p": compute_p(draws),
            }
        )
    return pd.DataFrame(rows)


def _pair(results: pd.DataFrame) -> Iterator[tuple[tuple[str, str, str], list[tuple[str, str, str]]]]:
    """Pair the results that are compared: truth and both models' calls of each fold."""
    known = results.dropna(subset=["calls"]) if "calls" in results else results.iloc[:0]
    for dataset, there in known.groupby("dataset", sort=False):
        models = {model: rows.set_index("fold") for model, rows in there.groupby("model")}
        for first, second in PAIRS:
            if first not in models or second not in models:
                continue
            one, other = models[first], models[second]
            folds = one.index.intersection(other.index)
            texts = [
                (one.loc[fold, "truth"], one.loc[fold, "calls"], other.loc[fold, "calls"]) for fold in folds
            ]
            yield (str(dataset), first, second), texts


def draw_difference(truth: str, first: str, second: str, rng: np.random.Generator) -> np.ndarray:
    """Draw the cells of a fold again: macro-F1 of the first model less the second's, ``(n_draws,)``."""
    codes, calls = _read_letters(truth), np.stack([_read_letters(first), _read_letters(second)])
    n_classes = int(max(codes.max(), calls.max())) + 1
    drawn = resample(codes, calls, n_classes=n_classes, n_draws=_DRAWS, rng=rng).macro_f1
    return drawn[0] - drawn[1]


def _score(truth: str, calls: str) -> float:
    """Compute macro-F1 of calls."""
    return float(f1_score(list(truth), list(calls), average="macro"))


def make_comparison(results: pd.DataFrame) -> str:
    """Write the paired comparison as README.md shows it."""
    lines = ["| data | model | less | difference of macro-F1 (95 %) | p |", "|---|---|---|---|---|"]
    for row in compare(results).itertuples():
        names = [name.replace("_", " ") for name in (row.first, row.second)]
        lines.append(
            f"| {row.dataset} | {' | '.join(names)} | {row.difference:+.4f} ({row.low:+.4f} to "
            f"{row.high:+.4f}) | {row.p:.3f} |"
        )
    return "\n".join(lines) if len(lines) > 2 else ""
