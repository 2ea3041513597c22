"""Bad input ends with one clear line, a FAILED run, and nothing half written."""

import json
import shutil
import uuid

import anndata
import mlflow
import numpy as np
import pytest
from click.testing import CliRunner
from conftest import leave_out_embedding, leave_store, use_store
from mlflow.exceptions import MlflowException
from simulate import simulate_cells, write_cells

from annotary.cli import cli
from annotary.config import BaselinesConfig, EvaluateConfig, PreprocessConfig, PromoteConfig, ScoreConfig
from annotary.errors import (
    BundleError,
    CountsError,
    InputFileError,
    LabelError,
    RegistryError,
)
from annotary.registry import get_version, resolve_alias, set_alias
from annotary.scoring.ledger_file import LEDGER_NAME
from annotary.scoring.outcome import BatchError
from annotary.scoring.records import read_record
from annotary.stages.baselines import baselines
from annotary.stages.evaluate import evaluate
from annotary.stages.preprocess import preprocess
from annotary.stages.promote import promote
from annotary.stages.score import score


def no_label_column(adata):
    del adata.obs["cell_type"]


def fraction(adata):
    adata.X = adata.X.astype(np.float32)
    adata.X.data[17] = 0.37


def lonely_class(adata):
    adata.obs["cell_type"] = np.where(np.arange(adata.n_obs) == 5, "Unicorn", adata.obs["cell_type"])


def one_class(adata):
    adata.obs["cell_type"] = "B cell"


def repeated_ids(adata):
    adata.obs_names = ["twin"] * adata.n_obs


BAD = {
    "no label column": (no_label_column, LabelError, r"obs needs a column 'cell_type'.*--label-key"),
    "a fraction": (fraction, CountsError, r"non-negative integers; found 0.37 at cell 'cell0000'"),
    "a class of one": (lonely_class, LabelError, r"at least 3 cells of each label.*1 of 'Unicorn'"),
    "one class": (one_class, LabelError, r"at least two different labels"),
    "repeated ids": (repeated_ids, InputFileError, r"a different id for each cell.*'twin'"),
}


def make_config(store, source, **changes) -> PreprocessConfig:
    values = {"doublets": "none", "min_genes": 20, "output": str(store / "out")}
    return PreprocessConfig(input=str(source), **values | changes)


def last_run(stage: str):
    return mlflow.search_runs(filter_string=f"tags.annotary.stage = '{stage}'").iloc[0]


@pytest.mark.parametrize("name", BAD)
def test_bad_files_end_preprocess_with_one_line_and_a_failed_run(name, store):
    damage, error_class, message = BAD[name]
    adata = simulate_cells()
    damage(adata)
    source = store / "bad.h5ad"
    adata.write_h5ad(source)
    before = source.read_bytes()
    with pytest.raises(error_class, match=message) as caught:
        preprocess(make_config(store, source))
    assert "\n" not in str(caught.value)
    assert source.read_bytes() == before
    assert list((store / "out").iterdir()) == []
    run = last_run("preprocess")
    assert run["status"] == "FAILED"
    assert run["tags.annotary.error"] == str(caught.value)


def missing(path):
    return path


def text(path):
    path.write_text("barcode,label\n")
    return path


def truncated(path):
    write_cells(path)
    path.write_bytes(path.read_bytes()[:4000])
    return path


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (missing, "to be a file that can be read; found no such file"),
        (text, "that is not HDF5"),
        (truncated, "to be a whole h5ad file"),
    ],
)
def test_files_that_cannot_be_read_are_refused(make, message, store):
    with pytest.raises(InputFileError, match=message):
        preprocess(make_config(store, make(store / "bad.h5ad")))
    assert last_run("preprocess")["status"] == "FAILED"


def test_thresholds_that_leave_no_cell_are_refused(store, cells_file):
    with pytest.raises(CountsError, match="cells with at least 100000 expressed genes"):
        preprocess(make_config(store, cells_file, min_genes=100_000))


def test_no_champion_is_an_error_that_says_what_to_do(store, cells_file):
    with pytest.raises(RegistryError, match=r"@champion needs a version with this alias.*annotary promote"):
        score(ScoreConfig(input=str(cells_file), output=str(store / "out")))
    assert not (store / "out").exists()
    assert last_run("score")["status"] == "FAILED"


def test_evaluate_without_models_says_what_to_run(store, cells_file):
    dataset = preprocess(make_config(store, cells_file)).address
    with pytest.raises(RegistryError, match="Run annotary baselines or annotary transformer"):
        evaluate(EvaluateConfig(dataset=dataset))


