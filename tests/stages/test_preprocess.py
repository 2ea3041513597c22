"""What preprocess keeps, leaves out and writes, by its parameters."""

import logging
import warnings
from pathlib import Path

import anndata
import mlflow
import numpy as np
import pandas as pd
import pytest
import scanpy
from conftest import embed_here, shared_data
from scipy.sparse import csr_matrix
from simulate import simulate_cells

from annotary import keys
from annotary.config import PreprocessConfig
from annotary.data.dataset import Dataset, read_dataset
from annotary.errors import ConfigError, GeneOverlapError, LabelError
from annotary.stages.preprocess import preprocess

pytestmark = pytest.mark.usefixtures("no_embedding")


def run(store: Path, **changes: object) -> Dataset:
    """Preprocess simulated cells."""
    source = store / "cells.h5ad"
    if not source.exists():
        adata = simulate_cells()
        adata.obs["donor"] = [f"donor{cell % 6}" for cell in range(adata.n_obs)]
        adata.write_h5ad(source)
    values = {"input": str(source), "doublets": "none", "min_genes": 20, "n_top_genes": 60}
    return read_dataset(preprocess(PreprocessConfig(output=str(store / "out"), **values | changes)).path)


def sides_of_groups(dataset: Dataset) -> pd.Series:
    return dataset.obs.groupby(keys.GROUP, observed=True)[keys.SPLIT].nunique()


def test_a_donor_stays_on_one_side(store):
    dataset = run(store, split="group", group_key="donor")
    assert (sides_of_groups(dataset) == 1).all()
    assert set(dataset.obs[keys.SPLIT]) == set(keys.SIDES)


def test_a_group_split_asks_for_its_column(store):
    with pytest.raises(ConfigError, match="--group-key donor"):
        run(store, split="group")


@pytest.mark.parametrize(("n_top_genes", "expected"), [(25, 25), (0, None)])
def test_the_panel_has_the_size_asked_for(store, n_top_genes, expected):
    dataset = run(store, panel_method="f_test", n_top_genes=n_top_genes)
    assert len(dataset.panel) == (expected or len(dataset.var))


def test_labels_come_from_a_table_and_cells_without_one_are_left_out_and_counted(store):
    adata = simulate_cells()
    table = adata.obs.iloc[:200].rename_axis("barcode").rename(columns={"cell_type": "label"})
    table.to_csv(store / "labels.csv")
    dataset = run(store, labels=str(store / "labels.csv"))
    assert len(dataset.obs) == 200
    last = mlflow.search_runs(filter_string="tags.annotary.stage = 'preprocess'").iloc[0]
    assert last["metrics.cells_read"] == 240
    assert last["metrics.cells_labelled"] == 200


def test_rare_labels_are_refused_or_left_out_and_told(store, caplog):
    adata = simulate_cells()
    adata.obs["cell_type"] = np.where(np.arange(240) < 2, "Unicorn", adata.obs["cell_type"])
    adata.write_h5ad(store / "rare.h5ad")
    with pytest.raises(LabelError, match="--min-cells-per-label 3"):
        run(store, input=str(store / "rare.h5ad"))
    with caplog.at_level(logging.INFO, logger="annotary"):
        dataset = run(store, input=str(store / "rare.h5ad"), min_cells_per_label=3)
    assert "Unicorn" not in dataset.record.label_names
    assert "left out 2 cells: 'Unicorn' has 2 cells, fewer than 3" in caplog.text


def test_the_same_input_and_settings_give_the_same_dataset_whatever_its_order(store):
    adata = simulate_cells()
    rng = np.random.default_rng(3)
    shuffled = adata[rng.permutation(adata.n_obs), rng.permutation(adata.n_vars)].copy()
    shuffled.write_h5ad(store / "shuffled.h5ad")
    one, other = run(store), run(store, input=str(store / "shuffled.h5ad"))
    assert one.record.dataset_hash == other.record.dataset_hash
    assert run(store, seed=1).record.dataset_hash != one.record.dataset_hash


