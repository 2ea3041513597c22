"""What is known of a search: its trials, and the tables and importances made of them."""

from dataclasses import dataclass

import optuna
import pandas as pd
from optuna.trial import FrozenTrial, TrialState

from annotary.models.baselines import Params

SCORES = "scores"
SECONDS = "seconds"
SURPLUS = "surplus"
QUEUED_AGAIN = "queued_again"

COUNTED = (TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED)
"""States of the trials that count towards ``n_trials``; a trial that failed makes room for another."""

_LEAST_FOR_IMPORTANCE = 4


@dataclass(frozen=True)
class TrialRecord:
    """One trial.

    Attributes
    ----------
    number
        Position in the study, from 0.
    state
        ``complete``, or ``pruned`` after the parts that it did.
    params
        Hyperparameters of the model and of the preparation of cells.
    value
        What these parts come to: of folds the mean macro-F1, of epochs the best, 0 to 1.
    scores
        Macro-F1 of each of these parts, folds or epochs, ``(at most n_parts,)``.
    seconds
        Wall time.
    """

    number: int
    state: str
    params: Params
    value: float
    scores: tuple[float, ...]
    seconds: float


def make_record(trial: FrozenTrial) -> TrialRecord:
    """Read a trial that is complete or pruned."""
    told = trial.intermediate_values
    return TrialRecord(
        number=trial.number,
        state=trial.state.name.lower(),
        params=trial.params,
        value=told[max(told)] if told else 0.0,
        scores=tuple(trial.user_attrs.get(SCORES, [])),
        seconds=trial.user_attrs.get(SECONDS, 0.0),
    )


def list_records(study: optuna.Study) -> list[TrialRecord]:
    """List the trials that are complete or pruned, in the order of their numbers."""
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    return sorted((make_record(trial) for trial in done), key=lambda record: record.number)


def find_best(records: list[TrialRecord]) -> TrialRecord:
    """Find the best complete trial; the earliest wins a tie."""
    return max((record for record in records if record.state == "complete"), key=lambda one: one.value)


def tabulate_trials(records: list[TrialRecord], *, part: str) -> pd.DataFrame:
    """Tabulate trials: number, state, value, seconds, the score of each part, the hyperparameters.

    Parameters
    ----------
    records
        The trials.
    part
        What a trial is made of, for the columns' names: ``fold`` or ``epoch``; they count from 0.
    """
    rows = []
    for record in records:
        parts = {f"{part}_{number}": score for number, score in enumerate(record.scores)}
        own = {"number": record.number, "state": record.state, "value": record.value}
        # pandas would make NaN of None, and so numbers of a choice between None and some.
        params = {name: "None" if value is None else value for name, value in record.params.items()}
        rows.append(own | {SECONDS: record.seconds} | parts | params)
    return pd.DataFrame(rows)


def measure_importance(study: optuna.Study) -> pd.Series:
    """Measure by Optuna's PED-ANOVA how much each hyperparameter decides of the score.

    Returns
    -------
    Importance by hyperparameter, largest first, ``(n_params,)``; they add up to 1. Empty where too few
    trials are complete, or all score the same.
    """
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(complete) < _LEAST_FOR_IMPORTANCE or len({trial.value for trial in complete}) == 1:
        return pd.Series(dtype=float)
    return pd.Series(optuna.importance.get_param_importances(study), dtype=float)
