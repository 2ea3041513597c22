"""The accuracy benchmark's own parts: folds, the CSV that it goes on from, the table, the peers."""

import json
import sys
from functools import partial
from pathlib import Path

import accuracy
import accuracy_networks
import numpy as np
import pandas as pd
import pytest
from accuracy import LabelledData
from accuracy_comparison import LINEAR, compare, make_comparison, write_letters
from accuracy_models import (
    CELLTYPIST,
    PLAIN_LR,
    Cells,
    Model,
    drop_missing,
    list_models,
    predict_celltypist,
    predict_plain,
    predict_scanvi,
    predict_tuned,
)
from accuracy_networks import ENSEMBLE, LINEAR_PANEL, NOTEBOOK, TRANSFORMER, TRANSFORMER_3
from simulate import simulate_cells
from sklearn.metrics import f1_score

from annotary.models.baselines import BASELINES
from annotary.models.transformer.config import TrainingConfig

N_DONORS = 4


def write_data(path: Path, *, donors: bool) -> LabelledData:
    adata = simulate_cells(n_genes=400)
    if donors:
        adata.obs["donor"] = [f"donor{cell % N_DONORS}" for cell in range(adata.n_obs)]
    adata.write_h5ad(path)
    return accuracy.read_data(str(path))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def data(folder) -> LabelledData:
    return write_data(folder / "cells.h5ad", donors=False)


@pytest.fixture(scope="module")
def donors(folder) -> LabelledData:
    return write_data(folder / "donors.h5ad", donors=True)


class CountedModel:
    def __init__(self) -> None:
        self.n_calls = 0

    def __call__(self, train: Cells, labels: np.ndarray, held_out: Cells) -> np.ndarray:
        self.n_calls += 1
        rng = np.random.default_rng(self.n_calls)
        return rng.choice(np.unique(labels), size=len(held_out))


@pytest.mark.parametrize(("kind", "n_folds"), [("data", accuracy.N_FOLDS), ("donors", N_DONORS)])
def test_folds_are_disjoint_and_complete(kind, n_folds, request):
    data = request.getfixturevalue(kind)
    folds = list(accuracy.iter_folds(data))
    every = np.arange(len(data.labels))
    assert len({name for name, _, _ in folds}) == n_folds
    assert np.array_equal(np.sort(np.concatenate([held_out for _, _, held_out in folds])), every)
    for _, train, held_out in folds:
        assert np.array_equal(np.sort(np.concatenate([train, held_out])), every)


def test_stratified_folds_have_each_label_evenly(data):
    for label in np.unique(data.labels):
        shares = [np.sum(data.labels[held_out] == label) for _, _, held_out in accuracy.iter_folds(data)]
        assert max(shares) - min(shares) <= 1


def test_donors_are_left_out_whole(donors):
    for name, train, held_out in accuracy.iter_folds(donors):
        assert set(donors.cells.donors[held_out]) == {name}
        assert name not in donors.cells.donors[train]


def test_unlabelled_cells_of_a_file_are_left_out(tmp_path):
    adata = simulate_cells(n_cells=60)
    labels = adata.obs["cell_type"].astype(object)
    labels.iloc[[3, 10]] = None
    adata.obs["cell_type"] = pd.Categorical(labels)
    adata.write_h5ad(tmp_path / "some.h5ad")
    read = accuracy.read_data(str(tmp_path / "some.h5ad"))
    assert (read.name, len(read.cells), len(read.labels)) == ("some", 58, 58)
    assert "cell0003" not in read.cells.cell_ids
    assert np.array_equal(read.labels, labels.loc[read.cells.cell_ids])


def test_the_embedded_cells_keep_their_depth():
    cells = accuracy.read_data(accuracy.EMBEDDED).cells
    assert len(cells) == 700
    assert np.all(cells.depth > cells.counts.sum(axis=1).A1)


