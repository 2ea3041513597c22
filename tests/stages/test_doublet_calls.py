"""What preprocess takes for doublets: bounded by loading and label, told in the terminal and on the page."""

import json
import logging
from pathlib import Path

import anndata
import mlflow
import numpy as np
import pandas as pd
import pytest
from callers import replace_caller
from conftest import shared_data
from html_page import Page
from scipy.stats import binom
from simulate import simulate_cells

from annotary import keys
from annotary.config import PreprocessConfig
from annotary.data.dataset import Dataset, read_dataset
from annotary.quality.doublets import LaneCalls
from annotary.stages.preprocess import preprocess

pytestmark = pytest.mark.usefixtures("no_embedding")

N_CELLS, RATE = 240, 0.06
EXPLAINED = int(binom.ppf(0.99, N_CELLS, RATE))


def run(store: Path, adata: anndata.AnnData, **changes: object) -> Dataset:
    """Preprocess cells of which 6 % are expected to be doublets."""
    adata.write_h5ad(store / "cells.h5ad")
    values = {"doublets": "solo", "doublet_rate": RATE / (N_CELLS / 1000), "min_genes": 20, "n_top_genes": 60}
    values |= {"input": str(store / "cells.h5ad"), "output": str(store / "out")}
    return read_dataset(preprocess(PreprocessConfig(**values | changes)).path)


def call_by_score(monkeypatch, score: np.ndarray, method: str = "solo") -> list[int]:
    """Let the caller give these scores to the cells of each lane; the sizes of the lanes are noted."""
    sizes = []

    def call_lane(counts, **_):
        sizes.append(counts.shape[0])
        own = score[: counts.shape[0]]
        return LaneCalls(
            probability=own,
            is_doublet=own > 0.5,
            threshold=0.5,
            epochs=1,
            converged=True,
            curves=pd.DataFrame(),
        )

    replace_caller(monkeypatch, method, call_lane)
    return sizes


@pytest.fixture
def cells() -> anndata.AnnData:
    return simulate_cells(N_CELLS)


@pytest.fixture
def t_cell_scores(cells) -> np.ndarray:
    """All T cells are called, and no other."""
    is_t = (cells.obs["cell_type"] == "T cell").to_numpy()
    return np.where(is_t, 0.9, 0.2) + np.linspace(0, 0.05, N_CELLS)


