"""No more cells are taken for doublets than a lane's loading explains, nor from one label unasked."""

import numpy as np
import pandas as pd
import pytest
from callers import replace_caller
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from annotary.quality.doublet_limits import count_explained, expect_rate, find_excess, raise_threshold
from annotary.quality.doublets import LaneCalls, call_doublets, judge_doublet_rate

METHODS = ("solo", "scrublet")

scores = st.lists(st.sampled_from([0.0, 0.2, 0.5, 0.9, 1.0]) | st.floats(0, 1), min_size=1, max_size=60)


@pytest.mark.parametrize(
    ("n_cells", "rate"), [(500, 0.004), (1_000, 0.008), (2_638, 0.0211), (5_000, 0.04), (10_000, 0.08)]
)
def test_the_expected_rate_grows_with_the_cells_of_a_lane(n_cells, rate):
    assert expect_rate(n_cells) == pytest.approx(rate, abs=5e-5)


def test_more_cells_than_a_full_lane_has_do_not_raise_the_rate():
    assert expect_rate(68_579) == expect_rate(10_000)
    assert expect_rate(3_000, rate_per_1000=1.0) == 1.0


def test_chance_allows_a_few_more_than_expected():
    assert count_explained(2_638, 0.0211) == 74  # 55.7 expected, 7.4 is their standard deviation
    assert count_explained(0, 0.02) == count_explained(100, 0.0) == 0
    assert count_explained(100, 1.0) == 100


@settings(max_examples=40)
@given(st.integers(0, 20_000), st.floats(0, 1))
def test_what_is_explained_is_seldom_exceeded_by_chance_and_never_the_cells_themselves(n_cells, rate):
    explained, expected = count_explained(n_cells, rate), n_cells * rate
    assert 0 <= explained <= n_cells
    assert explained <= expected + 4 * np.sqrt(expected * (1 - rate)) + 2


@settings(max_examples=40)
@given(scores, st.floats(0, 1), st.integers(0, 70))
def test_a_raised_threshold_leaves_no_more_above_than_asked_for(score, threshold, most):
    score = np.array(score)
    raised = raise_threshold(score, threshold, most=most)
    assert raised >= threshold
    assert (score > raised).sum() <= most
    n_above = (score > threshold).sum()
    if n_above <= most:
        assert (score > raised).sum() == n_above


def test_no_threshold_stays_none():
    assert np.isnan(raise_threshold(np.array([0.1, 0.9]), np.nan, most=1))


def test_equal_scores_are_all_left_below_in_whatever_order():
    score = np.array([0.9, 0.8, 0.8, 0.8, 0.6])
    assert (score > raise_threshold(score, 0.5, most=2)).tolist() == [True, False, False, False, False]
    excess = find_excess(score > 0.5, score, pd.Series(["a"] * 5), np.full(5, 0.4), multiple=1.0)
    assert excess.tolist() == [False, True, True, True, True]


@st.composite
def calls_of_labels(draw):
    """Draw calls, scores, labels and rates of some cells; what has no score is not called."""
    score = np.array(draw(scores))
    n_cells = len(score)
    score[draw(st.lists(st.booleans(), min_size=n_cells, max_size=n_cells))] = np.nan
    labels = pd.Series(draw(st.lists(st.sampled_from("abc"), min_size=n_cells, max_size=n_cells)))
    rates = np.array(draw(st.lists(st.floats(0, 1), min_size=n_cells, max_size=n_cells)))
    return score > draw(st.floats(0, 1)), score, labels, rates


@settings(max_examples=40)
@given(calls_of_labels(), st.floats(0.1, 10))
def test_no_label_loses_more_than_its_multiple_of_the_expected_rate(drawn, multiple):
    called, score, labels, rates = drawn
    excess = find_excess(called, score, labels, rates, multiple=multiple)
    assert not (excess & ~called).any()
    for label in set(labels):
        members = (labels == label).to_numpy()
        assert (called & ~excess)[members].sum() <= multiple * rates[members].sum() + 1e-6
        kept, lost = score[members & excess], score[members & called & ~excess]
        assert not len(kept) or not len(lost) or kept.max() < lost.min()


@settings(max_examples=40)
@given(calls_of_labels())
def test_without_a_limit_nothing_is_excess(drawn):
    assert not find_excess(*drawn, multiple=0).any()


@settings(max_examples=40)
@given(calls_of_labels(), st.randoms())
def test_the_order_of_the_cells_does_not_decide_which_calls_are_excess(drawn, random):
    order = random.sample(range(len(drawn[0])), len(drawn[0]))
    called, score, labels, rates = drawn
    excess = find_excess(called, score, labels, np.full(len(rates), 0.3), multiple=2.0)
    other = find_excess(
        called[order], score[order], labels.iloc[order], np.full(len(rates), 0.3), multiple=2.0
    )
    np.testing.assert_array_equal(excess[order], other)


