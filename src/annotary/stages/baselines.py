"""baselines: tune logistic regression and random forest, log the best of each."""

import json

import numpy as np
import pandas as pd

from annotary import keys
from annotary.config import BaselinesConfig
from annotary.data.dataset import read_dataset
from annotary.evaluation.figures import draw_trials
from annotary.log import say
from annotary.models.base import Annotator
from annotary.models.baselines import BASELINES, Baseline, Params
from annotary.models.folds import Fold, make_folds
from annotary.models.tuning import TrialRecord, fit_best, tune
from annotary.quality.prepare import PreparedCells
from annotary.registry import Candidate, log_bundle
from annotary.stages.candidates import make_bundle, make_spec
from annotary.tracking import StageRun, fetch, log_trial, stage_run


def baselines(config: BaselinesConfig) -> list[Candidate]:
    """Tune each baseline on training and validation cells, refit its best, log it as a model."""
    with stage_run("baselines", config) as run:
        path = fetch(config.dataset)
        dataset = read_dataset(path)
        run.log_dataset(dataset, path, context="training")
        seen = dataset.take(keys.TRAIN, keys.VALIDATION)
        spec = make_spec(dataset)
        cells = spec.prepare(seen.counts, dataset.var.index, depth=seen.depth)
        settings = json.loads(dataset.record.config)
        folds = make_folds(
            seen,
            dataset.var.index,
            method=settings["panel_method"],
            n_top_genes=settings["n_top_genes"],
            target_sum=spec.target_sum,
            panel=dataset.panel if dataset.record.leaky else None,
        )
        candidates = []
        for baseline in BASELINES.values():
            model, best_params = _train(baseline, cells, seen.codes, folds, spec.target_sum, config, run)
            resolved = config.model_dump() | {"best_params": best_params}
            bundle = make_bundle(model, spec, dataset, run_id=run.run_id, settings=resolved)
            candidates.append(log_bundle(bundle))
        return candidates


def _train(
    baseline: Baseline,
    cells: PreparedCells,
    codes: np.ndarray,
    folds: list[Fold],
    target_sum: float,
    config: BaselinesConfig,
    run: StageRun,
) -> tuple[Annotator, Params]:
    """Tune one baseline and refit its best; return it with its hyperparameters."""

    def log(trial: TrialRecord) -> None:
        log_trial(
            run,
            name=f"{baseline.kind} trial {trial.number}",
            params={"kind": baseline.kind, **trial.params},
            metrics={"macro_f1": trial.value, "seconds": trial.seconds},
            fold_scores=list(trial.fold_scores),
        )

    tuned = tune(
        baseline,
        folds,
        n_trials=config.n_trials,
        seed=config.seed,
        target_sum=target_sum,
        on_trial=log,
    )
    _record(run, baseline.kind, tuned.trials)
    say(f"{baseline.kind}: macro-F1 {tuned.best_score:.3f} over folds with {tuned.best_params}")
    model = fit_best(baseline, cells, codes, tuned.best_params, seed=config.seed, target_sum=target_sum)
    return model, tuned.best_params


def _record(run: StageRun, kind: str, trials: list[TrialRecord]) -> None:
    """Log the trials as a table and a figure."""
    table = pd.DataFrame(
        [
            {"number": trial.number, "value": trial.value, "seconds": trial.seconds} | trial.params
            for trial in trials
        ]
    )
    run.log_table(table, f"{kind}_trials", index=False)
    run.log_figure(draw_trials(table, title=kind.replace("_", " ")), f"{kind}_trials")
    run.log_metrics({f"{kind}.folds_macro_f1": float(table["value"].max())})