def test_each_result_is_written_at_once(data, tmp_path):
    out = tmp_path / "accuracy.csv"

    def predict(train: Cells, labels: np.ndarray, held_out: Cells) -> np.ndarray:
        if out.exists() and len(accuracy.read_results(out)) == 2:
            raise KeyboardInterrupt
        return np.repeat(labels[0], len(held_out))

    with pytest.raises(KeyboardInterrupt):
        accuracy.run([data], [Model("same", predict)], out)
    assert list(accuracy.read_results(out)["fold"]) == ["0", "1"]


def test_resume_skips_what_is_there(data, donors, tmp_path):
    out, first, second = tmp_path / "accuracy.csv", CountedModel(), CountedModel()
    accuracy.run([data], [Model("first", first)], out)
    whole = accuracy.read_results(out)
    whole.drop(index=[1, 3]).to_csv(out, index=False)
    accuracy.run([data, donors], [Model("first", first), Model("second", second)], out)
    assert (first.n_calls, second.n_calls) == (5 + 2 + N_DONORS, 5 + N_DONORS)
    results = accuracy.read_results(out)
    assert not results.duplicated(["dataset", "fold", "model"]).any()
    assert len(results) == 2 * (5 + N_DONORS)
    assert results.iloc[:3].equals(whole.drop(index=[1, 3]).reset_index(drop=True))


def test_resume_refuses_folds_of_another_number_of_trials(data, tmp_path):
    out, counted = tmp_path / "accuracy.csv", CountedModel()
    accuracy.run([data], [Model("tuned", counted, n_trials=2)], out)
    with pytest.raises(SystemExit, match="tuned by 2 trials there, not by 3"):
        accuracy.run([data], [Model("tuned", counted, n_trials=3)], out)
    assert counted.n_calls == 5


def run_main(out: Path, file: Path, *options: str) -> None:
    accuracy.main(["--data", accuracy.EMBEDDED, str(file), "--models", PLAIN_LR, "--out", str(out), *options])


def test_only_resume_keeps_results(data, folder, tmp_path, capsys):
    out = tmp_path / "accuracy.csv"
    run_main(out, folder / "cells.h5ad")
    before = out.read_text()
    assert accuracy.make_markdown(accuracy.read_results(out)) in capsys.readouterr().out
    run_main(out, folder / "cells.h5ad", "--resume")
    assert out.read_text() == before
    assert "fold 0" not in capsys.readouterr().out
    run_main(out, folder / "cells.h5ad")
    assert len(accuracy.read_results(out)) == 2 * accuracy.N_FOLDS
    assert "fold 0" in capsys.readouterr().out


def make_results(dataset: str, model: str, scores: list[float]) -> pd.DataFrame:
    rows = [
        {
            "dataset": dataset,
            "fold": str(fold),
            "model": model,
            "macro_f1": score,
            "accuracy": score / 2,
            "seconds": fold + 1.0,
            "n_train": 80,
            "n_test": 20,
            "n_trials": 0,
            "confusion": "[[12,3],[1,4]]",
        }
        for fold, score in enumerate(scores)
    ]
    return pd.DataFrame(rows)


def test_the_means_of_the_table_are_those_of_the_csv(tmp_path):
    results = [make_results("a", "one", [0.8, 0.7, 0.9]), make_results("b", "one_more", [0.6])]
    pd.concat(results).to_csv(tmp_path / "accuracy.csv", index=False)
    lines = accuracy.make_markdown(pd.read_csv(tmp_path / "accuracy.csv")).splitlines()
    assert lines[2] == "| a | one | 3 | 0.800 ± 0.100 | 0.400 ± 0.050 | 2.0 |  |"
    assert lines[3] == "| b | one more | 1 | 0.600 | 0.300 | 1.0 |  |"
    assert len(lines) == 4


def test_scores_and_confusion_of_a_fold_agree(data, tmp_path):
    accuracy.run([data], [Model("chance", CountedModel())], tmp_path / "accuracy.csv")
    for row in accuracy.read_results(tmp_path / "accuracy.csv").itertuples():
        confusion = np.array(json.loads(row.confusion))
        assert confusion.sum() == row.n_test == len(data.labels) - row.n_train
        assert accuracy.compute_macro_f1(confusion) == pytest.approx(row.macro_f1, abs=1e-4)
        assert np.trace(confusion) / row.n_test == pytest.approx(row.accuracy, abs=1e-4)


