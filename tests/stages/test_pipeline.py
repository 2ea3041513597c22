"""The main job on simulated data, in process: what each stage leaves in MLflow and on the disk."""

import json
from dataclasses import replace
from pathlib import Path

import anndata
import mlflow
import numpy as np
import pandas as pd
import pytest
from conftest import SMALL
from simulate import write_cells

from annotary import keys
from annotary.config import (
    CHALLENGER,
    CHAMPION,
    PREVIOUS,
    LedgerConfig,
    MainConfig,
    ModelsConfig,
    ScoreConfig,
    VerifyConfig,
)
from annotary.data.dataset import read_dataset
from annotary.errors import OutputError
from annotary.ledger import OUTSIDE
from annotary.promotions import read_ledger
from annotary.quality.qc import QualityThresholds
from annotary.registry import fetch_bundle, find_alias, load, resolve_alias
from annotary.scoring.findings import Finding
from annotary.scoring.records import read_record
from annotary.stages.listing import list_models, list_promotions
from annotary.stages.pipeline import run_pipeline
from annotary.stages.score import score
from annotary.stages.verify import refuse_altered, verify

NETWORKS = ("transformer", "ensemble")


@pytest.fixture(scope="module")
def outcome(main_config):
    return run_pipeline(main_config)


@pytest.fixture(scope="module")
def runs(outcome) -> pd.DataFrame:
    return mlflow.search_runs(search_all_experiments=True)


def one_run(runs: pd.DataFrame, stage: str):
    found = runs[runs["tags.annotary.stage"] == stage]
    assert len(found) == 1
    return mlflow.get_run(found.iloc[0]["run_id"])


def read_artifact(run, path: str) -> str:
    return mlflow.artifacts.load_text(f"runs:/{run.info.run_id}/{path}")


def list_artifacts(run, folder: str) -> set[str]:
    found = mlflow.artifacts.list_artifacts(run_id=run.info.run_id, artifact_path=folder)
    return {one.path.split("/")[-1] for one in found}


def test_every_stage_is_a_finished_child_of_one_parent_in_one_experiment(outcome, runs):
    parent = one_run(runs, "main")
    assert parent.info.status == "FINISHED"
    for stage in ("preprocess", "baselines", "transformer", "ensemble", "evaluate", "promote", "score"):
        run = one_run(runs, stage)
        assert run.info.status == "FINISHED"
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert run.info.experiment_id == parent.info.experiment_id


def test_preprocess_logs_the_cells_and_genes_of_each_step(outcome, runs):
    run = one_run(runs, "preprocess")
    metrics = run.data.metrics
    assert metrics["cells_read"] == 240
    assert metrics["cells_read"] >= metrics["cells_labelled"] >= metrics["cells_after_qc"] > 0
    assert metrics["genes_read"] >= metrics["genes_after_qc"] >= metrics["genes_in_panel"] == 120
    assert {"panel.png", "class_counts.png"} <= list_artifacts(run, "figures")
    assert run.inputs.dataset_inputs[0].dataset.name == "cells.h5ad"


def test_trials_are_nested_runs_of_baselines(outcome, runs):
    parent = one_run(runs, "baselines").info.run_id
    trials = runs[runs["tags.mlflow.parentRunId"] == parent]
    assert len(trials) == 4
    assert set(trials["params.kind"]) == {"logistic_regression", "random_forest"}
    assert trials["metrics.macro_f1"].between(0, 1).all()
    assert (trials["metrics.seconds"] > 0).all()
    assert set(trials["tags.annotary.trial_state"]) <= {"complete", "pruned"}
    assert trials["params.n_top_genes"].notna().all()


def test_baselines_log_their_search_their_genes_and_their_calibration(outcome, runs):
    run = one_run(runs, "baselines")
    figures, tables = list_artifacts(run, "figures"), list_artifacts(run, "tables")
    for kind in ("logistic_regression", "random_forest"):
        names = ("history", "slices", "parallel_coordinates", "top_genes", "reliability")
        assert {f"{kind}_{name}.png" for name in names} <= figures
        assert {f"{kind}_trials.csv", f"{kind}_gene_weights.csv", f"{kind}_reliability.csv"} <= tables
        metrics = run.data.metrics
        assert metrics[f"{kind}.n_trials"] == 2
        assert 0 <= metrics[f"{kind}.ece_after"] <= 1
        assert metrics[f"{kind}.temperature"] > 0