def test_labels_that_look_like_mathematics_are_drawn_as_they_are(store):
    adata = simulate_cells()
    names = {"B cell": r"CD34+ $\nope{$", "NK cell": "$x_1$/π", "T cell": "T"}
    adata.obs["cell_type"] = adata.obs["cell_type"].astype(str).map(names)
    adata.write_h5ad(store / "odd.h5ad")
    assert set(run(store, input=str(store / "odd.h5ad")).record.label_names) == set(names.values())


def test_the_text_nan_is_no_label(store, caplog):
    adata = simulate_cells()
    adata.obs["cell_type"] = np.where(np.arange(240) < 7, "nan", adata.obs["cell_type"])
    adata.write_h5ad(store / "nan.h5ad")
    with caplog.at_level(logging.INFO, logger="annotary"):
        dataset = run(store, input=str(store / "nan.h5ad"))
    assert "nan" not in dataset.record.label_names
    assert "left out 7 cells: no label" in caplog.text


def test_every_cell_that_is_left_out_is_listed_with_its_reason(store):
    adata = simulate_cells()
    adata.obs["cell_type"] = adata.obs["cell_type"].astype(object)
    adata.obs.loc[adata.obs_names[:4], "cell_type"] = None
    adata.obs.loc[adata.obs_names[4:6], "cell_type"] = "Unicorn"
    dense = adata.X.toarray()
    dense[10, 5:] = 0
    adata.X = csr_matrix(dense)
    adata.write_h5ad(store / "poor.h5ad")
    dataset = run(store, input=str(store / "poor.h5ad"), min_cells_per_label=3)
    last = mlflow.search_runs(filter_string="tags.annotary.stage = 'preprocess'").iloc[0]
    address = f"runs:/{last['run_id']}/cleaning/removed_cells.csv"
    removed = pd.read_csv(mlflow.artifacts.download_artifacts(address))
    reasons = removed["reason"].value_counts().to_dict()
    assert reasons == {
        "no label": 4,
        "'Unicorn' has 2 cells, fewer than 3": 2,
        "fewer than 20 genes": 1,
    }
    assert set(removed["cell_id"]) | set(dataset.obs.index) == set(adata.obs_names)
    assert not set(removed["cell_id"]) & set(dataset.obs.index)


def test_depth_is_over_all_genes_also_those_that_are_removed(store):
    dataset = run(store, min_cells=200)
    adata = simulate_cells()
    assert dataset.counts.shape[1] < adata.n_vars
    expected = pd.Series(np.asarray(adata.X.sum(axis=1)).ravel(), index=adata.obs_names)
    np.testing.assert_allclose(dataset.obs[keys.DEPTH], expected[dataset.obs.index])


def last_run() -> pd.Series:
    return mlflow.search_runs(filter_string="tags.annotary.stage = 'preprocess'").iloc[0]


def write_part(adata: anndata.AnnData, path: Path) -> str:
    adata.copy().write_h5ad(path)
    return str(path)


@pytest.mark.parametrize("form", ["list", "folder"])
def test_several_files_give_the_dataset_of_one_with_their_source_kept(store, form):
    adata = simulate_cells()
    (store / "parts").mkdir()
    first = write_part(adata[:100], store / "parts" / "p1.h5ad")
    second = write_part(adata[100:], store / "parts" / "p2.h5ad")
    one = run(store)
    several = run(store, input=f"{second},{first}" if form == "list" else str(store / "parts"))
    assert several.record.dataset_hash == one.record.dataset_hash
    assert several.obs[keys.SOURCE].value_counts().to_dict() == {"p2": 140, "p1": 100}
    assert (several.obs.loc[adata.obs_names[:100], keys.SOURCE] == "p1").all()


