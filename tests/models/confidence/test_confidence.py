"""Thresholds, prediction sets and temperature keep what they promise."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from models.bundles import SETTINGS, make_confidence, make_fitted, make_held_out
from scipy.stats import binom

from annotary.models.confidence.assignment import LEAST_CELLS, find_unassigned, fit_thresholds
from annotary.models.confidence.confidence import Confidence
from annotary.models.confidence.conformal import fit_set_limits, make_sets
from annotary.models.confidence.held_out import calibrate_probabilities, scale_probabilities

N_CLASSES = 4


@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.3])
def test_sets_cover_exchangeable_cells_as_often_as_they_say(alpha):
    """Over many draws of held-out cells, for every label, within what chance allows."""
    covered, n_cells = np.zeros(N_CLASSES), np.zeros(N_CLASSES)
    for seed in range(60):
        held_out, new = (make_held_out(N_CLASSES, 400, seed=2 * seed + part) for part in (0, 1))
        limits = fit_set_limits(held_out.probabilities, held_out.codes, alpha=alpha)
        hits = make_sets(new.probabilities, limits)[np.arange(400), new.codes]
        covered += np.bincount(new.codes, weights=hits, minlength=N_CLASSES)
        n_cells += np.bincount(new.codes, minlength=N_CLASSES)
    least = binom.ppf(1e-4, n_cells, 1 - alpha)
    assert (covered >= least).all()


def test_sets_cover_even_where_probabilities_are_wrong():
    covered = []
    for seed in range(60):
        held_out, new = (make_held_out(N_CLASSES, 400, seed=2 * seed + part) for part in (0, 1))
        wrong, as_wrong = (one.probabilities[:, ::-1] ** 3 + 0.1 for one in (held_out, new))
        limits = fit_set_limits(wrong, held_out.codes, alpha=0.1)
        covered.append(make_sets(as_wrong, limits)[np.arange(400), new.codes].mean())
    assert np.mean(covered) >= 0.9 - 0.01


def test_the_limit_is_the_quantile_of_the_conformal_rank():
    probabilities = np.linspace(0.01, 0.99, 99)[:, None] * [[1.0, 0.0]]
    limits = fit_set_limits(probabilities, np.zeros(99, dtype=int), alpha=0.1)
    assert limits[0] == pytest.approx(0.10)  # the 10th smallest of 99
    assert limits[1] == limits[0], "a label without cells takes the limit of all"


def test_too_few_held_out_cells_for_any_limit_put_every_label_in_the_set():
    limits = fit_set_limits(np.array([[0.9, 0.1]] * 8), np.zeros(8, dtype=int), alpha=0.1)
    assert make_sets(np.array([[1.0, 0.0]]), limits).all()


@given(seed=st.integers(0, 2**32 - 1), alphas=st.lists(st.floats(0.01, 0.9), min_size=2, max_size=2))
@example(seed=0, alphas=[0.125, 0.0625])  # below the second, a label is too rare for a limit of its own
@settings(max_examples=40, deadline=None)
def test_a_higher_coverage_never_makes_a_set_smaller(seed, alphas):
    held_out, new = (make_held_out(N_CLASSES, 80, seed=seed + part) for part in (0, 1))
    small, large = (
        make_sets(new.probabilities, fit_set_limits(held_out.probabilities, held_out.codes, alpha=alpha))
        for alpha in sorted(alphas, reverse=True)
    )
    assert (large | ~small).all()


def test_the_most_probable_label_is_in_every_set():
    probabilities = make_held_out(N_CLASSES).probabilities
    sets = make_sets(probabilities, np.full(N_CLASSES, np.inf))
    np.testing.assert_array_equal(np.flatnonzero(sets.ravel()) % N_CLASSES, probabilities.argmax(axis=1))


@given(seed=st.integers(0, 2**32 - 1), precisions=st.lists(st.floats(0, 1), min_size=2, max_size=2))
@settings(max_examples=40, deadline=None)
def test_a_higher_precision_never_gives_a_lower_threshold(seed, precisions):
    held_out = make_held_out(N_CLASSES, 80, seed=seed)
    low, high = (
        fit_thresholds(held_out.probabilities, held_out.codes, min_precision=one)
        for one in sorted(precisions)
    )
    assert (low <= high).all()


@given(seed=st.integers(0, 2**32 - 1), precision=st.floats(0, 1))
@settings(max_examples=40, deadline=None)
def test_accepted_held_out_cells_of_a_label_are_as_precise_as_asked(seed, precision):
    held_out = make_held_out(N_CLASSES, 120, seed=seed)
    proba, codes = held_out.probabilities, held_out.codes
    accepted = ~find_unassigned(proba, fit_thresholds(proba, codes, min_precision=precision))
    predicted = proba.argmax(axis=1)
    for code in range(N_CLASSES):
        if (predicted == code).sum() >= LEAST_CELLS and (chosen := accepted & (predicted == code)).any():
            assert (codes[chosen] == code).mean() >= precision


def test_thresholds_hold_their_precision_for_new_cells():
    held_out, new = (make_held_out(N_CLASSES, 20_000, seed=seed) for seed in (1, 2))
    thresholds = fit_thresholds(held_out.probabilities, held_out.codes, min_precision=0.9)
    accepted = ~find_unassigned(new.probabilities, thresholds)
    assert 0.2 < accepted.mean() < 1
    right = new.probabilities.argmax(axis=1) == new.codes
    assert right[accepted].mean() == pytest.approx(0.9, abs=0.02)
    assert right[~accepted].mean() < 0.7


def test_a_label_that_is_always_right_is_always_given_and_one_that_never_is_is_not():
    confidence = np.linspace(0.5, 1, 40, dtype=np.float32)
    proba = np.column_stack([np.r_[confidence, 1 - confidence], np.r_[1 - confidence, confidence]])
    thresholds = fit_thresholds(proba, np.zeros(80, dtype=int), min_precision=0.9)
    assert thresholds.tolist() == [0.0, np.inf]
    assert find_unassigned(np.array([[0.51, 0.49], [0.0, 1.0]]), thresholds).tolist() == [False, True]


def test_a_rare_label_takes_the_threshold_of_all():
    held_out = make_held_out(2, 400, seed=3)
    proba = np.column_stack([held_out.probabilities, np.zeros(400)])
    thresholds = fit_thresholds(proba, held_out.codes, min_precision=0.9)
    shared = fit_thresholds(
        np.column_stack([proba.max(axis=1), np.zeros(400)]),
        (proba.argmax(axis=1) != held_out.codes).astype(int),
        min_precision=0.9,
    )
    assert thresholds[2] == shared[0]


@given(seed=st.integers(0, 2**32 - 1), temperature=st.floats(0.05, 20))
@settings(max_examples=40, deadline=None)
def test_temperature_keeps_the_most_probable_label(seed, temperature):
    proba = make_held_out(N_CLASSES, 60, seed=seed).probabilities
    scaled = scale_probabilities(proba, temperature)
    rows = np.arange(60)
    np.testing.assert_array_equal(scaled[rows, proba.argmax(axis=1)], scaled.max(axis=1))
    np.testing.assert_allclose(scaled.sum(axis=1), 1, atol=1e-5)
    assert scaled.dtype == np.float32


def test_probabilities_that_need_no_calibration_stay_as_they_are():
    proba = make_held_out(N_CLASSES).probabilities
    assert scale_probabilities(proba, 1.0) is proba


def test_a_network_s_temperature_is_found_and_its_cells_have_no_say_in_their_own():
    held_out = make_held_out(N_CLASSES, 3000)
    sharp = scale_probabilities(held_out.probabilities, 1 / 3)
    folds = np.arange(3000) % 3
    found, temperature = calibrate_probabilities(sharp, held_out.codes, folds)
    assert temperature == pytest.approx(3, rel=0.1)
    altered = np.where(folds == 0, 0, held_out.codes)
    again, _ = calibrate_probabilities(sharp, altered, folds)
    np.testing.assert_array_equal(again[folds == 0], found[folds == 0])
    assert not np.allclose(again[folds == 1], found[folds == 1])


def test_cells_of_one_fold_are_calibrated_together():
    held_out = make_held_out(N_CLASSES, 200)
    found, temperature = calibrate_probabilities(held_out.probabilities, held_out.codes, np.zeros(200))
    np.testing.assert_array_equal(found, scale_probabilities(held_out.probabilities, temperature))


def test_confidence_is_the_same_after_its_arrays_were_saved():
    confidence = make_confidence(3, 40)
    again = Confidence.from_arrays(confidence.to_arrays(), confidence.settings)
    log_expr = make_fitted().log_expr
    probabilities = make_held_out(3, log_expr.shape[0]).probabilities
    np.testing.assert_array_equal(
        again.score_novelty(log_expr, probabilities), confidence.score_novelty(log_expr, probabilities)
    )
    for name in ("thresholds", "set_limits"):
        np.testing.assert_array_equal(getattr(again, name), getattr(confidence, name))
    assert again.settings == SETTINGS