def read_cleaning_table(store: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(store / "out" / "cleaning" / f"{name}.csv")


@pytest.mark.parametrize("method", ["solo", pytest.param("scrublet", marks=pytest.mark.full)])
def test_a_label_loses_no_more_than_its_limit_and_the_rest_is_kept_and_marked(
    method, store, cells, t_cell_scores, monkeypatch, caplog
):
    call_by_score(monkeypatch, t_cell_scores, method)
    with caplog.at_level(logging.INFO, logger="annotary"):
        dataset = run(store, cells, doublets=method)
    n_t = int((cells.obs["cell_type"] == "T cell").sum())
    taken = int(3 * RATE * n_t)
    assert 0 < taken < EXPLAINED < n_t
    assert len(dataset.obs) == N_CELLS - taken
    marked = dataset.obs[dataset.obs[keys.DOUBLET_KEPT]]
    assert (marked[keys.LABEL] == "T cell").all()
    assert len(marked) == EXPLAINED - taken
    by_label = read_cleaning_table(store, "doublets_by_label").set_index("label")
    assert by_label.loc["T cell", ["cells", "doublets", "doublets_kept"]].tolist() == [
        n_t, taken, EXPLAINED - taken,
    ]  # fmt: skip
    assert by_label.loc["B cell", "doublets"] == 0
    removed = set(read_cleaning_table(store, "removed_cells")["cell_id"])
    highest = set(cells.obs_names[np.argsort(t_cell_scores)[-taken:]])
    assert removed == highest
    name = "SOLO" if method == "solo" else "Scrublet"
    assert f"{name} calls {n_t} of 240 cells doublets, where 6.0% are expected of 240 cells" in caplog.text
    assert f"T cell {EXPLAINED} of {n_t} cells called, {taken} left out" in caplog.text
    assert "--doublet-label-limit 0 leaves them out too" in caplog.text


@pytest.mark.full
def test_without_a_limit_by_label_the_loading_is_the_only_bound(store, cells, t_cell_scores, monkeypatch):
    call_by_score(monkeypatch, t_cell_scores)
    dataset = run(store, cells, doublet_label_limit=0)
    assert len(dataset.obs) == N_CELLS - EXPLAINED
    assert not dataset.obs[keys.DOUBLET_KEPT].any()


def test_losses_by_label_are_told_in_the_terminal_on_the_page_and_in_the_run(
    store, cells, t_cell_scores, monkeypatch, caplog
):
    call_by_score(monkeypatch, t_cell_scores)
    with caplog.at_level(logging.INFO, logger="annotary"):
        dataset = run(store, cells)
    n_t = int((cells.obs["cell_type"] == "T cell").sum())
    taken = int(3 * RATE * n_t)
    assert (
        f"doublets: {taken} of 240 cells ({taken / 240:.1%}) are left out, 14 expected (6.0%)" in caplog.text
    )
    assert f"largest shares first: T cell {taken / n_t:.1%} ({taken} of {n_t})" in caplog.text
    html = (store / "out" / "dataset.html").read_text()
    assert "called doublets than 3 times what is expected" in html
    page = Page(html)
    row = [str(n_t), str(taken), f"{100 * taken / n_t:.1f} %", "6.0 %", str(EXPLAINED - taken)]
    rows = [page.cells[at + 1 : at + 6] for at, cell in enumerate(page.cells) if cell == "T cell"]
    assert row in rows
    last = mlflow.search_runs(filter_string="tags.annotary.stage = 'preprocess'").iloc[0]
    figures = {
        "doublets_called": n_t,
        "doublets_explained": EXPLAINED,
        "doublets_removed": taken,
        "doublets_kept": EXPLAINED - taken,
        "doublet_expected_rate": RATE,
        "doublet_rate": taken / N_CELLS,
    }
    recorded = json.loads(dataset.record.doublets)
    for name, value in figures.items():
        assert last[f"metrics.{name}"] == pytest.approx(value)
        assert recorded[name] == pytest.approx(value)


def test_cells_without_a_label_count_as_cells_of_the_lane(store, cells, monkeypatch):
    cells.obs["cell_type"] = np.where(np.arange(N_CELLS) < 120, cells.obs["cell_type"], None)
    sizes = call_by_score(monkeypatch, np.linspace(0.3, 0.6, N_CELLS))
    run(store, cells)
    lane = read_cleaning_table(store, "doublets_by_lane").iloc[0]
    assert sizes == [120]
    assert (lane["cells"], lane["recovered"]) == (120, N_CELLS)
    assert lane["expected_rate"] == pytest.approx(RATE)


@pytest.mark.full
def test_poor_cells_do_not_count_as_cells_of_the_lane(store, cells, monkeypatch):
    counts = cells.X.toarray()
    counts[:40, 5:] = 0
    cells.X = type(cells.X)(counts)
    call_by_score(monkeypatch, np.linspace(0.3, 0.6, N_CELLS))
    run(store, cells)
    assert read_cleaning_table(store, "doublets_by_lane").loc[0, "recovered"] == 200


@pytest.mark.full
def test_lanes_are_bounded_each_by_its_own_cells(store, cells, monkeypatch):
    cells.obs["run"] = np.where(np.arange(N_CELLS) < 180, "large", "small")
    call_by_score(monkeypatch, np.where(np.arange(N_CELLS) < 29, 0.9, 0.2) + np.linspace(0.05, 0, N_CELLS))
    run(store, cells, lane_key="run", doublet_label_limit=0, doublet_rate=0.25)
    lanes = read_cleaning_table(store, "doublets_by_lane").set_index("lane")
    explained = {"large": binom.ppf(0.99, 180, 0.045), "small": binom.ppf(0.99, 60, 0.015)}
    assert lanes["doublets"].to_dict() == explained


@pytest.mark.parametrize(
    "options",
    [
        {},
        pytest.param({"doublet_rate": 0.1}, marks=pytest.mark.full),
        pytest.param({"doublet_label_limit": 0.0}, marks=pytest.mark.full),
    ],
)
def test_cleaned_cells_are_reused_with_the_same_bounds_only(
    store, cells, t_cell_scores, monkeypatch, options
):
    call_by_score(monkeypatch, t_cell_scores)
    first = run(store, cells)
    page = (store / "out" / "dataset.html").read_text()
    sizes = call_by_score(monkeypatch, t_cell_scores)
    again = run(store, cells, **options)
    assert len(sizes) == (1 if options else 0)
    if not options:
        assert again.record == first.record
        pd.testing.assert_frame_equal(again.obs, first.obs)
        table = page[page.index("Doublets by label") :].split("</table>")[0]
        assert table in (store / "out" / "dataset.html").read_text()


@pytest.mark.full
def test_the_seed_preset_keeps_to_the_bounds_too(store, monkeypatch):
    cells = simulate_cells(N_CELLS, 1_500)
    score = np.where(np.arange(N_CELLS) < 100, 0.9, 0.2) + np.linspace(0.05, 0, N_CELLS)
    call_by_score(monkeypatch, score)
    run(store, cells, preset="seed", doublet_label_limit=0)
    assert read_cleaning_table(store, "doublets_by_lane").loc[0, "doublets"] == EXPLAINED


def test_a_dataset_file_of_before_the_bounds_is_read(store, cells):
    run(store, cells, doublets="none")
    path = store / "out" / "dataset.h5ad"
    adata = anndata.read_h5ad(path)
    record = json.loads(adata.uns[keys.RECORD])
    del record["doublets"]
    adata.uns[keys.RECORD] = json.dumps(record)
    adata.write_h5ad(path)
    assert read_dataset(path).record.doublets == ""


@pytest.mark.full
def test_solo_takes_no_more_of_real_cells_than_their_loading_explains(store):
    source = shared_data("pbmc3k_2638.h5ad")
    config = PreprocessConfig(input=str(source), output=str(store / "out"))
    dataset = read_dataset(preprocess(config).path)
    n_cells, rate = 2_638, 0.008 * 2.638
    assert n_cells - len(dataset.obs) <= binom.ppf(0.99, n_cells, rate) < 0.03 * n_cells
    by_label = read_cleaning_table(store, "doublets_by_label").set_index("label")
    assert (by_label["doublets"] <= 3 * rate * by_label["cells"]).all()
    assert by_label["doublets"].sum() > 0
