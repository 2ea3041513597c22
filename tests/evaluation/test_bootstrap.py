"""The bootstrap draws cells within labels, pairs the models, and covers the truth as often as it says."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from annotary.evaluation.bootstrap import compute_p, find_interval, resample
from annotary.evaluation.gate import compare

N_CLASSES = 4


def make_calls(n_cells: int, *, right: float, rng: np.random.Generator, weights=None):
    """True codes, and calls of which a share is right."""
    codes = rng.choice(N_CLASSES, size=n_cells, p=weights)
    wrong = (codes + rng.integers(1, N_CLASSES, size=n_cells)) % N_CLASSES
    return codes, np.where(rng.random(n_cells) < right, codes, wrong)


def draw_slowly(codes, calls, *, n_draws, rng):
    """The same by drawing cells one by one and scikit-learn's F1."""
    groups = [np.flatnonzero(codes == code) for code in np.unique(codes)]
    seen = [np.union1d(codes, of_model) for of_model in calls]
    drawn = []
    for _ in range(n_draws):
        rows = np.concatenate([rng.choice(group, size=len(group)) for group in groups])
        drawn.append(
            [
                f1_score(codes[rows], of_model[rows], labels=labels, average="macro", zero_division=0.0)
                for of_model, labels in zip(calls, seen, strict=True)
            ]
        )
    return np.array(drawn).T


def test_draws_are_those_of_cells_drawn_one_by_one():
    rng = np.random.default_rng(0)
    codes, first = make_calls(150, right=0.8, rng=rng, weights=[0.6, 0.25, 0.1, 0.05])
    second = np.where(rng.random(150) < 0.9, first, codes)
    calls = np.stack([first, second])
    quick = resample(codes, calls, n_classes=N_CLASSES, n_draws=4000, rng=rng).macro_f1
    slow = draw_slowly(codes, calls, n_draws=400, rng=rng)
    np.testing.assert_allclose(quick.mean(axis=1), slow.mean(axis=1), atol=0.01)
    np.testing.assert_allclose(quick.std(axis=1), slow.std(axis=1), rtol=0.15)
    pairs = [np.corrcoef(drawn)[0, 1] for drawn in (quick, slow)]
    assert pairs[0] == pytest.approx(pairs[1], abs=0.1), "models are drawn on the same cells"


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), n_cells=st.integers(1, 40))
def test_every_draw_keeps_the_sizes_of_the_labels(seed, n_cells):
    rng = np.random.default_rng(seed)
    codes, calls = make_calls(n_cells, right=0.5, rng=rng)
    drawn = resample(codes, calls[np.newaxis], n_classes=N_CLASSES, n_draws=20, rng=rng)
    assert (drawn.support == np.bincount(codes, minlength=N_CLASSES)).all()
    assert (drawn.called.sum(axis=2) == n_cells).all()
    assert (drawn.hits <= drawn.support).all()
    assert ((drawn.macro_f1 >= 0) & (drawn.macro_f1 <= 1)).all()
    np.testing.assert_allclose(drawn.accuracy, drawn.hits.sum(axis=2) / n_cells)


def test_the_interval_holds_the_true_difference_about_as_often_as_it_says():
    rng = np.random.default_rng(1)
    population, first = make_calls(200_000, right=0.8, rng=rng)
    second = np.where(rng.random(len(first)) < 0.15, population, first)
    truth = np.diff([f1_score(population, calls, average="macro") for calls in (first, second)])[0]
    held = 0
    for _ in range(200):
        rows = rng.integers(len(population), size=250)
        calls = np.stack([first[rows], second[rows]])
        drawn = resample(population[rows], calls, n_classes=N_CLASSES, n_draws=400, rng=rng).macro_f1
        low, high = find_interval(drawn[1] - drawn[0])
        held += low <= truth <= high
    assert 0.88 <= held / 200 <= 0.99


def test_p_is_small_for_a_clear_difference_and_large_for_none():
    rng = np.random.default_rng(2)
    codes, poor = make_calls(400, right=0.6, rng=rng)
    names = np.array(["A", "B", "C", "D"], dtype=object)
    clear = compare(names[codes], names[codes], names[poor], n_draws=1000, rng=rng)
    assert clear.p_value < 0.01 < clear.low
    same = compare(names[codes], names[poor], names[poor], n_draws=1000, rng=rng)
    assert (same.difference, same.low, same.high, same.p_value) == (0, 0, 0, 1)
    assert compute_p(np.array([-1.0, 1.0, 2.0])) <= 1


def test_the_same_seed_gives_the_same_interval():
    codes, calls = make_calls(100, right=0.7, rng=np.random.default_rng(3))
    names = np.array(["A", "B", "C", "D"], dtype=object)
    once, again = (
        compare(names[codes], names[calls], names[codes], n_draws=200, rng=np.random.default_rng(5))
        for _ in range(2)
    )
    assert (once.low, once.high, once.p_value) == (again.low, again.high, again.p_value)


def test_scores_are_scikit_learn_s_with_labels_that_one_model_alone_knows():
    truth = np.array(["A", "A", "B", "B", "C"], dtype=object)
    challenger = np.array(["A", "B", "B", "B", "C"], dtype=object)
    champion = np.array(["A", "A", "B", "D", "D"], dtype=object)
    found = compare(truth, challenger, champion, n_draws=100, rng=np.random.default_rng(0))
    assert found.challenger == pytest.approx(f1_score(truth, challenger, average="macro"))
    assert found.champion == pytest.approx(f1_score(truth, champion, average="macro", zero_division=0.0))
    assert found.per_class.loc["D"].tolist() == [0, 0, 0]
    assert found.n_cells == 5