def test_the_heaviest_genes_of_a_label_are_its_simulated_markers(outcome, runs):
    run = one_run(runs, "baselines")
    for kind in ("logistic_regression", "random_forest"):
        path = f"runs:/{run.info.run_id}/tables/{kind}_gene_weights.csv"
        weights = pd.read_csv(mlflow.artifacts.download_artifacts(path), index_col="gene")
        for code, label in enumerate(weights.columns):
            markers = {f"GENE{gene:04d}" for gene in range(code * 20, code * 20 + 20)}
            assert len(markers & set(weights[label].nlargest(5).index)) >= 4, (kind, label)


def test_a_baseline_s_spec_is_that_of_its_own_panel(outcome, runs):
    for one in outcome.evaluated:
        if one.candidate.kind not in NETWORKS:
            bundle = load(one.candidate.uri)
            best = json.loads(bundle.provenance.config)["best_params"]
            assert len(bundle.spec.gene_ids) == (best["n_top_genes"] or bundle.model.weigh_genes().shape[0])
            assert bundle.spec.target_sum == bundle.model.target_sum == best["target_sum"]
            assert bundle.model.weigh_genes().shape[0] == len(bundle.spec.gene_ids)


def test_an_ensemble_votes_by_what_its_members_said_of_validation_cells(outcome, runs):
    run = one_run(runs, "ensemble")
    table = pd.read_csv(mlflow.artifacts.download_artifacts(f"runs:/{run.info.run_id}/tables/weights.csv"))
    assert table["weight"].sum() == pytest.approx(1)
    kinds = {one.candidate.kind: one.candidate for one in outcome.evaluated}
    bundle = load(kinds["ensemble"].uri)
    assert [member.weight for member in bundle.model.members] == pytest.approx(list(table["weight"]))
    assert [member.model.kind for member in bundle.model.members] == list(table["kind"])
    for member, model_id in zip(bundle.model.members, table["model_id"], strict=True):
        assert kinds[member.model.kind].model_id == model_id
        own = load(kinds[member.model.kind].uri)
        assert [bundle.spec.gene_ids[column] for column in member.columns] == list(own.spec.gene_ids)
        assert member.temperature == own.confidence.temperature


def test_held_out_probabilities_are_of_the_cells_that_decide(outcome, runs, main_config):
    path = mlflow.artifacts.download_artifacts(
        f"runs:/{one_run(runs, 'preprocess').info.run_id}/dataset/dataset.h5ad"
    )
    sides = read_dataset(Path(path)).obs[keys.SPLIT]
    for stage, kind, expected in (
        ("baselines", "logistic_regression", (keys.TRAIN, keys.VALIDATION)),
        ("transformer", "transformer", (keys.VALIDATION,)),
    ):
        address = f"runs:/{one_run(runs, stage).info.run_id}/held_out/{kind}.parquet"
        table = pd.read_parquet(mlflow.artifacts.download_artifacts(address))
        assert set(table.index) == set(sides.index[sides.isin(expected)])
        np.testing.assert_allclose(table.sum(axis=1), 1, atol=1e-4)


def test_transformer_logs_each_epoch_as_a_step(outcome, runs):
    run = one_run(runs, "transformer")
    history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "validation_loss")
    assert [metric.step for metric in history] == [1, 2, 3]
    assert "losses.png" in list_artifacts(run, "figures")


def test_transformer_logs_which_genes_spoke_for_each_label(outcome, runs):
    run = one_run(runs, "transformer")
    path = f"runs:/{run.info.run_id}/tables/transformer_gene_contributions.csv"
    weights = pd.read_csv(mlflow.artifacts.download_artifacts(path), index_col="gene")
    bundle = load(next(one.candidate.uri for one in outcome.evaluated if one.candidate.kind == "transformer"))
    assert tuple(weights.index) == bundle.spec.gene_ids
    assert tuple(weights.columns) == bundle.label_names
    assert weights.notna().all(axis=None)
    assert "transformer_top_genes.png" in list_artifacts(run, "figures")


