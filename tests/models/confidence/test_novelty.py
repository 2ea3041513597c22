"""What is new to a model is told from what it knows."""

from dataclasses import replace

import numpy as np
import pytest
from models.bundles import make_fitted
from models.conformance import N_PANEL, make_cells
from scipy.sparse import csr_matrix, vstack
from sklearn.metrics import roc_auc_score

from annotary.models.confidence.held_out import FittedCells
from annotary.models.confidence.novelty import NoveltyDetector
from annotary.quality.prepare import PreparedCells, log_normalize


def simulate(n_cells: int, *, seed: int) -> csr_matrix:
    """Known cells."""
    return log_normalize(make_cells(n_cells, seed=seed)[0], target_sum=1e4)


def simulate_new(n_cells: int, *, seed: int = 0) -> csr_matrix:
    """Cells of a label with markers of its own."""
    rates = np.full(N_PANEL, 0.3)
    rates[24:32] = 4.0
    counts = csr_matrix(np.random.default_rng(seed).poisson(rates, size=(n_cells, N_PANEL)), dtype=np.float32)
    depth = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel() + 50.0
    return log_normalize(PreparedCells(counts=counts, depth=depth), target_sum=1e4)


@pytest.fixture(scope="module")
def fitted() -> FittedCells:
    return make_fitted(n_cells=600)


@pytest.fixture(scope="module")
def detector(fitted) -> NoveltyDetector:
    return NoveltyDetector.fit(fitted, rate=0.05)


def test_cells_of_a_label_that_was_not_fitted_are_found(detector):
    known, new = detector.score(simulate(200, seed=1)), detector.score(simulate_new(100))
    truth = np.repeat([0, 1], [200, 100])
    assert roc_auc_score(truth, np.concatenate([known, new])) > 0.95
    assert (new > 1).mean() > 0.8


@pytest.mark.parametrize("rate", [0.02, 0.1, 0.3])
def test_new_cells_of_known_labels_are_called_as_often_as_asked_for(fitted, rate):
    detector = NoveltyDetector.fit(fitted, rate=rate)
    called = (detector.score(simulate(3000, seed=2)) > 1).mean()
    assert called == pytest.approx(rate, abs=0.03)


def test_a_lower_rate_never_calls_more(fitted):
    log_expr = vstack([simulate(100, seed=3), simulate_new(50)], format="csr")
    scores = [NoveltyDetector.fit(fitted, rate=rate).score(log_expr) for rate in (0.01, 0.1, 0.5)]
    assert (scores[0] <= scores[1]).all()
    assert (scores[1] <= scores[2]).all()


def test_a_cell_s_score_does_not_depend_on_the_others(detector):
    log_expr = vstack([simulate(20, seed=4), simulate_new(10)], format="csr")
    alone = np.concatenate([detector.score(log_expr[row]) for row in range(30)])
    np.testing.assert_array_equal(alone, detector.score(log_expr))


def test_scores_are_float32_and_cells_without_counts_have_one(detector):
    scores = detector.score(csr_matrix((3, N_PANEL), dtype=np.float32))
    assert scores.dtype == np.float32
    assert np.isfinite(scores).all()
    assert detector.score(csr_matrix((0, N_PANEL), dtype=np.float32)).shape == (0,)


def test_the_same_cells_give_the_same_detector(fitted, detector):
    again = NoveltyDetector.fit(fitted, rate=0.05)
    for name, array in detector.to_arrays().items():
        np.testing.assert_array_equal(again.to_arrays()[name], array)


def test_cells_of_one_fold_and_labels_without_cells_are_enough(fitted):
    one = replace(fitted, folds=np.zeros(600, dtype=int), codes=np.where(fitted.codes == 1, 2, fitted.codes))
    detector = NoveltyDetector.fit(one, rate=0.05)
    assert len(detector.centers) == 2
    assert np.isfinite(detector.score(fitted.log_expr)).all()


@pytest.mark.parametrize("n_cells", [3, 10])
def test_very_few_cells_are_enough(fitted, n_cells):
    few = FittedCells(fitted.log_expr[:n_cells], fitted.codes[:n_cells], fitted.folds[:n_cells])
    assert np.isfinite(NoveltyDetector.fit(few, rate=0.01).score(fitted.log_expr)).all()


def test_of_very_many_cells_every_n_th_is_taken(fitted, monkeypatch):
    monkeypatch.setattr("annotary.models.confidence.novelty.MOST_CELLS", 300)
    every_second = FittedCells(fitted.log_expr[::2], fitted.codes[::2], fitted.folds[::2])
    many, fewer = (NoveltyDetector.fit(cells, rate=0.05) for cells in (fitted, every_second))
    np.testing.assert_array_equal(many.projection, fewer.projection)
