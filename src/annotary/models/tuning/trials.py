"""The trials of a study, whatever model they try: done to the end, scored part by part, none done twice."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import optuna
import pandas as pd
from optuna.trial import FrozenTrial, TrialState

from annotary.models.tuning.records import (
    COUNTED,
    SCORES,
    SECONDS,
    TrialRecord,
    find_best,
    list_records,
    make_record,
    measure_importance,
)
from annotary.models.tuning.study import naming_absence, work_on
from annotary.progress import track

_KEY = "key"


@dataclass(frozen=True)
class TuningResult:
    """What a search found.

    Attributes
    ----------
    best
        The best complete trial; the earliest wins a tie.
    trials
        All trials of the study that are complete or pruned, other processes' and earlier runs' too.
    importance
        What :func:`measure_importance` gives, ``(n_params,)``.
    study
        Optuna's study.
    """

    best: TrialRecord
    trials: list[TrialRecord]
    importance: pd.Series
    study: optuna.Study


class TrialScores:
    """Scores of a trial's parts, told to its study as they come.

    Parameters
    ----------
    trial
        The trial, which begins now.
    """

    def __init__(self, trial: optuna.Trial) -> None:
        self._trial = trial
        self._started = time.perf_counter()
        self.scores: list[float] = []

    def tell(self, score: float, *, value: float) -> None:
        """Tell the score of the next part, and what all parts so far come to, each 0 to 1."""
        self.scores.append(score)
        self._trial.set_user_attr(SCORES, self.scores)
        self._trial.set_user_attr(SECONDS, time.perf_counter() - self._started)
        self._trial.report(value, len(self.scores) - 1)


def do_trials(
    study: optuna.Study,
    objective: Callable[[optuna.Trial], float],
    *,
    title: str,
    n_trials: int,
    timeout: float = 0,
    on_trial: Callable[[TrialRecord], None] = lambda record: None,
) -> TuningResult:
    """Do trials, with a progress bar, until the study has ``n_trials`` or the time is over.

    Parameters
    ----------
    study
        What :func:`annotary.models.tuning.study.open_study` gives.
    objective, n_trials, timeout
        As :func:`annotary.models.tuning.study.work_on` takes them.
    title
        What is tuned.
    on_trial
        Called as each trial of this process ends.

    Raises
    ------
    StoreError
        If the study's database goes away; the next run does the trial again.
    """
    with naming_absence(study), track(None, f"tuning {title}", total=n_trials, unit="trial") as bar:
        bar.update(min(len(list_records(study)), n_trials))

        def tell(trial: FrozenTrial) -> None:
            on_trial(make_record(trial))
            bar.update()

        work_on(study, objective, n_trials=n_trials, timeout=timeout, on_trial=tell)
        records, importance = list_records(study), measure_importance(study)
    return TuningResult(best=find_best(records), trials=records, importance=importance, study=study)


def find_twin(trial: optuna.Trial, key: str) -> FrozenTrial | None:
    """Find an earlier trial that did what ``key`` says, or is at it; note what this one does."""
    earlier = (
        other
        for other in trial.study.get_trials(deepcopy=False, states=COUNTED)
        if other.number < trial.number and other.user_attrs.get(_KEY) == key
    )
    found = next(earlier, None)
    trial.set_user_attr(_KEY, key)
    return found


def repeat_trial(trial: optuna.Trial, earlier: FrozenTrial) -> float:
    """Take the scores of a trial that did the same, and its end; one that still runs is left to it.

    Raises
    ------
    optuna.TrialPruned
        If that trial was pruned, or runs.
    """
    trial.set_user_attr(SECONDS, 0.0)
    trial.set_user_attr(SCORES, earlier.user_attrs.get(SCORES, []))
    for part, value in earlier.intermediate_values.items():
        trial.report(value, part)
    if earlier.state is not TrialState.COMPLETE or earlier.value is None:
        raise optuna.TrialPruned
    return earlier.value
