import numpy as np
import pytest

from annotary.models.calibration import (
    apply_temperature,
    calibrate,
    compute_ece,
    fit_temperature,
    tabulate_reliability,
)

N_CLASSES = 4


def make_scores(n_cells: int, *, temperature: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Scores whose probabilities are right once they are divided by the temperature."""
    rng = np.random.default_rng(seed)
    right = 2 * rng.normal(size=(n_cells, N_CLASSES))
    proba = apply_temperature(right, 1.0)
    codes = (proba.cumsum(axis=1) < rng.random((n_cells, 1))).sum(axis=1).clip(max=N_CLASSES - 1)
    return right * temperature, codes


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_the_temperature_that_scores_were_made_with_is_found(temperature):
    scores, codes = make_scores(4000, temperature=temperature)
    assert fit_temperature(scores, codes) == pytest.approx(temperature, rel=0.1)


@pytest.mark.parametrize("temperature", [0.3, 4.0])
def test_calibration_lowers_the_error_of_cells_it_was_not_fitted_to(temperature):
    scores, codes = make_scores(1500, temperature=temperature)
    found = calibrate(scores, codes, np.arange(1500) % 3)
    assert compute_ece(found.after, codes) < 0.5 * compute_ece(found.before, codes)
    others, other_codes = make_scores(1500, temperature=temperature, seed=1)
    after = compute_ece(apply_temperature(others, found.temperature), other_codes)
    assert after < 0.5 * compute_ece(apply_temperature(others, 1.0), other_codes)


def test_a_fold_has_no_say_in_its_own_temperature():
    scores, codes = make_scores(600, temperature=2.0)
    folds = np.arange(600) % 3
    altered = np.where(folds == 1, (codes + 1) % N_CLASSES, codes)
    before, after = calibrate(scores, codes, folds).after, calibrate(scores, altered, folds).after
    np.testing.assert_array_equal(after[folds == 1], before[folds == 1])
    assert not np.allclose(after[folds == 0], before[folds == 0])


def test_cells_of_a_class_that_was_not_fitted_have_no_say():
    scores, codes = make_scores(400, temperature=2.0)
    with_unseen = np.vstack([scores, np.tile([[-np.inf, 1.0, 0.0, 0.0]], (100, 1))])
    found = fit_temperature(with_unseen, np.concatenate([codes, np.zeros(100, dtype=int)]))
    assert found == pytest.approx(fit_temperature(scores, codes))
    assert fit_temperature(with_unseen[400:], np.zeros(100, dtype=int)) == 1.0


def test_ece_is_the_gap_between_confidence_and_accuracy():
    proba = np.array([[0.9, 0.1]] * 10)
    codes = np.repeat([0, 1], [6, 4])
    assert compute_ece(proba, codes) == pytest.approx(0.3)
    table = tabulate_reliability(np.vstack([proba, [[1.0, 0.0]]]), np.append(codes, 0))
    assert table["n_cells"].tolist() == [10, 1]
    assert table["accuracy"].tolist() == pytest.approx([0.6, 1.0])
