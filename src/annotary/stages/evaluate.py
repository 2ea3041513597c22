"""evaluate: every candidate on the test cells, all registered, the best as challenger."""

import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from annotary import keys
from annotary.config import CHALLENGER, EvaluateConfig
from annotary.data.dataset import Dataset, LabelledCells, read_dataset
from annotary.errors import RegistryError
from annotary.evaluation.comparison import annotate_cells
from annotary.evaluation.confidence import ConfidenceFigures, measure_confidence
from annotary.evaluation.figures import draw_confusion, format_table
from annotary.evaluation.metrics import HEADLINE, Evaluation, evaluate_predictions
from annotary.models.bundle import Annotation
from annotary.models.bundle_files import load_bundle
from annotary.progress import track
from annotary.promotions import CALLS_HASH_TAG, EVALUATION_TAG
from annotary.registry import (
    Candidate,
    RegisteredVersion,
    find_candidates,
    get_candidates,
    log_model_metrics,
    register,
    set_alias,
    tag_version,
)
from annotary.stages.held_out_calls import TABLE, hash_calls, name_column
from annotary.stages.model_cards import Measured, write_cards
from annotary.tracking import (
    DATASET_TAG,
    KIND_TAG,
    LoggedDataset,
    StageRun,
    describe_dataset,
    fetch,
    stage_run,
)
from annotary.version_check import fetch_candidate
from annotary.version_files import BUNDLE

_TRANSFORMER, _ENSEMBLE = "transformer", "ensemble"
_MB = 1e6
_SHORTEST_SECONDS = 1e-6


@dataclass(frozen=True)
class Evaluated:
    """A candidate with its figures on the test cells and its version.

    Attributes
    ----------
    candidate
        The logged model.
    evaluation
        Its metrics.
    confidence
        What its calibration, prediction sets and thresholds do.
    annotation
        Its predictions on the test cells.
    version
        The version it became.
    """

    candidate: Candidate
    evaluation: Evaluation
    confidence: ConfidenceFigures
    annotation: Annotation
    version: RegisteredVersion

    @property
    def score(self) -> float:
        """Macro-F1 on the test cells."""
        return self.evaluation.metrics[HEADLINE]


def evaluate(config: EvaluateConfig) -> list[Evaluated]:
    """Evaluate candidates on the test cells, register them, and mark the best as challenger.

    Returns
    -------
    Candidates with their figures, best first.
    """
    with stage_run("evaluate", config) as run:
        path = fetch(config.dataset)
        dataset = read_dataset(path)
        run.log_dataset(dataset, path, context="testing")
        test_cells = dataset.take(keys.TEST)
        logged = LoggedDataset(dataset, path)
        evaluated = []
        for candidate in track(_list_candidates(config, dataset), "evaluating", unit="model"):
            folder = fetch_candidate(candidate)
            annotation, evaluation = _measure(folder / BUNDLE, dataset, test_cells, device=config.device)
            confidence = measure_confidence(test_cells.codes, annotation, dataset.record.label_names)
            evaluation = replace(evaluation, metrics=evaluation.metrics | confidence.metrics)
            log_model_metrics(candidate, evaluation.metrics, logged)
            version = _register(candidate, folder, evaluation, dataset, config, run)
            evaluated.append(Evaluated(candidate, evaluation, confidence, annotation, version))
        evaluated.sort(key=lambda one: one.score, reverse=True)
        set_alias(evaluated[0].version, CHALLENGER)
        _record(run, evaluated, dataset, test_cells)
        measured = [Measured(one.version, one.evaluation, one.annotation.codes) for one in evaluated]
        write_cards(run, measured, dataset, test_cells, config)
        return evaluated


def _measure(
    folder: Path, dataset: Dataset, cells: LabelledCells, *, device: str
) -> tuple[Annotation, Evaluation]:
    """Annotate the test cells with a candidate, and measure result, time and size."""
    bundle = load_bundle(folder)
    started = time.monotonic()
    annotation = annotate_cells(bundle, dataset, cells, device=device)
    seconds = time.monotonic() - started
    evaluation = evaluate_predictions(cells.codes, annotation.probabilities, dataset.record.label_names)
    files = folder.rglob("*")
    more = {
        "cells_per_second": len(cells.codes) / max(seconds, _SHORTEST_SECONDS),
        "bundle_mb": sum(path.stat().st_size for path in files if path.is_file()) / _MB,
    }
    return annotation, replace(evaluation, metrics=evaluation.metrics | more)