def test_evaluate_logs_tables_and_figures_of_every_candidate(outcome, runs):
    run = one_run(runs, "evaluate")
    figures, tables = list_artifacts(run, "figures"), list_artifacts(run, "tables")
    assert "best_baseline_and_transformer.png" in figures
    for one in outcome.evaluated:
        name = f"{one.candidate.kind}_v{one.version.number}"
        assert f"confusion_{name}.png" in figures
        assert f"confidence_{name}.csv" in tables
        assert {f"per_class_{name}.csv", f"confusion_{name}.csv", f"confusion_by_row_{name}.csv"} <= tables
        for metric in ("accuracy", "balanced_accuracy", "macro_f1", "weighted_f1", "macro_precision"):
            assert f"{one.candidate.kind}.{metric}" in run.data.metrics
    confusion = pd.read_csv(
        mlflow.artifacts.download_artifacts(f"runs:/{run.info.run_id}/tables/confusion_by_row_{name}.csv"),
        index_col=0,
    )
    np.testing.assert_allclose(confusion.sum(axis=1), 1)


def test_evaluate_measures_what_confidence_promises_on_the_test_cells(outcome, runs):
    run = one_run(runs, "evaluate")
    for one in outcome.evaluated:
        metrics = {name: run.data.metrics[f"{one.candidate.kind}.{name}"] for name in one.confidence.metrics}
        assert metrics == pytest.approx(one.confidence.metrics)
        assert metrics["conformal_coverage"] >= 0.75
        assert 1 <= metrics["mean_set_size"] <= 3
        assert metrics["ood_rate"] <= 0.2
        assert 0 <= metrics["ece"] <= 0.5


def test_every_bundle_says_what_it_was_made_from(outcome, main_config):
    for one in outcome.evaluated:
        bundle = load(one.candidate.uri)
        assert bundle.provenance.label_source == "cell_type of cells.h5ad"
        assert {"python", "numpy", "scikit-learn", "torch", "mlflow"} <= set(bundle.provenance.libraries)
        assert json.loads(bundle.provenance.config)["conformal_alpha"] == 0.1
        assert bundle.confidence.settings.min_precision == main_config.min_precision
        network = one.candidate.kind in NETWORKS
        assert bundle.spec.transform == ("counts" if network else "log1p")
        assert sum(bundle.label_counts) == pytest.approx(0.8 * 240, abs=4)
        profile, n_held_out = bundle.profile, 0.1 if network else 0.8
        assert profile.thresholds == QualityThresholds(min_genes=20, min_counts=0, max_pct_mito=100.0)
        assert profile.confidence_bins.sum() == pytest.approx(n_held_out * 240, abs=4)
        assert profile.detection.shape == (len(bundle.spec.gene_ids),)
        assert 0 < profile.detection.mean() < 1
        assert bundle.terms == {"B cell": "CL:0000236", "T cell": "CL:0000084"}


def test_the_champion_s_terms_are_in_the_annotated_file(outcome):
    obs = anndata.read_h5ad(outcome.scored[0].target).obs
    terms = obs.groupby("predicted_labels", observed=True)["cell_type_ontology_term_id"].unique()
    assert {label: list(found) for label, found in terms.items()} == {
        "B cell": ["CL:0000236"],
        "NK cell": ["unknown"],
        "T cell": ["CL:0000084"],
    }


def test_all_candidates_are_versions_and_the_best_was_challenger(outcome, main_config):
    versions = mlflow.search_model_versions(filter_string=f"name = '{main_config.model_name}'")
    assert {str(one.version) for one in versions} == {one.version.number for one in outcome.evaluated}
    best = max(outcome.evaluated, key=lambda one: one.score)
    champion = resolve_alias(main_config.model_name, CHAMPION)
    assert champion.number == best.version.number
    assert float(champion.tags["macro_f1"]) == pytest.approx(best.score, abs=1e-6)
    assert find_alias(main_config.model_name, CHALLENGER) is None, "a champion is no challenger any more"


