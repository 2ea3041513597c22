"""What is new to a model is told from what it knows."""

import numpy as np
import pytest
from models.conformance import N_CLASSES, N_PANEL, make_cells
from scipy.sparse import csr_matrix, vstack
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from annotary.models.confidence import novelty
from annotary.models.confidence.held_out import FittedCells, HeldOutCells
from annotary.models.confidence.novelty import (
    LabelGaussians,
    NoveltyDetector,
    compute_entropy,
    measure_across_folds,
)
from annotary.quality.prepare import PreparedCells, log_normalize


def simulate(n_cells: int, *, seed: int) -> tuple[csr_matrix, np.ndarray]:
    """Known cells and their labels."""
    cells, codes = make_cells(n_cells, seed=seed)
    return log_normalize(cells, target_sum=1e4), codes


def simulate_new(n_cells: int, *, seed: int = 0) -> csr_matrix:
    """Cells of a label with markers of its own."""
    rates = np.full(N_PANEL, 0.3)
    rates[24:32] = 4.0
    counts = csr_matrix(np.random.default_rng(seed).poisson(rates, size=(n_cells, N_PANEL)), dtype=np.float32)
    depth = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel() + 50.0
    return log_normalize(PreparedCells(counts=counts, depth=depth), target_sum=1e4)


@pytest.fixture(scope="module")
def model() -> LogisticRegression:
    return LogisticRegression(C=0.01).fit(*simulate(600, seed=0))


@pytest.fixture(scope="module")
def learned(model) -> tuple[FittedCells, HeldOutCells]:
    fitted, held_out = simulate(600, seed=0), simulate(4000, seed=100)
    return FittedCells(*fitted), HeldOutCells(
        probabilities=model.predict_proba(held_out[0]).astype(np.float32),
        codes=held_out[1],
        distances=LabelGaussians.fit(*fitted).measure_distance(held_out[0]),
    )


@pytest.fixture(scope="module")
def detector(learned) -> NoveltyDetector:
    return NoveltyDetector.fit(*learned, rate=0.05)


def score(detector: NoveltyDetector, model: LogisticRegression, log_expr: csr_matrix) -> np.ndarray:
    return detector.score(log_expr, model.predict_proba(log_expr).astype(np.float32))


def test_cells_of_a_label_that_was_not_fitted_are_found(detector, model):
    known, new = (score(detector, model, cells) for cells in (simulate(200, seed=1)[0], simulate_new(100)))
    assert roc_auc_score(np.repeat([0, 1], [200, 100]), np.concatenate([known, new])) > 0.95
    assert (new > 1).mean() > 0.8


def test_each_sign_alone_is_enough(detector):
    known, _ = simulate(50, seed=2)
    sure, unsure = np.tile([1.0, 0, 0], (50, 1)), np.full((50, 3), 1 / 3)
    assert (detector.score(known, unsure) > detector.score(known, sure)).all()
    assert (detector.score(simulate_new(50), sure) > 1).mean() > 0.5


@pytest.mark.parametrize("rate", [0.02, 0.1, 0.3])
def test_new_cells_of_known_labels_are_called_as_often_as_asked_for(learned, model, rate):
    called = (score(NoveltyDetector.fit(*learned, rate=rate), model, simulate(3000, seed=2)[0]) > 1).mean()
    assert called == pytest.approx(rate, abs=0.04)


def test_a_lower_rate_never_calls_more(learned, model):
    log_expr = vstack([simulate(100, seed=3)[0], simulate_new(50)], format="csr")
    scores = [score(NoveltyDetector.fit(*learned, rate=rate), model, log_expr) for rate in (0.01, 0.1, 0.5)]
    assert (scores[0] <= scores[1]).all()
    assert (scores[1] <= scores[2]).all()