def _list_candidates(config: EvaluateConfig, dataset: Dataset) -> list[Candidate]:
    """Take the candidates that were named, or every one of the dataset."""
    named = get_candidates(config.candidates)
    if named:
        return named
    found = find_candidates(dataset.record.dataset_hash)
    if not found:
        raise RegistryError(
            f"dataset {dataset.record.dataset_hash[:12]}",
            expected="models that were trained on it, in this experiment",
            found="none",
            remedy="Run annotary baselines or annotary transformer on it first.",
        )
    return found


def _register(
    candidate: Candidate,
    folder: Path,
    evaluation: Evaluation,
    dataset: Dataset,
    config: EvaluateConfig,
    run: StageRun,
) -> RegisteredVersion:
    """Register a candidate with its figures as tags."""
    tags = {name: f"{value:.6f}" for name, value in evaluation.metrics.items()}
    tags |= describe_dataset(dataset.record)
    tags |= {
        KIND_TAG: candidate.kind,
        DATASET_TAG: config.dataset,
        EVALUATION_TAG: run.run_id,
    }
    return register(candidate, config.model_name, tags=tags, folder=folder)


def _record(run: StageRun, evaluated: list[Evaluated], dataset: Dataset, cells: LabelledCells) -> None:
    """Log the comparison: tables, confusion matrices, and predictions of the test cells."""
    rows = [
        {"model": _title(one), "version": one.version.number} | one.evaluation.metrics for one in evaluated
    ]
    run.log_table(pd.DataFrame(rows), "candidates", index=False)
    names = np.array(dataset.record.label_names)
    predictions = pd.DataFrame({"label": names[cells.codes]}, index=cells.cell_ids.rename("cell_id"))
    for one in evaluated:
        name = name_column(one.candidate.kind, one.version.number)
        run.log_table(one.evaluation.per_class, f"per_class_{name}")
        run.log_table(one.confidence.per_class, f"confidence_{name}")
        run.log_table(one.evaluation.confusion, f"confusion_{name}")
        run.log_table(one.evaluation.confusion_by_row, f"confusion_by_row_{name}")
        run.log_figure(draw_confusion({_title(one): _name_rows(one)}), f"confusion_{name}")
        predictions[name] = names[one.annotation.codes]
        predictions[f"{name}_conf_score"] = one.annotation.confidence
    run.log_table(predictions, TABLE)
    calls = {CALLS_HASH_TAG: hash_calls(run.run_id)}
    run.set_tags(calls)
    for one in evaluated:
        tag_version(one.version, calls)
    side_by_side = _choose_pair(evaluated)
    if side_by_side:
        tables = {_title(one): _name_rows(one) for one in side_by_side}
        run.log_figure(draw_confusion(tables), "best_baseline_and_transformer")


def _choose_pair(evaluated: list[Evaluated]) -> list[Evaluated]:
    """Choose the best baseline and the best transformer, if there are both."""
    networks = [one for one in evaluated if one.candidate.kind == _TRANSFORMER]
    others = [one for one in evaluated if one.candidate.kind not in (_TRANSFORMER, _ENSEMBLE)]
    return [others[0], networks[0]] if networks and others else []


def _title(one: Evaluated) -> str:
    """Name a candidate with its score."""
    return f"{one.candidate.kind.replace('_', ' ')}, version {one.version.number}: macro-F1 {one.score:.3f}"


def _name_rows(one: Evaluated) -> pd.DataFrame:
    """Give the row-normalised confusion matrix with the cells of each true label beside its name."""
    support = one.evaluation.per_class["support"]
    return one.evaluation.confusion_by_row.rename(index=lambda name: f"{name} ({support[name]:.0f})")


def make_table(evaluated: list[Evaluated]) -> str:
    """Write the comparison as a plain table, best first."""
    return format_table(
        [
            {
                "model": one.candidate.kind.replace("_", " "),
                "version": one.version.number,
                "macro-F1": one.evaluation.metrics[HEADLINE],
                "accuracy": one.evaluation.metrics["accuracy"],
                "balanced accuracy": one.evaluation.metrics["balanced_accuracy"],
                "log loss": one.evaluation.metrics["log_loss"],
            }
            for one in evaluated
        ]
    )
