"""What a search leaves in MLflow, whatever model it tunes: a name, nested runs, a table, pictures."""

from collections.abc import Callable

from annotary.data.dataset import DatasetRecord
from annotary.evaluation.tuning_figures import (
    draw_history,
    draw_importance,
    draw_parallel_coordinates,
    draw_slices,
)
from annotary.log import say
from annotary.models.tuning.records import TrialRecord, tabulate_trials
from annotary.models.tuning.trials import TuningResult
from annotary.tracking import StageRun, log_trial

_SHORT_HASH = 16


def name_study(
    kind: str, record: DatasetRecord, space_hash: str, *, seed: int, run: StageRun, warm_start: bool
) -> str:
    """Name the study by what its trials depend on; without a warm start by the run too."""
    name = f"{kind}-{record.dataset_hash[:_SHORT_HASH]}-{space_hash[:_SHORT_HASH]}-seed{seed}"
    return name if warm_start else f"{name}-{run.run_id}"


def logging_trials(run: StageRun, kind: str, *, part: str) -> Callable[[TrialRecord], None]:
    """Make what logs each trial as a nested run; its parts are ``fold`` or ``epoch``."""

    def log(trial: TrialRecord) -> None:
        log_trial(
            run,
            name=f"{kind} trial {trial.number}",
            params={"kind": kind, **trial.params},
            metrics={"macro_f1": trial.value, "seconds": trial.seconds},
            scores=list(trial.scores),
            part=part,
            state=trial.state,
        )

    return log


def log_search(run: StageRun, kind: str, tuned: TuningResult, *, part: str, score: str) -> None:
    """Log the trials of a study as a table and pictures; ``score`` says what their value is."""
    best = tuned.best
    say(f"{kind}: {score} {best.value:.3f} in trial {best.number} with {best.params}")
    table = tabulate_trials(tuned.trials, part=part)
    params = list(best.params)
    run.log_table(table, f"{kind}_trials", index=False)
    run.log_figure(draw_history(table, title=kind.replace("_", " "), score=score), f"{kind}_history")
    run.log_figure(draw_slices(table, params, score=score), f"{kind}_slices")
    run.log_figure(draw_parallel_coordinates(table, params, score=score), f"{kind}_parallel_coordinates")
    if len(tuned.importance):
        run.log_figure(draw_importance(tuned.importance), f"{kind}_importance")
    run.log_metrics({f"{kind}.{part}s_macro_f1": best.value, f"{kind}.n_trials": float(len(table))})
