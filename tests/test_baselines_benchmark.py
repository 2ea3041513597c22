"""The baselines benchmark's own parts: the models in their process, the table, the claims."""

import pandas as pd
import pytest
import train_once
from conftest import load_benchmark
from simulate import simulate_cells

benchmark = load_benchmark("baselines")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    found = tmp_path_factory.mktemp("data") / "cells.h5ad"
    simulate_cells(n_genes=400).write_h5ad(found)
    return found


def test_the_table_names_the_models_that_can_be_trained():
    assert set(benchmark.OURS) == set(train_once.OURS)
    assert set(benchmark.NOTEBOOK) == set(train_once.NOTEBOOK.values())
    assert {*benchmark.OURS, *benchmark.NOTEBOOK, benchmark.CELLTYPIST} == set(train_once.MODELS)


@pytest.mark.parametrize("model", [benchmark.OURS[0], benchmark.NOTEBOOK[0]])
def test_a_model_labels_cells_that_it_was_not_trained_on(model, path, monkeypatch):
    monkeypatch.setattr(train_once, "N_TOP_GENES", 100)
    row = train_once.train_once(path, train_once.MODELS[model])
    assert row["genes"] == 400
    assert row["macro_f1"] > 0.9
    assert row["seconds"] > 0


@pytest.mark.full
def test_a_model_is_measured_in_a_process_of_its_own(path, capsys):
    row = benchmark.measure_model(path, benchmark.OURS[0], 1)
    assert row["whole_seconds"] > row["seconds"] > 0
    assert row["peak_mb"] > 100
    assert f"cells, {benchmark.OURS[0]}" in capsys.readouterr().out


TRUTH = "ab" * 100


def call(n_wrong: int) -> str:
    return "c" * n_wrong + TRUTH[n_wrong:]


def make_table(seconds: float, peak_mb: float, n_wrong: int) -> pd.DataFrame:
    """The peers, of which the notebook and CellTypist call 40 of 200 cells wrongly, and ours."""
    models = [*benchmark.OURS, *benchmark.NOTEBOOK, benchmark.CELLTYPIST]
    return pd.DataFrame(
        {
            "data": "cells",
            "model": models,
            "cells": 1_000,
            "genes": 30_000,
            "repeats": [3, 3, 3, 1, 1, 1],
            "seconds": [seconds, 2 * seconds, 9.0, 20.0, 9.0, 40.0],
            "seconds_min": 1.0,
            "seconds_max": 2.0,
            "whole_seconds": 50.0,
            "peak_mb": [peak_mb, 600.0, 500.0, 900.0, 900.0, 9_000.0],
            "macro_f1": 0.79,
            "truth": TRUTH,
            "calls": [call(n) for n in (n_wrong, n_wrong, 60, 40, 60, 40)],
        }
    )


def test_the_table_has_a_row_for_each_model():
    lines = benchmark.make_markdown(make_table(1.5, 700.0, 40)).splitlines()
    assert len(lines) == 2 + 6
    assert lines[2].startswith(
        "| cells | 1,000 x 30,000 | annotary logistic regression | 1.5 (1.0 to 2.0) | "
    )
    assert lines[-1] == "| cells | 1,000 x 30,000 | CellTypist | 40.0 | 50.0 | 9,000 | 0.790 |"


@pytest.mark.parametrize(
    ("figures", "broken"),
    [
        ((2.0, 700.0, 40), []),
        ((2.1, 700.0, 20), [0, 2]),
        ((2.0, 700.0, 41), []),
        ((2.0, 700.0, 60), [1, 3]),
        ((5.0, 2_100.0, 60), [0, 1, 2, 3, 4]),
    ],
)
def test_a_broken_promise_is_named(figures, broken):
    claims = benchmark.check_claims(make_table(*figures))
    assert len(claims) == 5
    assert [number for number, claim in enumerate(claims) if "NOT KEPT" in claim] == broken
