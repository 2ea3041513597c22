"""Doublets that were mixed in are found, lane by lane, on any number of cells."""

import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import skimage.filters
import torch
from scipy.sparse import csr_matrix, vstack
from simulate import simulate_cells
from sklearn.metrics import roc_auc_score

from annotary.data.embedded import load_embedded
from annotary.errors import CountsError
from annotary.evaluation.doublet_figures import draw_doublet_training
from annotary.quality.doublets import CURVE_COLUMNS, LANE_COLUMNS, call_doublets, judge_doublet_rate
from annotary.quality.solo import choose_epochs, has_converged

METHODS = ("solo", "scrublet")


def simulate_counts(n_cells, *, seed=0):
    return csr_matrix(simulate_cells(n_cells, 60, seed=seed).X)


def call(counts, lanes=None, *, method="solo", max_epochs=1, seed=0, **options):
    lanes = np.full(counts.shape[0], "all") if lanes is None else lanes
    return call_doublets(
        lambda rows: counts[rows], lanes, method=method, max_epochs=max_epochs, seed=seed, **options
    )


def make_lanes(*sizes):
    return np.concatenate([np.full(size, f"lane{number}") for number, size in enumerate(sizes)])


MIXED_RATE = 50 / 750 / 0.75
"""Rate for 1,000 cells by which 50 doublets are expected of 750 cells."""


def mix_in_doublets():
    counts = csr_matrix(load_embedded().X)
    one, other = np.random.default_rng(0).integers(counts.shape[0], size=(2, 50))
    return vstack([counts, counts[one] + counts[other]], format="csr"), np.arange(750) >= 700


@pytest.mark.full
@pytest.mark.slow
def test_solo_finds_mixed_in_doublets_and_converges():
    counts, is_mixed = mix_in_doublets()
    calls = call(counts, max_epochs=0, seed=42, rate_per_1000=MIXED_RATE)
    assert roc_auc_score(is_mixed, calls.probability) > 0.95
    assert calls.is_doublet[is_mixed].mean() > 0.8
    assert calls.is_doublet[~is_mixed].mean() < 0.1
    assert calls.lanes.loc[0, "converged"]
    assert judge_doublet_rate(calls.lanes, place="cells.h5ad") == []


def test_solo_trained_too_briefly_is_not_taken_for_converged():
    counts, _ = mix_in_doublets()
    calls = call(counts, max_epochs=5, seed=42)
    assert not calls.lanes.loc[0, "converged"]
    assert "SOLO has not converged after 5 epochs" in calls.lanes.loc[0, "note"]
    with pytest.raises(CountsError, match=r"SOLO has not converged. Raise --doublet-epochs"):
        judge_doublet_rate(calls.lanes, place="cells.h5ad")


def test_scrublet_finds_mixed_in_doublets():
    counts, is_mixed = mix_in_doublets()
    calls = call(counts, method="scrublet", seed=42, rate_per_1000=MIXED_RATE)
    assert roc_auc_score(is_mixed, calls.probability) > 0.85
    assert calls.is_doublet[is_mixed].mean() > 0.4
    assert calls.is_doublet[~is_mixed].mean() < 0.1
    assert calls.lanes.loc[0, "threshold"] == pytest.approx(0.15, abs=0.08)
    assert len(calls.curves) == 0
    assert tuple(calls.curves.columns) == CURVE_COLUMNS


def test_scrublet_without_a_threshold_calls_none_and_says_so(monkeypatch):
    def fail(image):
        raise RuntimeError("Unable to find two maxima in histogram")

    monkeypatch.setattr(skimage.filters, "threshold_minimum", fail)
    calls = call(simulate_counts(120), method="scrublet")
    assert not calls.is_doublet.any()
    assert np.isfinite(calls.probability).all()
    assert np.isnan(calls.lanes.loc[0, "threshold"])
    (warning,) = judge_doublet_rate(calls.lanes, place="cells.h5ad")
    assert warning == "cells.h5ad: Scrublet found no threshold between the scores; no doublet is removed"


def test_scrublet_takes_lanes_of_more_cells_than_scanpy_s_exact_neighbours():
    calls = call(simulate_counts(2800), method="scrublet")
    assert np.isfinite(calls.probability).all()


@pytest.mark.parametrize("n_cells", [129, 143, 257])
def test_a_last_batch_of_one_cell_does_no_harm(n_cells):
    assert 1 in {n_cells % 128, int(np.ceil(0.9 * n_cells)) % 128}
    calls = call(simulate_counts(n_cells))
    assert calls.probability.shape == (n_cells,)
    assert np.isfinite(calls.probability).all()