def test_a_dataset_that_is_none_is_refused(store, cells_file):
    with pytest.raises(InputFileError, match="to be a dataset file"):
        baselines(BaselinesConfig(dataset=str(cells_file)))


class TestScoring:
    """Files that a champion cannot annotate."""

    @pytest.fixture(scope="class")
    def trained(self, empty_store, tmp_path_factory):
        """A folder in which a champion was trained, once, and a copy of it: stores keep absolute paths."""
        folder, copy = tmp_path_factory.mktemp("champion"), tmp_path_factory.mktemp("copy") / "champion"
        with pytest.MonkeyPatch.context() as monkeypatch:
            leave_out_embedding(monkeypatch)
            use_store(empty_store, folder, monkeypatch)
            source = write_cells(folder / "cells.h5ad")
            dataset = preprocess(make_config(folder, source, n_top_genes=60)).address
            baselines(BaselinesConfig(dataset=dataset, n_trials=1))
            evaluate(EvaluateConfig(dataset=dataset, device="cpu"))
            promote(PromoteConfig())
            leave_store()
        shutil.copytree(folder, copy)
        return folder, copy

    @pytest.fixture
    def champion(self, trained, monkeypatch):
        folder, copy = trained
        shutil.rmtree(folder)
        shutil.copytree(copy, folder)
        store = (folder / "mlflow.db").rename(folder / f"{uuid.uuid4()}.db")  # MLflow holds the last one open
        monkeypatch.chdir(folder)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store}")
        mlflow.set_tracking_uri(f"sqlite:///{store}")
        mlflow.set_experiment("tests")
        yield folder
        leave_store()

    def test_fewer_than_half_of_the_panel_is_refused(self, champion):
        other = simulate_cells(30)
        other.var_names = [f"OTHER{gene}" for gene in range(other.n_vars)]
        other.write_h5ad(champion / "other.h5ad")
        with pytest.raises(
            BatchError, match=r"at least 50% of the model's 60 genes.*found 0 \(0.0%\)"
        ) as refused:
            score(ScoreConfig(input=str(champion / "other.h5ad"), output=str(champion / "scored")))
        assert refused.value.exit_code == 2
        assert [path.name for path in (champion / "scored").iterdir()] == [LEDGER_NAME]
        assert last_run("score")["status"] == "FAILED"

    def test_a_bad_file_of_a_folder_does_not_stop_the_others(self, champion):
        folder = champion / "incoming"
        folder.mkdir()
        write_cells(folder / "a.h5ad", n_cells=20, seed=3)
        (folder / "b.h5ad").write_text("not HDF5")
        write_cells(folder / "c.h5ad", n_cells=20, seed=4)
        config = ScoreConfig(input=str(folder), output=str(champion / "scored"), settle_seconds=0)
        for _ in range(2):
            with pytest.raises(BatchError, match=r"1 of 3 that cannot.*b\.h5ad") as refused:
                score(config)
            assert refused.value.exit_code == 3
        assert refused.value.outcome.count("known") == 2
        assert {path.name for path in (champion / "scored").iterdir()} == {
            "a.annotated.h5ad",
            "c.annotated.h5ad",
            LEDGER_NAME,
        }
        assert last_run("score")["status"] == "FAILED"

    def test_annotated_files_are_no_inputs_of_the_next_run(self, champion):
        folder = champion / "incoming"
        folder.mkdir()
        write_cells(folder / "a.h5ad", n_cells=20, seed=3)
        config = ScoreConfig(input=str(folder), output=str(folder), settle_seconds=0)
        statuses = [[one.status for one in score(config).files] for _ in range(2)]
        assert statuses == [["annotated"], ["known"]]

    def test_labels_are_not_needed_and_nan_in_obs_does_not_matter(self, champion):
        adata = simulate_cells(25, seed=9)
        adata.obs["cell_type"] = np.nan
        adata.write_h5ad(champion / "query.h5ad")
        done = score(ScoreConfig(input=str(champion / "query.h5ad"), output=str(champion / "scored")))
        assert anndata.read_h5ad(done.files[0].target).n_obs == 25

    def test_a_model_whose_files_were_altered_annotates_nothing(self, champion):
        config = ScoreConfig(input=str(champion / "cells.h5ad"), output=str(champion / "scored"))
        for path in champion.glob("artifacts/**/bundle/weights/weights.safetensors"):
            path.write_bytes(path.read_bytes()[:-1] + b"x")
        with pytest.raises(BundleError, match=r"altered, gone or added: .*weights.safetensors"):
            score(config)
        assert not list((champion / "scored").glob("*.h5ad"))

    def test_a_store_that_goes_away_does_not_undo_what_was_annotated(self, champion, monkeypatch, caplog):
        def refuse(*arguments, **options):
            raise MlflowException("API request failed: connection refused")

        monkeypatch.setattr("mlflow.log_metrics", refuse)
        config = ScoreConfig(input=str(champion / "cells.h5ad"), output=str(champion / "scored"))
        with caplog.at_level("WARNING", logger="annotary"):
            assert [one.status for one in score(config).files] == ["annotated"]
        assert "what was done is not in MLflow" in caplog.text
        monkeypatch.undo()
        assert [one.status for one in score(config).files] == ["known"]

    @pytest.mark.slow
    def test_a_shadow_is_compared_and_leaves_the_outputs_alone(self, champion):
        dataset = sorted(champion.glob("out/dataset.h5ad"))[0]
        baselines(BaselinesConfig(dataset=str(dataset), kinds="random_forest", n_trials=1))
        evaluate(EvaluateConfig(dataset=str(dataset), device="cpu"))
        other = "1" if resolve_alias("cell-annotator", "champion").number == "2" else "2"
        set_alias(get_version("cell-annotator", other), "challenger")
        config = ScoreConfig(input=str(champion / "cells.h5ad"), output=str(champion / "scored"))
        shadowed = config.model_copy(update={"shadow": "challenger"})
        run = mlflow.get_run(score(shadowed).run_id)
        assert 0.5 < run.data.metrics["shadow_agreement"] <= 1
        assert run.data.tags["annotary.shadow"] == f"models:/cell-annotator/{other}"
        assert "shadow_agreement" in get_version("cell-annotator", other).tags
        record = read_record(champion / "scored" / "cells.annotated.h5ad")
        assert record["model_version"] == resolve_alias("cell-annotator", "champion").number

    def test_a_run_tells_labels_drift_and_files(self, champion):
        simulate_cells()[:40].write_h5ad(champion / "query.h5ad")
        outcome = score(ScoreConfig(input=str(champion / "query.h5ad"), output=str(champion / "scored")))
        run = mlflow.get_run(outcome.run_id)
        assert run.data.tags["drift"] in ("ok", "warn", "alert", "unknown")
        assert run.data.metrics["cells_annotated"] == 40
        compared = {"confidence_ks", "panel_genes_shifted", "label_shares_psi"}
        assert {f"drift.{name}" for name in compared} <= set(run.data.metrics)
        assert run.data.metrics["genes_shifted"] == 0, "the cells are like those of training"
        assert run.data.metrics["cells_poor_quality"] == 0
        genes = mlflow.artifacts.load_text(f"runs:/{outcome.run_id}/tables/gene_detection.csv")
        assert genes.startswith("gene,in_training,found,is_shifted")
        page = mlflow.artifacts.load_text(f"runs:/{outcome.run_id}/scoring.html")
        assert "query.h5ad" in page
        assert "data:image" not in page, "a UMAP is drawn only where it is asked for"
        assert json.loads(outcome.to_json())["files"][0]["n_cells"] == 40

    def test_another_table_of_terms_replaces_the_model_s_and_a_wrong_one_ends_the_run(self, champion):
        write_cells(champion / "query.h5ad", n_cells=40, seed=3)
        table = champion / "terms.csv"
        table.write_text("label,cell_type_ontology_term_id\nB cell,CL:0000236\n")
        config = ScoreConfig(
            input=str(champion / "query.h5ad"), output=str(champion / "with_terms"), ontology=str(table)
        )
        [scored] = score(config).files
        obs = anndata.read_h5ad(scored.target).obs
        is_b = obs["predicted_labels"] == "B cell"
        assert (obs["cell_type_ontology_term_id"] == np.where(is_b, "CL:0000236", "unknown")).all()
        table.write_text("label,cell_type_ontology_term_id\nB cell,236\n")
        with pytest.raises(InputFileError, match="the term '236'"):
            score(config)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["preprocess", "--min-genes", "-3"], "--min-genes needs to be greater than or equal to 0; found -3"),
        (["score"], "Missing option '--input'"),
        (["main", "--d-model", "11"], "--n-heads needs to be a divisor of --d-model, which is 11; found 2"),
        (["promote", "--model-name", "my/model"], "without / : @ ? or ', as MLflow asks; found 'my/model'"),
        (["models", "--model-name", "it's"], "--model-name needs to be a name of at most 200 printable"),
        (["pretrain", "--pretrained-name", "a@b"], "--pretrained-name needs to be a name of at most 200"),
        (["preprocess", "--n-top-genes", "many"], "is not a valid integer"),
    ],
)
def test_bad_options_are_named(arguments, message, store):
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code != 0
    assert message in result.output + str(result.exception)
