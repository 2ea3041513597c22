"""What preprocess keeps, leaves out and writes, by its parameters."""

import logging
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from conftest import shared_data
from scipy.sparse import csr_matrix
from simulate import simulate_cells

from annotary import keys
from annotary.config import PreprocessConfig
from annotary.data.dataset import Dataset, read_dataset
from annotary.errors import ConfigError, LabelError
from annotary.stages.preprocess import preprocess


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


def test_real_donors_stay_on_one_side(store):
    source = shared_data("kang_pbmc_8684.h5ad")
    dataset = run(store, input=str(source), split="group", group_key="donor", min_genes=100)
    assert (sides_of_groups(dataset) == 1).all()
    assert set(dataset.obs[keys.SPLIT]) == set(keys.SIDES)