def test_a_last_batch_of_one_simulated_doublet_does_no_harm():
    n_cells = next(n for n in range(50, 500) if int(np.ceil(0.9 * 3 * n)) % 128 == 1)
    assert np.isfinite(call(simulate_counts(n_cells)).probability).all()


def test_a_last_batch_of_one_cell_does_no_harm_in_any_lane():
    calls = call(simulate_counts(386), make_lanes(129, 257))
    assert np.isfinite(calls.probability).all()
    assert calls.lanes["cells"].tolist() == [129, 257]


@pytest.mark.parametrize("method", METHODS)
def test_a_lane_is_called_as_if_it_were_alone(method):
    counts, lanes = simulate_counts(250), make_lanes(130, 120)
    shuffled = np.random.default_rng(0).permutation(250)
    counts, lanes = counts[shuffled], lanes[shuffled]
    both = call(counts, lanes, method=method, max_epochs=2)
    for number, lane in enumerate(("lane0", "lane1")):
        rows = lanes == lane
        alone = call(counts[rows], lanes[rows], method=method, max_epochs=2)
        np.testing.assert_array_equal(both.probability[rows], alone.probability)
        np.testing.assert_array_equal(both.is_doublet[rows], alone.is_doublet)
        pd.testing.assert_frame_equal(both.lanes.iloc[[number]].reset_index(drop=True), alone.lanes)
        pd.testing.assert_frame_equal(
            both.curves[both.curves["lane"] == lane].reset_index(drop=True), alone.curves, check_dtype=False
        )


def test_lanes_are_loaded_one_at_a_time_in_the_order_of_their_names():
    counts, lanes = simulate_counts(180), np.array(["b", "a", "c"] * 60)
    loaded = []

    def load_lane(rows):
        loaded.append(rows)
        return counts[rows]

    calls = call_doublets(load_lane, lanes, method="scrublet", max_epochs=0, seed=0)
    assert [set(lanes[rows]) for rows in loaded] == [{"a"}, {"b"}, {"c"}]
    assert all((np.diff(rows) > 0).all() for rows in loaded)
    assert tuple(calls.lanes.columns) == LANE_COLUMNS
    assert calls.lanes["doublets"].sum() == calls.is_doublet.sum()


@pytest.mark.parametrize("method", METHODS)
def test_a_small_lane_is_not_called_and_the_others_are(method):
    calls = call(simulate_counts(110), make_lanes(70, 40), method=method, max_epochs=3)
    small = make_lanes(70, 40) == "lane1"
    assert np.isnan(calls.probability[small]).all()
    assert not calls.is_doublet[small].any()
    assert np.isfinite(calls.probability[~small]).all()
    warnings = judge_doublet_rate(calls.lanes[1:], place="cells.h5ad")
    assert warnings == [
        "cells.h5ad: 40 cells x 60 genes with counts are too few to look for doublets "
        "(at least 50 x 30); none is removed"
    ]
    assert np.isnan(calls.lanes.loc[1, "doublet_rate"])


@pytest.mark.parametrize("method", METHODS)
def test_a_cell_without_counts_is_not_called_and_does_not_disturb_the_others(method):
    counts = simulate_counts(100)
    with_empty = vstack([counts[:30], csr_matrix((2, 60)), counts[30:]], format="csr")
    calls, expected = call(with_empty, method=method), call(counts, method=method)
    assert np.isnan(calls.probability[30:32]).all()
    assert not calls.is_doublet[30:32].any()
    np.testing.assert_array_equal(np.delete(calls.probability, [30, 31]), expected.probability)


@pytest.mark.parametrize("method", METHODS)
def test_same_seed_gives_the_same_calls_and_leaves_process_and_folder_alone(
    method, tmp_path, monkeypatch, capfd
):
    monkeypatch.chdir(tmp_path)
    counts = simulate_counts(100)
    original = counts.copy()
    np.random.seed(3)
    torch.manual_seed(3)
    before = np.random.get_state()[1].copy(), torch.random.get_rng_state(), dict(os.environ)
    first, second = (call(counts, method=method, max_epochs=2, seed=1).probability for _ in range(2))
    other = call(counts, method=method, max_epochs=2, seed=2).probability
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)
    np.testing.assert_array_equal(np.random.get_state()[1], before[0])
    assert torch.equal(torch.random.get_rng_state(), before[1])
    assert dict(os.environ) == before[2]
    assert (counts != original).nnz == 0
    assert list(tmp_path.iterdir()) == []
    out, err = capfd.readouterr()
    assert out == ""
    assert all("SOLO" in line for line in err.replace("\r", "\n").splitlines() if line)