def test_files_with_other_genes_are_joined_on_those_they_share(store):
    adata = simulate_cells()
    first = write_part(adata[:120, 20:], store / "p1.h5ad")
    second = write_part(adata[120:, :250], store / "p2.h5ad")
    dataset = run(store, input=f"{first},{second}", min_cells=0)
    assert list(dataset.var.index) == list(adata.var_names[20:250])
    own = np.asarray(adata[:120, 20:].X.sum(axis=1)).ravel()
    np.testing.assert_allclose(dataset.obs.loc[adata.obs_names[:120], keys.DEPTH], own)


def test_a_file_with_ensembl_ids_is_joined_by_the_column_that_matches(store):
    adata = simulate_cells()
    first = write_part(adata[:120], store / "p1.h5ad")
    other = adata[120:].copy()
    other.var["gene_symbols"] = other.var_names
    other.var_names = [f"ENSG{gene:011d}.{gene % 9}" for gene in range(other.n_vars)]
    second = write_part(other, store / "p2.h5ad")
    dataset = run(store, input=f"{first},{second}")
    assert dataset.record.dataset_hash == run(store).record.dataset_hash


def test_the_same_barcode_in_two_files_gets_the_file_s_name(store, caplog):
    adata = simulate_cells()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adata.obs_names = [f"cell{cell % 120:04d}" for cell in range(240)]
        first = write_part(adata[:120], store / "p1.h5ad")
        second = write_part(adata[120:], store / "p2.h5ad")
    with caplog.at_level(logging.INFO, logger="annotary"):
        dataset = run(store, input=f"{first},{second}")
    assert set(dataset.obs.index) == {f"cell{n:04d}-{p}" for n in range(120) for p in ("p1", "p2")}
    assert "240 cells of different sources have the same id" in caplog.text


def test_a_cell_that_is_in_two_files_is_taken_once(store):
    adata = simulate_cells(n_genes=600)
    copies = adata[90:110].copy()
    copies.obs_names = [f"other{cell}" for cell in range(20)]
    first = write_part(adata, store / "p1.h5ad")
    second = write_part(copies, store / "p2.h5ad")
    dataset = run(store, input=f"{first},{second}")
    assert sorted(dataset.obs.index) == sorted(adata.obs_names)
    removed = pd.read_csv(store / "out" / "cleaning" / "removed_cells.csv")
    labels = adata.obs["cell_type"]
    expected = [f"same counts as {cell} ({labels[cell]})" for cell in adata.obs_names[90:110]]
    assert list(removed["reason"]) == expected
    assert set(removed["source"]) == {"p2"}


def test_a_cell_with_two_labels_is_told(store, caplog):
    adata = simulate_cells(n_genes=600)
    other = adata[:40].copy()
    other.obs_names = [f"other{cell}" for cell in range(40)]
    other.obs["cell_type"] = "B cell"
    n_disputed = int((adata.obs["cell_type"].iloc[:40] != "B cell").sum())
    first, second = write_part(adata, store / "p1.h5ad"), write_part(other, store / "p2.h5ad")
    with caplog.at_level(logging.WARNING, logger="annotary"):
        run(store, input=f"{first},{second}")
    assert f"{n_disputed} cells are in the data twice with two different labels" in caplog.text
    assert "two different labels" in (store / "out" / "dataset.html").read_text()


def test_what_an_earlier_run_left_in_the_folder_is_not_taken_for_this_one_s(store):
    run(store, doublets="scrublet")
    assert (store / "out" / "cleaning" / "doublets.csv").exists()
    run(store)
    assert {path.name for path in (store / "out" / "cleaning").iterdir()} == {
        "quality.png",
        "removed_cells.csv",
        "summary.json",
    }


def test_the_page_says_where_counts_were_found_and_how_many_genes_are_shared(store):
    adata = simulate_cells()
    first = write_part(adata[:120, 20:], store / "p1.h5ad")
    second = write_part(adata[120:, :250], store / "p2.h5ad")
    run(store, input=f"{first},{second}", min_cells=0)
    page = (store / "out" / "dataset.html").read_text()
    assert "p1.h5ad: X, 120 cells x 280 genes" in page
    assert last_run()["metrics.genes_read"] == 280
    assert last_run()["metrics.genes_shared"] == 230


