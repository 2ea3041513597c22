"""Optuna's search for a baseline's hyperparameters, by cross-validation."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import optuna
from scipy.sparse import csr_matrix
from sklearn.metrics import f1_score
from sklearn.model_selection import StratifiedKFold

from annotary.errors import LabelError
from annotary.models.base import Annotator
from annotary.models.baselines import Baseline, Params
from annotary.progress import track
from annotary.quality.prepare import PreparedCells, log_normalize

_MIN_FOLDS = 2


@dataclass(frozen=True)
class TrialRecord:
    """One trial.

    Attributes
    ----------
    number
        Position in the search, from 0.
    params
        Hyperparameters.
    value
        Mean macro-F1 over the folds, 0 to 1.
    fold_scores
        Macro-F1 of each fold, ``(n_folds,)``.
    seconds
        Wall time.
    """

    number: int
    params: Params
    value: float
    fold_scores: tuple[float, ...]
    seconds: float


@dataclass(frozen=True)
class TuningResult:
    """What a search found.

    Attributes
    ----------
    best_params, best_score
        Hyperparameters and mean macro-F1 of the best trial; the earliest wins a tie.
    trials
        Trials in their order, ``(n_trials,)``.
    study
        Optuna's study, in memory.
    """

    best_params: Params
    best_score: float
    trials: list[TrialRecord]
    study: optuna.Study


def tune(
    baseline: Baseline,
    cells: PreparedCells,
    codes: np.ndarray,
    *,
    n_trials: int,
    n_folds: int,
    seed: int,
    target_sum: float,
    on_trial: Callable[[TrialRecord], None],
) -> TuningResult:
    """Search hyperparameters by stratified cross-validation.

    Parameters
    ----------
    baseline
        What to tune.
    cells, codes
        Training and validation cells ``(n_cells, n_panel)`` with their labels ``(n_cells,)``.
    n_trials
        Trials; the first one is ``baseline.first_trial``.
    n_folds
        Folds of a trial; fewer when the smallest class has fewer cells.
    seed
        Seed of the folds, of the sampler and of every fit.
    target_sum
        Counts that each cell is scaled to before log1p.
    on_trial
        Called as each trial ends.

    Raises
    ------
    LabelError
        If a class has a single cell.
    """
    log_expr = log_normalize(cells, target_sum=target_sum)
    folds = split_folds(codes, n_folds=n_folds, seed=seed)
    trials: list[TrialRecord] = []
    with _quiet_optuna():
        study = optuna.create_study(direction="maximize", sampler=_make_sampler(n_trials, seed))
        study.enqueue_trial(baseline.first_trial)
        bar = track(range(n_trials), f"tuning {baseline.kind}", unit="trial")
        for number in bar:
            trial = study.ask()
            start = time.perf_counter()
            params = baseline.suggest(trial)
            scores = _score_folds(
                baseline, log_expr, codes, params, folds=folds, seed=seed, target_sum=target_sum
            )
            value = float(np.mean(scores))
            study.tell(trial, value)
            record = TrialRecord(number, params, value, scores, time.perf_counter() - start)
            trials.append(record)
            on_trial(record)
            bar.set_postfix(best=f"{study.best_value:.4f}", refresh=False)
    best = max(trials, key=lambda record: record.value)
    return TuningResult(best_params=best.params, best_score=best.value, trials=trials, study=study)


def fit_best(
    baseline: Baseline,
    cells: PreparedCells,
    codes: np.ndarray,
    params: Params,
    *,
    seed: int,
    target_sum: float,
) -> Annotator:
    """Fit a baseline to cells ``(n_cells, n_panel)`` with codes ``(n_cells,)``."""
    log_expr = log_normalize(cells, target_sum=target_sum)
    estimator = baseline.fit(log_expr, codes, params, seed=seed, n_jobs=-1)
    return baseline.to_annotator(estimator, target_sum=target_sum)


def split_folds(codes: np.ndarray, *, n_folds: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Split cells into folds that each have every class, in both parts.

    Returns
    -------
    Rows to fit and rows to score, for each fold.

    Raises
    ------
    LabelError
        If a class has a single cell.
    """
    sizes = np.bincount(codes)
    rarest = int(sizes.argmin())
    if sizes[rarest] < _MIN_FOLDS:
        raise LabelError(
            "tuning",
            expected=f"at least {_MIN_FOLDS} training and validation cells of each label",
            found=f"{sizes[rarest]} of label number {rarest}",
            remedy="Merge, relabel or remove these cells, and preprocess again.",
        )
    folds = StratifiedKFold(min(n_folds, int(sizes[rarest])), shuffle=True, random_state=seed)
    return list(folds.split(np.zeros(len(codes)), codes))


def _score_folds(
    baseline: Baseline,
    log_expr: csr_matrix,
    codes: np.ndarray,
    params: Params,
    *,
    folds: list[tuple[np.ndarray, np.ndarray]],
    seed: int,
    target_sum: float,
) -> tuple[float, ...]:
    """Fit and score each fold: macro-F1, ``(n_folds,)``."""
    scores = []
    for fitted, held_out in folds:
        estimator = baseline.fit(log_expr[fitted], codes[fitted], params, seed=seed, n_jobs=-1)
        model = baseline.to_annotator(estimator, target_sum=target_sum)
        predicted = model.predict_log_expr(log_expr[held_out]).argmax(axis=1)
        scores.append(float(f1_score(codes[held_out], predicted, average="macro")))
    return tuple(scores)


def _make_sampler(n_trials: int, seed: int) -> optuna.samplers.BaseSampler:
    """Let TPE learn from half of a short study; by default it starts after ten random trials."""
    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=min(10, max(1, n_trials // 2)))


@contextlib.contextmanager
def _quiet_optuna() -> Iterator[None]:
    """Keep Optuna's lines out of the progress bar, then give the caller's setting back."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(verbosity)
