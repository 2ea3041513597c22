"""Metrics are those of scikit-learn, macro averages, whatever labels occur."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics

from annotary.evaluation.metrics import evaluate_predictions

NAMES = ("A", "B", "C", "D")


def make_predictions(n_cells: int, *, seed: int = 0, n_true: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    codes = rng.integers(n_true, size=n_cells)
    probabilities = rng.dirichlet(np.ones(len(NAMES)), size=n_cells)
    probabilities[np.arange(n_cells), codes] += 0.5
    return codes, (probabilities / probabilities.sum(axis=1, keepdims=True)).astype(np.float32)


def test_figures_are_scikit_learn_s():
    codes, probabilities = make_predictions(200)
    predicted = probabilities.argmax(axis=1)
    found = evaluate_predictions(codes, probabilities, NAMES).metrics
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(codes, predicted))
    assert found["balanced_accuracy"] == pytest.approx(metrics.balanced_accuracy_score(codes, predicted))
    for name, average in (("macro_f1", "macro"), ("weighted_f1", "weighted")):
        assert found[name] == pytest.approx(metrics.f1_score(codes, predicted, average=average))
    assert found["macro_precision"] == pytest.approx(
        metrics.precision_score(codes, predicted, average="macro")
    )
    assert found["macro_recall"] == pytest.approx(metrics.recall_score(codes, predicted, average="macro"))
    assert found["log_loss"] == pytest.approx(
        metrics.log_loss(codes, probabilities, labels=range(4)), abs=1e-6
    )


def test_tables_have_every_label_even_one_without_cells():
    codes, probabilities = make_predictions(50, n_true=3)
    found = evaluate_predictions(codes, probabilities, NAMES)
    assert tuple(found.per_class.index) == NAMES
    assert found.per_class.loc["D", "support"] == 0
    assert found.confusion.shape == (4, 4)
    assert found.confusion.to_numpy().sum() == 50
    assert found.confusion_by_row.loc["D"].sum() == 0


def test_a_label_that_is_neither_true_nor_predicted_does_not_lower_the_average():
    codes = np.array([0, 1, 0, 1])
    probabilities = np.eye(4, dtype=np.float32)[codes]
    assert evaluate_predictions(codes, probabilities, NAMES).metrics["macro_f1"] == 1


@given(st.integers(5, 80), st.integers(0, 1000))
def test_rows_of_the_confusion_matrix_add_up_to_one_and_figures_stay_in_bounds(n_cells, seed):
    codes, probabilities = make_predictions(n_cells, seed=seed)
    found = evaluate_predictions(codes, probabilities, NAMES)
    rows = found.confusion_by_row.sum(axis=1).to_numpy()
    np.testing.assert_allclose(rows[found.per_class["support"] > 0], 1)
    assert all(0 <= value <= 1 for name, value in found.metrics.items() if name != "log_loss")


@given(st.integers(5, 60), st.integers(0, 1000))
def test_cell_order_does_not_change_the_figures(n_cells, seed):
    codes, probabilities = make_predictions(n_cells, seed=seed)
    order = np.random.default_rng(seed).permutation(n_cells)
    one = evaluate_predictions(codes, probabilities, NAMES).metrics
    other = evaluate_predictions(codes[order], probabilities[order], NAMES).metrics
    assert one == pytest.approx(other)