def test_files_of_two_species_are_refused(store):
    adata = simulate_cells()
    first = write_part(adata[:120], store / "human.h5ad")
    mouse = adata[120:].copy()
    mouse.var_names = mouse.var_names.str.capitalize()
    second = write_part(mouse, store / "mouse.h5ad")
    with pytest.raises(GeneOverlapError, match=r"mouse\.h5ad: X needs .*found 0 of 300"):
        run(store, input=f"{first},{second}")


@pytest.mark.full
def test_clusters_stay_on_one_side_and_every_label_is_on_each(store):
    dataset = run(store, split="cluster", n_top_genes=0)
    assert (sides_of_groups(dataset) == 1).all()
    assert dataset.obs[keys.GROUP].nunique() > 10
    table = pd.crosstab(dataset.obs[keys.LABEL], dataset.obs[keys.SPLIT])
    assert (table > 0).all().all()


def test_folds_are_in_the_split_table_and_in_a_table_each(store):
    dataset = run(store, n_folds=4)
    run_id = last_run()["run_id"]
    tables = {
        name: pd.read_csv(mlflow.artifacts.download_artifacts(f"runs:/{run_id}/tables/{name}.csv"))
        for name in ("split", "split_fold_0", "split_fold_3")
    }
    split = tables["split"].set_index("cell_id")
    assert list(split.columns) == ["side", "fold"]
    assert (split.loc[dataset.obs.index, "fold"] == dataset.obs[keys.FOLD]).all()
    assert ((split["fold"] == -1) == (split["side"] == "test")).all()
    assert set(split["fold"]) == {-1, 0, 1, 2, 3}
    third = tables["split_fold_3"].set_index("cell_id")
    assert ((third["side"] == "validation") == (split["fold"] == 3)).all()
    assert ((third["side"] == "test") == (split["side"] == "test")).all()
    assert last_run()["tags.annotary.split_hash"] == dataset.record.split_hash
    assert run(store, n_folds=3).record.split_hash != dataset.record.split_hash


def test_clean_cells_are_reused_where_inputs_and_settings_are_the_same(store, monkeypatch):
    first = run(store)
    first_run = last_run()["run_id"]
    monkeypatch.setattr("annotary.stages.preprocess.clean_cells", None)  # cleaning again would fail
    again = run(store)
    assert again.record == first.record
    assert last_run()["tags.annotary.reused_run"] == first_run
    other_split = run(store, n_folds=5)
    assert other_split.record.counts_hash == first.record.counts_hash
    assert last_run()["metrics.cells_read"] == 240
    artifacts = {item.path for item in mlflow.MlflowClient().list_artifacts(last_run()["run_id"], "cleaning")}
    assert {"cleaning/removed_cells.csv", "cleaning/quality.png"} <= artifacts


@pytest.mark.parametrize("change", [{"min_genes": 30}, {"seed": 1}, {"reuse": False}, {"group_key": "donor"}])
def test_other_settings_clean_the_cells_anew(store, change):
    run(store)
    run(store, **change)
    assert "tags.annotary.reused_run" not in last_run()


def test_another_input_of_the_same_name_is_cleaned_anew(store):
    first = run(store)
    simulate_cells(seed=1).write_h5ad(store / "cells.h5ad")
    assert run(store).record.counts_hash != first.record.counts_hash


def test_an_earlier_run_whose_file_was_altered_is_passed_over(store, caplog):
    first = run(store)
    artifact = next((store / "artifacts").rglob("dataset.h5ad"))
    adata = anndata.read_h5ad(artifact)
    adata.X.data[0] += 1
    adata.write_h5ad(artifact)
    with caplog.at_level(logging.WARNING, logger="annotary"):
        again = run(store)
    assert again.record == first.record
    assert "cannot be reused" in caplog.text
    assert "changed after it was written" in caplog.text


