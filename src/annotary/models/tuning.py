"""Optuna's search for a baseline's hyperparameters, by cross-validation."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import optuna
from sklearn.metrics import f1_score

from annotary.models.base import Annotator
from annotary.models.baselines import Baseline, Params
from annotary.models.folds import Fold
from annotary.progress import track
from annotary.quality.prepare import PreparedCells, log_normalize


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
    folds: list[Fold],
    *,
    n_trials: int,
    seed: int,
    target_sum: float,
    on_trial: Callable[[TrialRecord], None],
) -> TuningResult:
    """Search hyperparameters by cross-validation.

    Parameters
    ----------
    baseline
        What to tune.
    folds
        Training and validation cells, prepared.
    n_trials
        Trials; the first one is ``baseline.first_trial``.
    seed
        Seed of the sampler and of every fit.
    target_sum
        Counts that each cell is scaled to before log1p.
    on_trial
        Called as each trial ends.
    """
    trials: list[TrialRecord] = []
    with _quiet_optuna():
        study = optuna.create_study(direction="maximize", sampler=_make_sampler(n_trials, seed))
        study.enqueue_trial(baseline.first_trial)
        bar = track(range(n_trials), f"tuning {baseline.kind}", unit="trial")
        for number in bar:
            trial = study.ask()
            start = time.perf_counter()
            params = baseline.suggest(trial)
            scores = _score_folds(baseline, folds, params, seed=seed, target_sum=target_sum)
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


def _score_folds(
    baseline: Baseline, folds: list[Fold], params: Params, *, seed: int, target_sum: float
) -> tuple[float, ...]:
    """Fit and score each fold: macro-F1, ``(n_folds,)``."""
    scores = []
    for fold in folds:
        estimator = baseline.fit(fold.fitted, fold.fitted_codes, params, seed=seed, n_jobs=-1)
        model = baseline.to_annotator(estimator, target_sum=target_sum)
        predicted = model.predict_log_expr(fold.held_out).argmax(axis=1)
        scores.append(float(f1_score(fold.held_out_codes, predicted, average="macro")))
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