def test_every_version_has_a_card(outcome):
    for one in outcome.evaluated:
        version = mlflow.MlflowClient().get_model_version(one.version.name, one.version.number)
        others = [other.version.number for other in outcome.evaluated if other is not one]
        for part in ("Macro-F1", "Expected calibration error", "| T cell |", "not stated", "Limits", *others):
            assert part in version.description, part
        page = mlflow.artifacts.load_text(version.tags["annotary.card"])
        assert version.tags["annotary.model_hash"] in page
        assert "data:image/png;base64," in page
        assert "<script" not in page


def test_first_challenger_becomes_champion_with_the_reason_on_the_version(outcome, main_config):
    champion = resolve_alias(main_config.model_name, CHAMPION)
    assert champion.number == outcome.evaluated[0].version.number
    assert "no champion yet" in champion.tags["annotary.promotion"]


def test_dataset_file_keeps_the_split_and_its_hashes(outcome, main_config):
    run = mlflow.search_runs(filter_string="tags.annotary.stage = 'preprocess'").iloc[0]
    path = mlflow.artifacts.download_artifacts(f"runs:/{run['run_id']}/dataset/dataset.h5ad")
    dataset = read_dataset(Path(path))
    shares = dataset.obs[keys.SPLIT].value_counts(normalize=True)
    np.testing.assert_allclose(shares[[keys.TRAIN, keys.VALIDATION, keys.TEST]], [0.7, 0.1, 0.2], atol=0.02)
    assert run["tags.annotary.dataset_hash"] == dataset.record.dataset_hash


def test_annotated_file_keeps_every_cell_in_order_with_its_record(outcome, main_config):
    scored = outcome.scored[0]
    before, after = anndata.read_h5ad(scored.source), anndata.read_h5ad(scored.target)
    assert list(after.obs_names) == list(before.obs_names)
    assert (after.X != before.X).nnz == 0
    assert after.obs[keys.PREDICTED_LABELS].dtype == "category"
    proba = after.obsm[keys.PROBABILITIES]
    record = read_record(scored.target)
    columns = np.array(record["probability_columns"])
    assert (columns[proba.argmax(axis=1)] == after.obs[keys.PREDICTED_LABELS].astype(str)).all()
    np.testing.assert_allclose(proba.max(axis=1), after.obs[keys.CONF_SCORE])
    assert record["model_name"] == main_config.model_name
    assert record["model_version"] == outcome.promotion.champion.number
    for name in ("run_id", "panel_hash", "input_sha256", "package_version", "time"):
        assert record[name]


def test_score_gives_the_labels_that_evaluate_reported(outcome):
    after = anndata.read_h5ad(outcome.scored[0].target)
    run = mlflow.search_runs(filter_string="tags.annotary.stage = 'evaluate'").iloc[0]
    predictions = pd.read_csv(
        mlflow.artifacts.download_artifacts(f"runs:/{run['run_id']}/tables/predictions.csv"), index_col=0
    )
    best = outcome.evaluated[0]
    name = f"{best.candidate.kind}_v{best.version.number}"
    given = after.obs.loc[predictions.index]
    assert (given[keys.PREDICTED_LABELS].astype(str) == predictions[name]).all()
    np.testing.assert_allclose(given[keys.CONF_SCORE], predictions[f"{name}_conf_score"], atol=1e-5)


@pytest.mark.full
def test_a_dry_run_without_a_champion_trains_and_annotates_nothing(store):
    source = write_cells(store / "cells.h5ad")
    values = SMALL | {"max_epochs": 1, "n_trials": 1}
    outcome = run_pipeline(MainConfig(input=str(source), output=str(store / "out"), mode="dry_run", **values))
    assert {one.candidate.kind for one in outcome.evaluated} >= {
        "logistic_regression",
        "random_forest",
        "transformer",
    }
    assert outcome.scored == []
    assert find_alias(outcome.evaluated[0].version.name, CHAMPION) is None
    assert not list((store / "out").glob("*.annotated.h5ad"))


@pytest.mark.full
def test_a_second_job_on_the_same_data_keeps_the_champion(store):
    source = write_cells(store / "cells.h5ad")
    values = SMALL | {"max_epochs": 1, "n_trials": 1}
    config = MainConfig(input=str(source), output=str(store / "out"), **values)
    first, second = run_pipeline(config), run_pipeline(config)
    assert second.promotion.champion.number == first.promotion.champion.number
    assert "is not higher than" in second.promotion.verdict.reason
    assert second.evaluated[0].score == first.evaluated[0].score, "the same seed gives the same model"