def test_a_larger_distance_never_scores_less_however_far_it_is(detector):
    away = np.linspace(0, 40, 400)
    cells = csr_matrix(away[:, None] * np.ones(N_PANEL), dtype=np.float32)
    distances = detector.gaussians.measure_distance(cells)
    scores = detector.score(cells, np.tile([1.0, 0, 0], (400, 1)))[np.argsort(distances)]
    assert (np.diff(scores) >= 0).all()
    assert len(np.unique(scores)) > 100
    assert np.isfinite(scores).all()


def test_a_cell_s_score_does_not_depend_on_the_others(detector, model):
    log_expr = vstack([simulate(20, seed=4)[0], simulate_new(10)], format="csr")
    alone = np.concatenate([score(detector, model, log_expr[row]) for row in range(30)])
    np.testing.assert_allclose(alone, score(detector, model, log_expr), rtol=1e-6)


def test_scores_are_float32_and_cells_without_counts_have_one(detector, model):
    scores = score(detector, model, csr_matrix((3, N_PANEL), dtype=np.float32))
    assert scores.dtype == np.float32
    assert np.isfinite(scores).all()
    none = detector.score(csr_matrix((0, N_PANEL), dtype=np.float32), np.empty((0, N_CLASSES)))
    assert none.shape == (0,)


def test_the_same_cells_give_the_same_detector(learned, detector):
    again = NoveltyDetector.fit(*learned, rate=0.05)
    for name, array in detector.to_arrays().items():
        np.testing.assert_array_equal(again.to_arrays()[name], array)


def test_a_model_that_is_sure_of_every_known_cell_still_gives_finite_scores(learned):
    fitted, held_out = learned
    sure = HeldOutCells(np.eye(3, dtype=np.float32)[held_out.codes], held_out.codes, held_out.distances)
    detector = NoveltyDetector.fit(fitted, sure, rate=0.05)
    one, other = (
        detector.score(fitted.log_expr, np.tile(row, (600, 1))) for row in ([1, 0, 0], [0.5, 0.5, 0])
    )
    assert np.isfinite(one).all()
    assert np.isfinite(other).all()
    assert (one < other).all()


@pytest.mark.parametrize("n_cells", [2, 7])
def test_very_few_cells_are_enough(learned, n_cells):
    fitted, held_out = learned
    few = FittedCells(fitted.log_expr[:n_cells], fitted.codes[:n_cells])
    rows = slice(0, n_cells)
    fewer = HeldOutCells(held_out.probabilities[rows], held_out.codes[rows], held_out.distances[rows])
    detector = NoveltyDetector.fit(few, fewer, rate=0.01)
    assert np.isfinite(detector.score(fitted.log_expr, np.full((600, 3), 1 / 3))).all()


def test_a_cell_has_no_say_in_its_own_distance_across_folds(learned):
    log_expr, codes = learned[0].log_expr, learned[0].codes
    folds = np.arange(600) % 3
    distances = measure_across_folds(log_expr, codes, folds)
    altered = csr_matrix(log_expr.toarray() * np.where(folds == 0, 3, 1)[:, None], dtype=np.float32)
    again = LabelGaussians.fit(altered[folds != 0], codes[folds != 0]).measure_distance(log_expr[folds == 0])
    np.testing.assert_allclose(again, distances[folds == 0])


def test_of_very_many_cells_every_n_th_is_taken(learned, monkeypatch):
    log_expr, codes = learned[0].log_expr, learned[0].codes
    expected = LabelGaussians.fit(log_expr[::2], codes[::2]).projection
    monkeypatch.setattr(novelty, "MOST_CELLS", 300)
    np.testing.assert_array_equal(LabelGaussians.fit(log_expr, codes).projection, expected)
    assert np.isfinite(measure_across_folds(log_expr, codes, np.arange(600) % 3)).all()


def test_entropy_is_that_of_each_cell():
    probabilities = np.array([[1, 0, 0], [0.5, 0.5, 0], [1 / 3] * 3], dtype=np.float32)
    np.testing.assert_allclose(compute_entropy(probabilities), np.log([1, 2, 3]), atol=1e-6)