def test_the_seed_preset_chooses_the_panel_on_all_cells_and_is_marked_leaky(store, caplog):
    simulate_cells(n_genes=1500).write_h5ad(store / "wide.h5ad")
    source = str(store / "wide.h5ad")
    with caplog.at_level(logging.INFO, logger="annotary"):
        leaky = run(store, input=source, preset="seed", n_top_genes=60)
    assert leaky.record.leaky
    assert last_run()["tags.leaky"] == "true"
    assert "--preset seed takes" in caplog.text
    assert "n_top_genes 1200" in caplog.text
    honest = run(store, input=source, min_genes=200, n_top_genes=1200)
    assert last_run()["tags.leaky"] == "false"
    assert honest.record.split_hash == leaky.record.split_hash
    assert list(honest.var["score"]) != list(leaky.var["score"])


def test_the_report_is_one_page_beside_the_dataset_and_in_the_run(store, monkeypatch):
    embed_here(monkeypatch)
    dataset = run(store)
    page = (store / "out" / "dataset.html").read_text()
    assert dataset.record.dataset_hash in page
    for caption in ("Quality of the labelled cells", "Gene panel", "UMAP of a sample"):
        assert caption in page
    logged = mlflow.artifacts.download_artifacts(f"runs:/{last_run()['run_id']}/dataset.html")
    assert Path(logged).read_text() == page


@pytest.mark.parametrize("lane_key", ["", "lane_of_cell"])
def test_doublets_are_called_lane_by_lane(store, lane_key):
    adata = simulate_cells(400)
    adata.obs["lane_of_cell"] = np.where(np.arange(400) < 150, "a", "b")
    source = write_part(adata, store / "lanes.h5ad")
    dataset = run(store, input=source, doublets="scrublet", lane_key=lane_key)
    table = pd.read_csv(store / "out" / "cleaning" / "doublets_by_lane.csv")
    expected = {"a": 150, "b": 250} if lane_key else {"lanes": 400}
    assert table.set_index("lane")["cells"].to_dict() == expected
    calls = pd.read_csv(store / "out" / "cleaning" / "doublets.csv", index_col="cell_id")
    assert set(calls.index[~calls["doublet"]]) == set(dataset.obs.index)
    np.testing.assert_allclose(
        dataset.obs["doublet_probability"], calls.loc[dataset.obs.index, "doublet_probability"]
    )
    assert last_run()["metrics.doublet_rate"] == pytest.approx(calls["doublet"].mean())


def test_log1p_input_gives_the_dataset_of_its_counts(store):
    adata = simulate_cells()
    scanpy.pp.normalize_total(adata, target_sum=1e4)
    scanpy.pp.log1p(adata)
    source = write_part(adata, store / "cells_log.h5ad")
    assert run(store, input=source).record.counts_hash == run(store).record.counts_hash


@pytest.mark.parametrize("prefix", ["MT-", "mt-"])
def test_quality_is_measured_as_scanpy_does_over_all_genes(store, prefix):
    adata = simulate_cells()
    adata.var_names = [f"{prefix}{gene}" if gene < 9 else f"G{gene:03d}" for gene in range(adata.n_vars)]
    source = write_part(adata, store / "mito.h5ad")
    dataset = run(store, input=source, min_cells=150)
    adata.var["mt"] = adata.var_names.str.startswith(prefix)
    scanpy.pp.calculate_qc_metrics(adata, qc_vars=["mt"], inplace=True, percent_top=None)
    for name in (keys.DEPTH, keys.N_GENES, keys.PCT_MITO):
        np.testing.assert_allclose(dataset.obs[name], adata.obs.loc[dataset.obs.index, name], rtol=1e-5)


def test_real_donors_stay_on_one_side(store):
    source = shared_data("kang_pbmc_8684.h5ad")
    dataset = run(store, input=str(source), split="group", group_key="donor", min_genes=100)
    assert (sides_of_groups(dataset) == 1).all()
    assert set(dataset.obs[keys.SPLIT]) == set(keys.SIDES)
