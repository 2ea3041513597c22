import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models.conformance import AnnotatorConformance, make_cells
from models.test_baselines import fit_model

from annotary.models.confidence.held_out import scale_probabilities
from annotary.models.ensemble import EnsembleAnnotator, Member, fit_weights, vote
from annotary.quality.prepare import PreparedCells

FORWARD, BACKWARD = np.arange(40), np.arange(30)[::-1]


def take(cells: PreparedCells, columns: np.ndarray) -> PreparedCells:
    return PreparedCells(cells.counts[:, columns], cells.depth)


def make_ensemble(cells: PreparedCells, codes: np.ndarray, *, seed: int = 0) -> EnsembleAnnotator:
    """Two members; the second knows fewer genes, in another order."""
    linear = fit_model("logistic_regression", take(cells, FORWARD), codes, seed=seed)
    forest = fit_model("random_forest", take(cells, BACKWARD), codes, seed=seed, n_estimators=20)
    return EnsembleAnnotator([Member(linear, FORWARD, 0.5, 0.7), Member(forest, BACKWARD, 2.0, 0.3)])


class TestEnsemble(AnnotatorConformance):
    def fit(self, cells, codes, *, seed):
        return make_ensemble(cells, codes, seed=seed)


def test_each_member_sees_its_own_genes_and_speaks_by_its_weight_and_temperature():
    cells, codes = make_cells(120)
    model = make_ensemble(cells, codes)
    query, _ = make_cells(25, seed=9)
    expected = np.zeros((25, 3))
    for member in model.members:
        said = member.model.predict_proba(take(query, member.columns))
        expected += member.weight * scale_probabilities(said, member.temperature)
    np.testing.assert_allclose(model.predict_proba(query), expected, atol=1e-6)


def draw_voters(seed: int, n_cells: int, n_models: int) -> tuple[list[np.ndarray], np.ndarray]:
    rng = np.random.default_rng(seed)
    codes = np.concatenate([np.arange(3), rng.integers(3, size=n_cells - 3)])
    return [rng.dirichlet(np.ones(3), size=n_cells) for _ in range(n_models)], codes


def weigh_likelihood(said: list[np.ndarray], codes: np.ndarray, weights: np.ndarray) -> float:
    """Mean over labels of the mean log likelihood of a label's cells."""
    log_truth = np.log(sum(w * p for w, p in zip(weights, said, strict=True))[np.arange(len(codes)), codes])
    return float(np.mean([log_truth[codes == code].mean() for code in np.unique(codes)]))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), n_cells=st.integers(6, 60), n_models=st.integers(1, 4))
def test_no_other_weights_make_the_labels_more_likely(seed, n_cells, n_models):
    said, codes = draw_voters(seed, n_cells, n_models)
    weights = fit_weights(said, codes)
    assert weights.sum() == pytest.approx(1)
    assert (weights >= 0).all()
    best = weigh_likelihood(said, codes, weights)
    others = np.random.default_rng(seed).dirichlet(np.ones(n_models), size=50)
    for other in [*others, *np.eye(n_models)]:
        with np.errstate(divide="ignore"):
            assert weigh_likelihood(said, codes, other) <= best + 1e-3


def test_a_model_that_knows_and_one_that_guesses():
    codes = np.arange(90) % 3
    knows = np.where(np.eye(3)[codes] == 1, 0.9, 0.05)
    guesses = np.full((90, 3), 1 / 3)
    assert fit_weights([guesses, knows], codes)[1] > 0.95


def test_a_rare_label_counts_as_much_as_a_common_one():
    codes = np.repeat([0, 1], [990, 10])
    common = np.where(codes[:, np.newaxis] == [0, 1], 0.9, 0.1)
    common[codes == 1] = [0.9, 0.1]
    rare = 1 - common
    np.testing.assert_allclose(fit_weights([common, rare], codes), [0.5, 0.5], atol=0.01)


def test_a_vote_of_one_is_what_it_says():
    (said,), _ = draw_voters(0, 20, 1)
    np.testing.assert_array_equal(vote([said], np.ones(1)), said.astype(np.float32))


def test_a_model_that_gives_the_truth_no_chance_does_not_break_the_fit():
    codes = np.array([0, 1, 0, 1])
    wrong = np.eye(2)[1 - codes]
    weights = fit_weights([wrong, np.full((4, 2), 0.5)], codes)
    assert np.isfinite(weights).all()
    assert weights[1] > 0.99