def call_with(monkeypatch, score, lanes=None, *, method="solo", threshold=0.5, **options):
    """Call lanes whose cells have these scores; the counts carry their positions."""
    score = np.asarray(score, dtype=np.float64)
    counts = csr_matrix(np.ones((len(score), 31)) * np.arange(1, len(score) + 1)[:, None])

    def call_lane(counts, **_):
        own = score[counts[:, 0].toarray().ravel().astype(int) - 1]
        return LaneCalls(
            probability=own,
            is_doublet=own > threshold,
            threshold=threshold,
            epochs=0,
            converged=True,
            curves=pd.DataFrame(),
        )

    replace_caller(monkeypatch, method, call_lane)
    lanes = np.full(len(score), "all") if lanes is None else lanes
    return call_doublets(
        lambda rows: counts[rows], np.asarray(lanes), method=method, max_epochs=0, seed=0, **options
    )


@pytest.mark.parametrize("method", METHODS)
def test_the_highest_scores_are_taken_and_no_more_than_the_loading_explains(method, monkeypatch):
    score = np.random.default_rng(0).permutation(np.linspace(0.4, 1, 1_000))
    calls = call_with(monkeypatch, score, method=method)
    explained = count_explained(1_000, 0.008)
    assert explained == 15
    assert calls.is_doublet.sum() == explained
    assert set(np.flatnonzero(calls.is_doublet)) == set(np.argsort(score)[-explained:])
    lane = calls.lanes.loc[0]
    assert (lane["called"], lane["doublets"], lane["explained"]) == ((score > 0.5).sum(), 15, 15)
    assert lane["expected_rate"] == pytest.approx(0.008)
    assert lane["threshold"] == np.sort(score)[-16]


@pytest.mark.parametrize("method", METHODS)
def test_fewer_calls_than_the_loading_explains_are_left_as_the_method_made_them(method, monkeypatch):
    score = np.where(np.arange(1_000) < 9, 0.6, 0.1)
    calls = call_with(monkeypatch, score, method=method)
    assert calls.is_doublet.sum() == 9
    assert calls.lanes.loc[0, "threshold"] == 0.5
    assert judge_doublet_rate(calls.lanes, place="x.h5ad") == []


def test_cells_that_were_not_labelled_count_as_cells_of_the_lane(monkeypatch):
    score = np.linspace(0.4, 1, 200)
    alone = call_with(monkeypatch, score)
    among = call_with(monkeypatch, score, n_recovered={"all": 8_000})
    assert alone.is_doublet.sum() == count_explained(200, 0.0016)
    assert among.is_doublet.sum() == count_explained(200, 0.064)
    assert among.lanes.loc[0, "recovered"] == 8_000


def test_each_lane_has_the_bound_of_its_own_loading(monkeypatch):
    lanes = np.repeat(["a", "b"], [100, 1_000])
    calls = call_with(monkeypatch, np.linspace(0.6, 1, 1_100), lanes, rate_per_1000=0.05)
    expected = {"a": count_explained(100, 0.005), "b": count_explained(1_000, 0.05)}
    assert calls.lanes.set_index("lane")["doublets"].to_dict() == expected
    assert calls.is_doublet[:100].sum() == expected["a"]


def test_a_rate_of_none_takes_none_and_one_of_all_takes_what_the_method_calls(monkeypatch):
    score = np.linspace(0.2, 0.8, 1_000)
    assert not call_with(monkeypatch, score, rate_per_1000=0.0).is_doublet.any()
    assert call_with(monkeypatch, score, rate_per_1000=1.0).is_doublet.sum() == (score > 0.5).sum()


def test_saturated_scores_take_no_cell_at_random(monkeypatch):
    calls = call_with(monkeypatch, np.where(np.arange(1_000) < 400, 1.0, 0.1))
    assert not calls.is_doublet.any()
    (warning,) = judge_doublet_rate(calls.lanes, place="x.h5ad")
    assert "SOLO calls 400 of 1000 cells doublets" in warning
    assert "the 0 of the highest scores" in warning


def test_calls_beyond_the_loading_are_told_with_the_option(monkeypatch):
    calls = call_with(monkeypatch, np.linspace(0.3, 0.7, 1_000))
    (warning,) = judge_doublet_rate(calls.lanes, place="x.h5ad")
    assert warning == (
        "x.h5ad: SOLO calls 500 of 1000 cells doublets, where 0.8% are expected of 1000 cells; the 15 of the "
        "highest scores, above 0.694, are taken (--doublet-rate)"
    )


def test_a_lane_of_more_cells_than_one_holds_is_told(monkeypatch):
    calls = call_with(monkeypatch, np.linspace(0, 0.6, 100), n_recovered={"all": 68_579})
    warnings = judge_doublet_rate(calls.lanes, place="x.h5ad")
    assert "68579 cells are more than one lane usually holds, and 8.0% doublets" in warnings[0]
    assert "--lane-key" in warnings[0]


@settings(max_examples=40)
@given(scores, st.floats(0, 1), st.integers(0, 30_000), st.sampled_from(["solo", "scrublet"]))
def test_no_lane_ever_loses_more_than_its_loading_explains(score, rate_per_1000, recovered, method):
    score = np.concatenate([score, np.linspace(0, 1, 50)])
    with pytest.MonkeyPatch.context() as monkeypatch:
        calls = call_with(
            monkeypatch, score, method=method, rate_per_1000=rate_per_1000, n_recovered={"all": recovered}
        )
    rate = expect_rate(max(len(score), recovered), rate_per_1000=rate_per_1000)
    assert calls.is_doublet.sum() <= count_explained(len(score), rate)
    assert (calls.probability[calls.is_doublet] > 0.5).all()