def test_macro_f1_leaves_out_labels_that_are_nowhere():
    confusion = np.array([[3, 1, 0], [0, 4, 0], [0, 0, 0]])
    truth, given = [0] * 4 + [1] * 4, [0, 0, 0, 1] + [1] * 4
    assert accuracy.compute_macro_f1(confusion) == pytest.approx(f1_score(truth, given, average="macro"))


def test_the_interval_is_that_of_drawing_cells_again():
    rng = np.random.default_rng(0)
    truth = np.repeat([0, 1, 2], [120, 60, 12])
    given = np.where(rng.random(192) < 0.8, truth, rng.integers(0, 3, 192))
    confusion = np.zeros((3, 3), dtype=int)
    np.add.at(confusion, (truth, given), 1)
    drawn = [rng.integers(0, 192, 192) for _ in range(1_000)]
    expected = np.percentile(
        [f1_score(truth[rows], given[rows], average="macro") for rows in drawn], [2.5, 97.5]
    )
    found = accuracy.bootstrap_macro_f1(confusion, np.random.default_rng(1))
    assert found == pytest.approx(tuple(expected), abs=0.015)


def test_embedded_data_have_an_interval():
    table = accuracy.summarise(make_results("pbmc68k_reduced", "one", [0.8, 0.7]))
    row = table.iloc[0]
    assert row["pooled"] == pytest.approx((24 / 28 + 8 / 12) / 2)
    assert row["pooled_low"] < row["pooled"] < row["pooled_high"]


@pytest.mark.parametrize(
    ("dataset", "scores", "kept"),
    [
        ("sorted_pbmc_3874", [0.87, 0.85], "): kept"),
        ("sorted_pbmc_3874", [0.87, 0.84], "NOT KEPT"),
        ("kang_pbmc_8684", [0.994, 0.991], "NOT KEPT"),
    ],
)
def test_a_claim_is_about_the_best_of_our_baselines(dataset, scores, kept):
    kinds = list(BASELINES)
    results = pd.concat(
        [
            make_results(dataset, kinds[0], [0.5, 0.6]),
            make_results(dataset, kinds[1], scores),
            make_results(dataset, PLAIN_LR, [1.0, 1.0]),
        ]
    )
    (claim,) = accuracy.check_claims(results)
    assert claim.startswith(f"{dataset}: mean macro-F1 {np.mean(scores):.4f} over 2 folds by {kinds[1]} ")
    assert claim.endswith(kept)


def test_other_data_have_no_claim():
    assert accuracy.check_claims(make_results("cells", next(iter(BASELINES)), [0.5])) == []


def test_a_missing_peer_is_skipped(capsys):
    models = [Model(PLAIN_LR, predict_plain), Model("peer", CountedModel(), "no_such_package")]
    assert [model.name for model in drop_missing(models)] == [PLAIN_LR]
    assert capsys.readouterr().out.startswith("peer skipped: No module named 'no_such_package'")


def test_a_run_without_its_peer_goes_on(data, folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "celltypist", None)
    run_main(tmp_path / "accuracy.csv", folder / "cells.h5ad", "--models", PLAIN_LR, CELLTYPIST)
    assert f"{CELLTYPIST} skipped" in capsys.readouterr().out
    assert set(accuracy.read_results(tmp_path / "accuracy.csv")["model"]) == {PLAIN_LR}


def test_each_of_our_baselines_is_compared():
    named = {model.name: model.n_trials for model in list_models(7)}
    assert {name for name, n_trials in named.items() if n_trials == 7} == {
        *BASELINES,
        TRANSFORMER,
        TRANSFORMER_3,
        LINEAR_PANEL,
    }


def predict_first_fold(data: LabelledData, predict, **options: object) -> float:
    _, train, held_out = next(accuracy.iter_folds(data))
    cells = data.cells
    predicted = predict(cells.take_rows(train), data.labels[train], cells.take_rows(held_out), **options)
    assert len(predicted) == len(held_out)
    return float(np.mean(predicted == data.labels[held_out]))


