"""The benchmarks of doublets, on scores and cells whose answer is known."""

from pathlib import Path

import anndata
import doublet_mixes
import numpy as np
import pandas as pd
import pytest
from conftest import load_benchmark
from doublet_mixes import (
    ACROSS,
    CELL,
    RULES,
    SCRUBLET,
    SOLO,
    SOLO_HALF,
    WITHIN,
    Mix,
    make_mix,
    take_doublets,
)
from scipy.stats import binom
from simulate import simulate_cells


@pytest.fixture
def file(tmp_path) -> Path:
    adata = simulate_cells(300, 1_000)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    return tmp_path / "cells.h5ad"


def make_scores(n_cells: int = 1_000) -> pd.DataFrame:
    """Make scores of cells of which the last 30 are known doublets with the highest scores."""
    score = np.linspace(0, 0.9, n_cells)
    kinds = np.array([CELL] * (n_cells - 30) + [ACROSS] * 20 + [WITHIN] * 10)
    labels = np.where(np.arange(n_cells) % 2, "a", "b")
    return pd.DataFrame({"label": labels, "kind": kinds, "solo": score, "scrublet": score, "threshold": 0.8})


def test_a_mix_has_the_cells_of_the_file_and_sums_of_two_of_them(file):
    mixed, original = make_mix(Mix(file, 0.1, 1)), anndata.read_h5ad(file)
    n_doublets = round(0.1 * 300 / 0.9)
    assert mixed.n_obs == 300 + n_doublets
    assert (mixed.X[:300] != original.X).nnz == 0
    kinds = mixed.obs["kind"].value_counts()
    assert (kinds[ACROSS], kinds[WITHIN]) == ((n_doublets + 1) // 2, n_doublets // 2)
    depth = mixed.X.sum(axis=1).A1
    assert depth[300:].min() > 1.5 * depth[:300].min()
    assert (make_mix(Mix(file, 0.1, 1)).X != mixed.X).nnz == 0
    assert (make_mix(Mix(file, 0.1, 2)).X[300:] != mixed.X[300:]).nnz > 0


def test_scores_are_made_once_and_read_again(file, tmp_path, monkeypatch):
    monkeypatch.setattr(doublet_mixes, "_score", lambda adata, seed: make_scores(adata.n_obs))
    first = doublet_mixes.score_mix(Mix(file, 0, 1), tmp_path / "scores")
    monkeypatch.setattr(doublet_mixes, "_score", None)
    pd.testing.assert_frame_equal(doublet_mixes.score_mix(Mix(file, 0, 1), tmp_path / "scores"), first)


def test_bounded_rules_take_what_the_loading_explains():
    table = make_scores()
    explained = binom.ppf(0.99, 1_000, 0.008)
    assert take_doublets(table, SOLO_HALF).sum() == (table["solo"] > 0.5).sum()
    for rule in (SOLO, SCRUBLET):
        taken = take_doublets(table, rule)
        assert taken.sum() == explained
        assert taken[-int(explained) :].all()


def test_losses_and_known_doublets_are_measured():
    benchmark = load_benchmark("doublets")
    table = make_scores()
    found = benchmark.measure_mixes([table, table], SOLO)
    assert found == {"mixed_in": 60, "found_across": 5 / 20, "found_within": 1.0, "precision": 1.0}
    table["label"] = np.where(np.arange(1_000) < 500, "low", "high")
    losses = benchmark.measure_losses(table, SOLO_HALF)
    assert losses["worst_label"] == "high"
    assert losses["worst_taken"] == pytest.approx((table["solo"] > 0.5).sum() / 500)


def test_every_rule_has_its_row(file, tmp_path, monkeypatch):
    benchmark = load_benchmark("doublets")
    monkeypatch.setattr(benchmark, "score_mix", lambda mix, folder: make_scores())
    table = benchmark.run([file], [1, 2], tmp_path)
    assert tuple(table["rule"]) == RULES
    assert len(benchmark.make_markdown(table).splitlines()) == 2 + len(RULES)


def test_models_are_trained_on_what_a_rule_leaves_and_tested_on_all(file, tmp_path, monkeypatch):
    benchmark = load_benchmark("doublet_models")

    def score_mix(mix, folder):
        obs = make_mix(mix).obs.rename(columns={"cell_type": "label"})
        return obs.assign(solo=np.where(obs["kind"] == CELL, 0.1, 0.9), scrublet=0.1, threshold=0.5)

    monkeypatch.setattr(benchmark, "score_mix", score_mix)
    seen = []
    label = benchmark.label_cells

    def label_cells(model, cells, labels, asked):
        seen.append((cells.shape[0], asked.shape[0]))
        return label(model, cells, labels, asked)

    monkeypatch.setattr(benchmark, "label_cells", label_cells)
    study = benchmark.Study(Mix(file, 0.1, 1), tmp_path)
    other = benchmark.Study(Mix(file, 0, 1), tmp_path)
    coarse = {"cells": {"B cell": "B", "NK cell": "T or NK", "T cell": "T or NK"}}
    scores = benchmark.label_other(study, other, "logistic regression", SOLO_HALF, coarse)
    assert scores["macro_f1"] > 0.95
    assert seen == [(300, 300)]
    own = benchmark.label_own(study, "logistic regression", benchmark.NOTHING)
    assert sum(asked for _, asked in seen[1:]) == 333
    assert own["macro_f1"] > 0.9
