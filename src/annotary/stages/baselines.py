"""baselines: tune each baseline, refit its best, calibrate it, log it."""

import json
from dataclasses import dataclass

import numpy as np
import pandas as pd

from annotary import keys
from annotary.config import BaselinesConfig
from annotary.data.dataset import DatasetTables, read_dataset
from annotary.errors import ConfigError
from annotary.evaluation.baseline_figures import draw_reliability, draw_top_genes
from annotary.models.baselines import BASELINES, Baseline
from annotary.models.calibration import compute_ece, tabulate_reliability
from annotary.models.confidence.held_out import FittedCells, HeldOutCells
from annotary.models.confidence.novelty import measure_across_folds
from annotary.models.folds import FoldedCells
from annotary.models.panels import PanelChooser, Preparation, PreparationSpace, make_space
from annotary.models.tuning.search import FittedBaseline, Search
from annotary.quality.prepare import TARGET_SUM, InputSpec
from annotary.registry import Candidate, log_bundle
from annotary.stages.candidates import make_bundle, read_label_terms
from annotary.stages.dataset_input import fetch_dataset
from annotary.stages.held_out_table import log_held_out
from annotary.stages.tuning_record import log_search, logging_trials, name_study
from annotary.tracking import StageRun, find_study_storage, stage_run


@dataclass(frozen=True)
class _TrainingData:
    """What all baselines share.

    Attributes
    ----------
    tables
        The dataset but for its counts.
    cells
        Its training and validation cells.
    cell_ids
        Ids of the different cells, ``(n_cells,)``.
    is_training
        Which of them are training cells, ``(n_cells,)``.
    panels, space
        How panels are chosen, and what there is to choose from.
    terms
        Cell Ontology's term of each label that has one; None where no table of them was given.
    """

    tables: DatasetTables
    cells: FoldedCells
    cell_ids: pd.Index
    is_training: np.ndarray
    panels: PanelChooser
    space: PreparationSpace
    terms: dict[str, str] | None


def baselines(config: BaselinesConfig) -> list[Candidate]:
    """Tune each baseline on training and validation cells, refit its best, log it as a model."""
    with stage_run("baselines", config) as run:
        kinds = _list_kinds(config.kinds)
        data = _read(config, run)
        return [_train(BASELINES[kind], data, config, run) for kind in kinds]


def _list_kinds(text: str) -> list[str]:
    """List the baselines that are asked for, each once."""
    kinds = list(dict.fromkeys(kind.strip() for kind in text.split(",") if kind.strip()))
    unknown = [kind for kind in kinds if kind not in BASELINES]
    if unknown or not kinds:
        raise ConfigError(
            "--kinds",
            expected=f"some of {', '.join(BASELINES)}",
            found=", ".join(unknown) or "none",
            remedy="Separate them by commas.",
        )
    return kinds


def _read(config: BaselinesConfig, run: StageRun) -> _TrainingData:
    """Read the dataset and lay out its cells; its counts are not kept beside them."""
    path = fetch_dataset(config.dataset, read_timeout=config.read_timeout)
    dataset = read_dataset(path)
    run.log_dataset(dataset, path, context="training")
    tables = DatasetTables(obs=dataset.obs, var=dataset.var, record=dataset.record)
    terms = read_label_terms(config.ontology, tables.record.label_names)
    seen = dataset.take(keys.TRAIN, keys.VALIDATION)
    del dataset
    cells = FoldedCells(seen, tables.var.index)
    settings = json.loads(tables.record.config)
    own = Preparation(settings["panel_method"], settings["n_top_genes"], TARGET_SUM)
    fixed = np.flatnonzero(cells.gene_ids.isin(tables.panel)) if tables.record.leaky else None
    sides = tables.obs[keys.SPLIT].loc[seen.cell_ids].to_numpy(dtype=object)
    return _TrainingData(
        tables=tables,
        cells=cells,
        cell_ids=seen.cell_ids[cells.rows],
        is_training=(sides == keys.TRAIN)[cells.rows],
        panels=PanelChooser(cells, fixed=fixed),
        space=make_space(own, n_genes=len(cells.gene_ids), fixed=fixed is not None),
        terms=terms,
    )


