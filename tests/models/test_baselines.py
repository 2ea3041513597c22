import subprocess
import sys

import numpy as np
import pytest
from models.conformance import AnnotatorConformance, make_cells
from scipy.sparse import csr_matrix
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression

from annotary.models.baselines import BASELINES, LogisticRegressionAnnotator, RandomForestAnnotator
from annotary.models.forest import BLOCK_CELLS, export_forest
from annotary.models.tuning import fit_best
from annotary.quality.prepare import PreparedCells, log_normalize

TARGET_SUM = 1e4


class TestLogisticRegression(AnnotatorConformance):
    def fit(self, cells, codes, *, seed):
        baseline = BASELINES["logistic_regression"]
        return fit_best(baseline, cells, codes, baseline.first_trial, seed=seed, target_sum=TARGET_SUM)


class TestRandomForest(AnnotatorConformance):
    def fit(self, cells, codes, *, seed):
        baseline = BASELINES["random_forest"]
        params = baseline.first_trial | {"n_estimators": 40}
        return fit_best(baseline, cells, codes, params, seed=seed, target_sum=TARGET_SUM)


def make_log_expr(n_cells: int, *, seed: int = 0) -> tuple[csr_matrix, np.ndarray]:
    cells, codes = make_cells(n_cells, seed=seed)
    return log_normalize(cells, target_sum=TARGET_SUM), codes


def assert_forest_equals(estimator: RandomForestClassifier, log_expr: csr_matrix) -> None:
    np.testing.assert_allclose(
        export_forest(estimator).predict_proba(log_expr), estimator.predict_proba(log_expr), atol=1e-6
    )


@pytest.mark.parametrize("class_weight", [None, "balanced"])
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("max_depth", [None, 1, 4])
def test_forest_equals_scikit_learn(class_weight, n_classes, max_depth):
    log_expr, codes = make_log_expr(300)
    estimator = RandomForestClassifier(
        30, max_depth=max_depth, min_samples_leaf=2, class_weight=class_weight, random_state=0
    ).fit(log_expr, codes % n_classes)
    query, _ = make_log_expr(50, seed=1)
    assert_forest_equals(estimator, query)


def test_deep_forest_equals_scikit_learn():
    rng = np.random.default_rng(0)
    log_expr = csr_matrix(rng.random((600, 3), dtype=np.float32))
    noise = rng.integers(4, size=600)
    estimator = RandomForestClassifier(20, max_features=1, random_state=0).fit(log_expr, noise)
    assert max(tree.get_depth() for tree in estimator.estimators_) > 15
    assert_forest_equals(estimator, log_expr)


def test_values_at_a_threshold_go_left_as_in_scikit_learn():
    log_expr, codes = make_log_expr(200)
    estimator = RandomForestClassifier(10, random_state=0).fit(log_expr, codes)
    tree = estimator.estimators_[0].tree_
    splits = np.flatnonzero(tree.children_left >= 0)
    at = np.zeros((len(splits), log_expr.shape[1]), dtype=np.float32)
    at[np.arange(len(splits)), tree.feature[splits]] = tree.threshold[splits]
    for neighbour in (at, np.nextafter(at, np.float32(np.inf)), np.nextafter(at, np.float32(-np.inf))):
        assert_forest_equals(estimator, csr_matrix(neighbour))


def test_trees_of_a_single_leaf_are_walked():
    log_expr, codes = make_log_expr(90)
    stumps = RandomForestClassifier(5, min_samples_split=1000, random_state=0).fit(log_expr, codes)
    assert all(tree.tree_.node_count == 1 for tree in stumps.estimators_)
    assert export_forest(stumps).children.shape == (0, 2)
    assert_forest_equals(stumps, log_expr)


def test_forest_takes_explicit_zeros_as_zeros():
    log_expr, codes = make_log_expr(90)
    estimator = RandomForestClassifier(10, random_state=0).fit(log_expr, codes)
    query, _ = make_log_expr(20, seed=1)
    explicit = query.copy()
    explicit.data[::3] = 0
    clean = explicit.copy()
    clean.eliminate_zeros()
    assert clean.nnz < explicit.nnz
    forest = export_forest(estimator)
    np.testing.assert_array_equal(forest.predict_proba(explicit), forest.predict_proba(clean))
    assert_forest_equals(estimator, explicit)


def test_more_cells_than_a_block_are_all_predicted():
    log_expr, codes = make_log_expr(2 * BLOCK_CELLS + 3)
    assert_forest_equals(RandomForestClassifier(5, random_state=0).fit(log_expr, codes), log_expr)


def test_equal_leaves_are_stored_once():
    log_expr, codes = make_log_expr(200)
    forest = export_forest(RandomForestClassifier(10, random_state=0).fit(log_expr, codes))
    assert len(forest.leaf_proba) == 3  # leaves of fully grown trees are pure


@pytest.mark.parametrize("n_classes", [2, 3])
def test_logistic_regression_equals_scikit_learn(n_classes):
    cells, codes = make_cells(200)
    log_expr = log_normalize(cells, target_sum=TARGET_SUM)
    estimator = LogisticRegression(max_iter=1000).fit(log_expr, codes % n_classes)
    model = LogisticRegressionAnnotator.from_estimator(estimator, target_sum=TARGET_SUM)
    proba = model.predict_proba(cells)
    assert proba.shape == (200, n_classes)
    np.testing.assert_allclose(proba, estimator.predict_proba(log_expr), atol=1e-6)


def test_huge_scores_do_not_overflow():
    model = LogisticRegressionAnnotator(
        coef=np.array([[1e6], [-1e6]]), intercept=np.zeros(2), target_sum=TARGET_SUM
    )
    cells = PreparedCells(counts=csr_matrix(np.float32([[5.0]])), depth=np.array([5.0]))
    np.testing.assert_array_equal(model.predict_proba(cells), [[1, 0]])


@pytest.mark.parametrize("kind", sorted(BASELINES))
def test_target_sum_travels_with_the_model(kind, tmp_path):
    cells, codes = make_cells(90)
    baseline = BASELINES[kind]
    model = fit_best(baseline, cells, codes, baseline.first_trial, seed=0, target_sum=500.0)
    model.save(tmp_path)
    loaded = type(model).load(tmp_path)
    assert loaded.target_sum == 500.0
    np.testing.assert_array_equal(loaded.predict_proba(cells), model.predict_proba(cells))


@pytest.mark.parametrize("model_class", [LogisticRegressionAnnotator, RandomForestAnnotator])
def test_loading_and_predicting_import_no_scikit_learn(model_class, tmp_path):
    cells, codes = make_cells(60)
    baseline = BASELINES[model_class.kind]
    fit_best(baseline, cells, codes, baseline.first_trial, seed=0, target_sum=TARGET_SUM).save(tmp_path)
    script = f"""
import sys
from pathlib import Path
import numpy as np
from scipy.sparse import csr_matrix
from annotary.models.baselines import {model_class.__name__}
from annotary.quality.prepare import PreparedCells
model = {model_class.__name__}.load(Path({str(tmp_path)!r}))
cells = PreparedCells(counts=csr_matrix((2, {cells.counts.shape[1]}), dtype=np.float32), depth=np.ones(2))
assert model.predict_proba(cells).shape == (2, 3)
print(sorted({{"sklearn", "optuna", "torch", "mlflow"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
