import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from models.conformance import AnnotatorConformance, make_cells
from scipy.sparse import csr_matrix
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression

from annotary.models.baselines import BASELINES, LogisticRegressionAnnotator
from annotary.models.baselines.baseline import CLASS_WEIGHTS, weigh_classes
from annotary.models.forest import BLOCK_CELLS, export_forest, weigh_splits
from annotary.quality.prepare import PreparedCells, log_normalize

TARGET_SUM = 1e4


def fit_model(kind, cells, codes, *, seed=0, target_sum=TARGET_SUM, **changes):
    baseline = BASELINES[kind]
    params = {**baseline.notebook, **changes}
    log_expr = log_normalize(cells, target_sum=target_sum)
    estimator = baseline.fit(log_expr, codes, params, seed=seed, n_jobs=1)
    return baseline.to_annotator(estimator, target_sum=target_sum, n_classes=3)


class TestLogisticRegression(AnnotatorConformance):
    def fit(self, cells, codes, *, seed):
        return replace(fit_model("logistic_regression", cells, codes, seed=seed), temperature=0.7)


class TestElasticNet(AnnotatorConformance):
    def fit(self, cells, codes, *, seed):
        return fit_model("logistic_regression", cells, codes, seed=seed, l1_ratio=0.5, C=1.0)


class TestRandomForest(AnnotatorConformance):
    def fit(self, cells, codes, *, seed):
        return replace(fit_model("random_forest", cells, codes, seed=seed, n_estimators=40), temperature=0.6)


class TestLinearSvm(AnnotatorConformance):
    def fit(self, cells, codes, *, seed):
        return replace(fit_model("linear_svm", cells, codes, seed=seed), temperature=0.4)


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


def test_forest_without_a_class_gives_it_no_vote():
    log_expr, codes = make_log_expr(90)
    rows = codes != 1
    estimator = RandomForestClassifier(10, random_state=0).fit(log_expr[rows], codes[rows])
    proba = export_forest(estimator, n_classes=3).predict_proba(log_expr)
    np.testing.assert_allclose(proba[:, [0, 2]], estimator.predict_proba(log_expr), atol=1e-6)
    assert (proba[:, 1] == 0).all()


def test_forest_weights_add_up_to_the_gini_importance():
    log_expr, codes = make_log_expr(200)
    estimator = RandomForestClassifier(1, bootstrap=False, max_depth=1, random_state=0).fit(log_expr, codes)
    shares = np.abs(weigh_splits(estimator, n_classes=3)).sum(axis=1)
    np.testing.assert_allclose(shares, estimator.feature_importances_, atol=1e-6)


@pytest.mark.parametrize("kind", sorted(BASELINES))
def test_the_heaviest_genes_of_a_class_are_its_markers(kind):
    cells, codes = make_cells(300)
    weights = fit_model(kind, cells, codes).weigh_genes()
    assert weights.shape == (40, 3)
    for code in range(3):
        assert set(np.argsort(-weights[:, code])[:8]) == set(range(code * 8, code * 8 + 8))


@pytest.mark.parametrize("n_classes", [2, 3])
def test_logistic_regression_equals_scikit_learn(n_classes):
    cells, codes = make_cells(200)
    log_expr = log_normalize(cells, target_sum=TARGET_SUM)
    estimator = LogisticRegression(max_iter=1000).fit(log_expr, codes % n_classes)
    model = LogisticRegressionAnnotator.from_estimator(estimator, target_sum=TARGET_SUM, n_classes=n_classes)
    proba = model.predict_proba(cells)
    assert proba.shape == (200, n_classes)
    np.testing.assert_allclose(proba, estimator.predict_proba(log_expr), atol=1e-6)


@pytest.mark.parametrize("kind", sorted(BASELINES))
@pytest.mark.parametrize("missing", [0, 1, 2])
def test_a_class_that_no_fitted_cell_has_is_never_predicted(kind, missing):
    cells, codes = make_cells(120)
    kept = codes != missing
    model = fit_model(kind, cells[kept], codes[kept])
    proba = model.predict_proba(cells)
    assert np.isfinite(proba).all()
    assert (proba[kept].argmax(axis=1) == codes[kept]).mean() > 0.9
    assert not (proba.argmax(axis=1) == missing).any()