def _train(baseline: Baseline, data: _TrainingData, config: BaselinesConfig, run: StageRun) -> Candidate:
    """Tune one baseline, refit its best, log what there is to know of it."""
    search = Search(baseline, data.cells, data.panels, data.space, seed=config.seed)
    tuned = search.run(
        name_study(
            baseline.kind,
            data.tables.record,
            search.space_hash,
            seed=config.seed,
            run=run,
            warm_start=config.warm_start,
        ),
        config.storage or find_study_storage(),
        n_trials=config.n_trials,
        timeout=config.timeout,
        on_trial=logging_trials(run, baseline.kind, part="fold"),
    )
    log_search(run, baseline.kind, tuned, part="fold", score="Macro-F1, mean over folds")
    fitted = search.fit(tuned.best.params)
    _log_model(run, fitted, data)
    held_out, fitted_cells = _take_confidence_cells(fitted, data)
    names = data.tables.record.label_names
    log_held_out(run, baseline.kind, data.cell_ids, held_out.probabilities, names)
    bundle = make_bundle(
        fitted.model,
        _make_spec(fitted, data),
        data.tables,
        held_out=held_out,
        fitted=fitted_cells,
        options=config,
        terms=data.terms,
        run_id=run.run_id,
        settings=config.model_dump() | {"best_params": tuned.best.params},
    )
    return log_bundle(bundle)


def _make_spec(fitted: FittedBaseline, data: _TrainingData) -> InputSpec:
    """Fix how cells are prepared for a fitted baseline."""
    panel = data.cells.gene_ids if fitted.columns is None else data.cells.gene_ids[fitted.columns]
    expressed = data.cells.count_expressed(fitted.columns)[data.is_training]
    return InputSpec(
        gene_ids=tuple(panel),
        id_type=data.tables.record.id_type,
        min_panel_genes=max(1, int(expressed.min())),
        target_sum=fitted.preparation.target_sum,
    )


def _take_confidence_cells(fitted: FittedBaseline, data: _TrainingData) -> tuple[HeldOutCells, FittedCells]:
    """Take training and validation cells twice: held out of their fold's model, and fitted by the last."""
    codes = data.cells.codes[: data.cells.n_cells]
    log_expr = data.cells.get_all(fitted.columns, target_sum=fitted.preparation.target_sum)
    held_out = HeldOutCells(
        probabilities=fitted.calibration.after.astype(np.float32),
        codes=codes,
        distances=measure_across_folds(log_expr, codes, data.cells.fold_of_cell),
    )
    return held_out, FittedCells(log_expr=log_expr, codes=codes)


def _log_model(run: StageRun, fitted: FittedBaseline, data: _TrainingData) -> None:
    """Log what a biologist checks: the genes' weights, and whether probabilities mean what they say."""
    kind, calibration = fitted.model.kind, fitted.calibration
    codes = data.cells.codes[: data.cells.n_cells]
    panel = data.cells.gene_ids if fitted.columns is None else data.cells.gene_ids[fitted.columns]
    weights = pd.DataFrame(
        fitted.model.weigh_genes(), index=panel.rename("gene"), columns=list(data.tables.record.label_names)
    )
    run.log_table(weights, f"{kind}_gene_weights")
    run.log_figure(draw_top_genes(weights), f"{kind}_top_genes")
    sides = {"before": calibration.before, "after": calibration.after}
    bins = {side: tabulate_reliability(probabilities, codes) for side, probabilities in sides.items()}
    run.log_figure(draw_reliability(bins), f"{kind}_reliability")
    run.log_table(pd.concat(bins, names=["calibration", "bin"]), f"{kind}_reliability")
    errors = {
        f"{kind}.ece_{side}": compute_ece(probabilities, codes) for side, probabilities in sides.items()
    }
    run.log_metrics(errors | {f"{kind}.temperature": calibration.temperature})