def verify_copy(outcome, tmp_path, change=None, **options):
    """Verify a copy of the annotated file, after a change to it."""
    copy = tmp_path / "copy.annotated.h5ad"
    cells = anndata.read_h5ad(outcome.scored[0].target)
    (cells if change is None else change(cells)).write_h5ad(copy)
    findings: dict[str, Finding] = {}
    for one in verify(VerifyConfig(file=str(copy), **options)):
        before = findings.get(one.what, one)
        says = one.says if before is one else f"{before.says}; {one.says}"
        findings[one.what] = replace(one, holds=before.holds and one.holds, says=says)
    return findings


def test_verify_finds_nothing_in_a_file_that_only_gained_something(outcome, tmp_path):
    def add(cells):
        cells.obs["note"] = "mine"
        return cells

    findings = verify_copy(outcome, tmp_path, add, input=str(outcome.scored[0].source))
    assert {one.holds for one in findings.values()} == {True}
    refuse_altered(list(findings.values()), "file")


def test_verify_names_the_cells_whose_labels_were_changed(outcome, tmp_path):
    def change(cells):
        cells.obs["predicted_labels"] = cells.obs["predicted_labels"].astype(str)
        cells.obs.loc["cell0007", "predicted_labels"] = "neuron"
        return cells

    findings = verify_copy(outcome, tmp_path, change)
    said = findings["obs['predicted_labels']"]
    assert said.holds is False
    assert "1 of 240 cells do not fit their probabilities: 'cell0007' says 'neuron'" in said.says
    with pytest.raises(OutputError, match="'cell0007' says 'neuron'"):
        refuse_altered(list(findings.values()), "file")


def test_verify_finds_removed_cells_another_input_and_another_version(outcome, tmp_path):
    removed = verify_copy(outcome, tmp_path, lambda cells: cells[5:].copy())
    assert "cells were removed or reordered" in removed["obs['predicted_labels']"].says

    def rename(cells):
        cells.uns["annotary"]["model_version"] = "99"
        cells.uns["annotary"]["input_sha256"] = "0" * 64
        return cells

    findings = verify_copy(outcome, tmp_path, rename, input=str(outcome.scored[0].source))
    assert findings["models:/cell-annotator/99"].holds is False
    assert findings["input"].holds is False


def test_models_and_ledger_are_listed(outcome, main_config):
    table = list_models(ModelsConfig(model_name=main_config.model_name)).splitlines()
    assert len(table) == 1 + len(outcome.evaluated)
    champion = next(line for line in table if "champion" in line)
    assert f"{outcome.evaluated[0].score:.3f}" in champion
    assert "cells.h5ad" in champion
    assert "1 entries, every link holds" in list_promotions(LedgerConfig(model_name=main_config.model_name))


def test_verify_finds_a_version_whose_files_were_altered(outcome, tmp_path):
    weights = next(
        path
        for path in fetch_bundle(outcome.promotion.champion.uri).rglob("*")
        if path.suffix == ".safetensors"
    )
    before = weights.read_bytes()
    try:
        weights.write_bytes(before + b"x")
        findings = verify_copy(outcome, tmp_path)
    finally:
        weights.write_bytes(before)
    said = findings[f"files of {outcome.promotion.champion.uri}"]
    assert said.holds is False
    assert weights.name in said.says


def test_score_uses_the_version_that_a_person_made_champion_and_the_ledger_says_so(outcome, main_config):
    """Last in this module: the champion is another one afterwards."""
    other = outcome.evaluated[1].version
    mlflow.MlflowClient().set_registered_model_alias(other.name, CHAMPION, other.number)
    source = outcome.scored[0].source
    folder = Path(source).parent / "by-hand"
    scored = score(ScoreConfig(input=str(source), output=str(folder), device="cpu")).annotated
    assert read_record(scored[0].target)["model_version"] == other.number
    noted = read_ledger(other.name).entries[-1].decision
    assert (noted.action, noted.after) == (OUTSIDE, other.number)
    assert resolve_alias(other.name, PREVIOUS).number == outcome.promotion.champion.number