def test_scrublet_does_not_load_scvi_tools():
    script = (
        "import sys, annotary.quality.doublets, annotary.quality.scrublet; "
        "print([name for name in ('scvi', 'lightning', 'torch') if name in sys.modules])"
    )
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "scvi" not in loaded.stdout
    assert "lightning" not in loaded.stdout


def report(**values):
    row = {"lane": "a", "method": "solo", "cells": 1000, "doublets": 80, "doublet_rate": 0.08}
    row |= {"recovered": 10_000, "expected_rate": 0.08, "explained": 100}
    row |= {
        "called": values.get("doublets", 80),
        "threshold": 0.5,
        "epochs": 20,
        "converged": True,
        "note": "",
    } | values
    return pd.DataFrame([row])


def test_a_usual_rate_raises_no_warning():
    assert judge_doublet_rate(report(), place="x.h5ad") == []
    assert judge_doublet_rate(report(doublets=200, doublet_rate=0.2), place="x.h5ad") == []


def test_doubtful_rates_are_warned_of_with_their_lane():
    (many,) = judge_doublet_rate(report(doublets=300, doublet_rate=0.3), place="x.h5ad")
    assert many == "x.h5ad: SOLO calls 30% of the cells doublets; more than 20 % is seldom right"
    none = report(lane="b", doublets=0, doublet_rate=0.0)
    (warning,) = judge_doublet_rate(pd.concat([report(), none]), place="x.h5ad")
    assert warning.startswith("x.h5ad: lane 'b': SOLO calls none of 1000 cells a doublet")
    assert judge_doublet_rate(report(cells=300, doublets=0, doublet_rate=0.0), place="x.h5ad") == []


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("solo", r"lane 'b' needs a doublet rate of at most 50%; found 61%: SOLO has not converged\. Raise"),
        ("scrublet", r"lane 'b' needs .* found 61%: Scrublet does not tell .* Pass --doublets solo or none"),
    ],
)
def test_most_cells_called_is_refused(method, message):
    bad = report(lane="b", method=method, doublets=610, doublet_rate=0.61)
    with pytest.raises(CountsError, match=message):
        judge_doublet_rate(pd.concat([report(), bad]), place="x.h5ad")


def test_convergence_needs_a_flat_end_below_the_loss_of_guessing():
    falling = np.linspace(0.9, 0.2, 40)
    flat = np.concatenate([falling, np.full(20, 0.2)])
    assert has_converged(flat)
    assert has_converged(flat + np.random.default_rng(0).normal(0, 0.005, 60))
    assert not has_converged(falling)
    assert not has_converged(falling[::-1])
    assert not has_converged(np.full(60, 1.08))
    assert not has_converged(np.full(2, 0.2))
    assert not has_converged(np.full(60, np.nan))


def test_losses_of_each_lane_and_network_are_kept_and_drawn():
    calls = call(simulate_counts(160), make_lanes(80, 80), max_epochs=4)
    assert calls.curves.groupby(["lane", "network"])["epoch"].agg(list).tolist() == [[1, 2, 3, 4]] * 4
    assert np.isfinite(calls.curves[["train_loss", "validation_loss"]].to_numpy(dtype=float)).all()
    scvi_axis, solo_axis = draw_doublet_training(calls.curves).axes
    assert len(scvi_axis.lines) == len(solo_axis.lines) == 4
    drawn = solo_axis.lines[0].get_ydata()
    rows = calls.curves.query("lane == 'lane0' and network == 'solo'")
    np.testing.assert_array_equal(drawn, rows["validation_loss"])


@pytest.mark.full
def test_a_small_lane_is_trained_to_the_end_though_its_validation_loss_rises_first():
    counts, _ = mix_in_doublets()
    calls = call(counts[:120], max_epochs=45)
    losses = calls.curves.query("network == 'solo'")["validation_loss"].to_numpy(dtype=float)
    assert len(losses) == calls.lanes.loc[0, "epochs"] == 45
    assert losses[15] > losses[0]


def test_small_data_get_more_epochs_for_the_same_number_of_steps():
    assert choose_epochs(700) == 72
    assert choose_epochs(50) == 360
    assert choose_epochs(1_000_000) == 20