def test_files_with_a_comma_are_joined_and_a_barcode_counts_once(tmp_path):
    for name, cells, genes in (("one", slice(0, 60), slice(0, 300)), ("two", slice(40, 90), slice(100, 400))):
        simulate_cells(n_cells=90, n_genes=400)[cells, genes].copy().write_h5ad(tmp_path / f"{name}.h5ad")
    read = accuracy.read_data(f"{tmp_path / 'one.h5ad'},{tmp_path / 'two.h5ad'}")
    assert read.name == "one+two"
    assert read.cells.counts.shape == (90, 200)
    assert read.cells.cell_ids.is_unique


def test_models_are_compared_on_the_same_cells():
    rng = np.random.default_rng(0)
    rows = []
    for fold in range(3):
        truth = rng.integers(3, size=200)
        for model, share in ((LINEAR, 0.7), (TRANSFORMER, 0.9), (ENSEMBLE, 0.9)):
            calls = np.where(rng.random(200) < share, truth, (truth + 1) % 3)
            texts = {
                name: write_letters(codes, np.arange(3))
                for name, codes in (("truth", truth), ("calls", calls))
            }
            rows.append({"dataset": "cells", "fold": str(fold), "model": model} | texts)
    table = compare(pd.DataFrame(rows)).set_index(["first", "second"])
    sure = table.loc[(TRANSFORMER, LINEAR)]
    assert 0.1 < sure["low"] < sure["difference"] < sure["high"] < 0.3
    assert sure["p"] < 0.01
    alike = table.loc[(ENSEMBLE, TRANSFORMER)]
    assert alike["low"] < 0 < alike["high"]
    assert alike["p"] > 0.05
    assert (TRANSFORMER, NOTEBOOK) not in table.index


def test_results_without_calls_are_not_compared():
    assert make_comparison(make_results("cells", LINEAR, [0.5])) == ""


@pytest.mark.full
def test_the_transformer_and_its_vote_label_held_out_cells(data, monkeypatch):
    monkeypatch.setattr(accuracy_networks, "TrainingConfig", partial(TrainingConfig, max_epochs=4))
    _, train, held_out = next(accuracy.iter_folds(data))
    cells = data.cells
    results = accuracy_networks.run_transformer(
        cells.take_rows(train), data.labels[train], cells.take_rows(held_out), n_trials=1
    )
    assert [result.model for result in results] == [TRANSFORMER, ENSEMBLE]
    for result in results:
        assert np.mean(result.labels == data.labels[held_out]) > 0.9
    assert 0 < results[0].seconds < results[1].seconds


def test_the_notebooks_transformer_labels_held_out_cells(data, monkeypatch):
    monkeypatch.setattr(accuracy_networks, "TrainingConfig", partial(TrainingConfig, max_epochs=2))
    monkeypatch.setattr(accuracy_networks, "_NOTEBOOK_GENES", 60)
    assert predict_first_fold(data, accuracy_networks.predict_notebook) > 0.4


@pytest.mark.parametrize("kind", ["data", "donors"])
@pytest.mark.parametrize("baseline", ["logistic_regression", "linear_svm"])
def test_a_tuned_baseline_labels_held_out_cells(baseline, kind, request):
    data = request.getfixturevalue(kind)
    assert predict_first_fold(data, predict_tuned, kind=baseline, n_trials=1) > 0.9


def test_the_plain_model_labels_held_out_cells(data):
    assert predict_first_fold(data, predict_plain) > 0.9


def test_celltypist_labels_held_out_cells(data):
    pytest.importorskip("celltypist")
    assert predict_first_fold(data, predict_celltypist) > 0.9


@pytest.mark.full
@pytest.mark.slow
def test_scanvi_labels_held_out_cells(donors):
    assert predict_first_fold(donors, predict_scanvi, scvi_epochs=20, scanvi_epochs=10) > 0.7