def test_huge_scores_do_not_overflow():
    model = LogisticRegressionAnnotator(
        coef=np.array([[1e6], [-1e6]]), intercept=np.zeros(2), target_sum=TARGET_SUM
    )
    cells = PreparedCells(counts=csr_matrix(np.float32([[5.0]])), depth=np.array([5.0]))
    np.testing.assert_array_equal(model.predict_proba(cells), [[1, 0]])


@pytest.mark.parametrize("kind", sorted(BASELINES))
def test_target_sum_and_temperature_travel_with_the_model(kind, tmp_path):
    cells, codes = make_cells(90)
    model = replace(fit_model(kind, cells, codes, target_sum=500.0), temperature=2.5)
    model.save(tmp_path)
    loaded = type(model).load(tmp_path)
    assert (loaded.target_sum, loaded.temperature) == (500.0, 2.5)
    np.testing.assert_array_equal(loaded.predict_proba(cells), model.predict_proba(cells))
    np.testing.assert_array_equal(loaded.weigh_genes(), model.weigh_genes())


@pytest.mark.parametrize("kind", sorted(BASELINES))
def test_temperature_changes_confidence_but_no_label(kind):
    cells, codes = make_cells(90)
    model = fit_model(kind, cells, codes)
    sharp, flat = (replace(model, temperature=value).predict_proba(cells) for value in (0.5, 4.0))
    np.testing.assert_array_equal(sharp.argmax(axis=1), flat.argmax(axis=1))
    assert (sharp.max(axis=1) > flat.max(axis=1)).all()


@pytest.mark.parametrize("kind", sorted(BASELINES))
def test_prediction_never_makes_all_cells_dense(kind, monkeypatch):
    cells, codes = make_cells(BLOCK_CELLS + 100)
    model = fit_model(kind, cells, codes)
    dense_rows = []
    original = csr_matrix.toarray
    monkeypatch.setattr(
        csr_matrix,
        "toarray",
        lambda self, *a, **k: dense_rows.append(self.shape[0]) or original(self, *a, **k),
    )
    model.predict_proba(cells)
    assert max(dense_rows, default=0) <= BLOCK_CELLS


@pytest.mark.parametrize("how", CLASS_WEIGHTS)
def test_class_weights_are_powers_of_the_inverse_size(how):
    codes = np.repeat([0, 2], [75, 25])
    weights = weigh_classes(codes, how)
    if how == "none":
        assert weights is None
    else:
        ratio = {"balanced": 3, "sqrt": np.sqrt(3)}[how]
        assert weights[2] / weights[0] == pytest.approx(ratio)


@pytest.mark.parametrize("params", [{"C": 1e-3}, {"C": 10.0}, {"C": 10.0, "class_weight": "none"}])
@pytest.mark.filterwarnings("error")
def test_logistic_regression_converges_at_the_ends_of_its_space(params):
    cells, codes = make_cells(150)
    fit_model("logistic_regression", cells, codes, **params)


@pytest.mark.parametrize("kind", sorted(BASELINES))
def test_number_of_jobs_does_not_change_the_model(kind):
    cells, codes = make_cells(90)
    baseline = BASELINES[kind]
    log_expr = log_normalize(cells, target_sum=TARGET_SUM)
    one, many = (
        baseline.to_annotator(
            baseline.fit(log_expr, codes, baseline.notebook, seed=0, n_jobs=n_jobs),
            target_sum=TARGET_SUM,
            n_classes=3,
        ).predict_proba(cells)
        for n_jobs in (1, 2)
    )
    np.testing.assert_array_equal(one, many)


@pytest.mark.parametrize("kind", sorted(BASELINES))
def test_loading_and_predicting_import_no_scikit_learn(kind, tmp_path):
    cells, codes = make_cells(60)
    model = fit_model(kind, cells, codes)
    model.save(tmp_path)
    script = f"""
import sys
from pathlib import Path
import numpy as np
from scipy.sparse import csr_matrix
from annotary.models.baselines import {type(model).__name__}
from annotary.quality.prepare import PreparedCells
model = {type(model).__name__}.load(Path({str(tmp_path)!r}))
cells = PreparedCells(counts=csr_matrix((2, {cells.counts.shape[1]}), dtype=np.float32), depth=np.ones(2))
assert model.predict_proba(cells).shape == (2, 3)
print(sorted({{"sklearn", "optuna", "torch", "mlflow"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
