from dataclasses import replace

import anndata
import numpy as np
import optuna
import pandas as pd
import pytest
from models.conformance import make_cells
from optuna.trial import FixedTrial
from scipy.sparse import csr_matrix
from simulate import simulate_cells

from annotary.data.dataset import LabelledCells
from annotary.models.baselines import BASELINES
from annotary.models.folds import Fold, make_folds, split_fold
from annotary.models.tuning import TrialRecord, TuningResult, fit_best, tune
from annotary.quality.prepare import PreparedCells, log_normalize

TARGET_SUM = 1e4
LOGISTIC = BASELINES["logistic_regression"]
KINDS = sorted(BASELINES)


def split(cells: PreparedCells, codes: np.ndarray, *, n_folds: int = 2) -> list[Fold]:
    log_expr = log_normalize(cells, target_sum=TARGET_SUM)
    fold_of_cell = np.empty(len(codes), dtype=int)
    for code in np.unique(codes):
        members = np.flatnonzero(codes == code)
        fold_of_cell[members] = np.arange(len(members)) % n_folds
    return [split_fold(log_expr, codes, fold_of_cell == fold) for fold in range(n_folds)]


def search(baseline=LOGISTIC, *, n_trials=4, n_folds=2, seed=0, on_trial=lambda record: None) -> TuningResult:
    return tune(
        baseline,
        split(*make_cells(90), n_folds=n_folds),
        n_trials=n_trials,
        seed=seed,
        target_sum=TARGET_SUM,
        on_trial=on_trial,
    )


def summarise(result: TuningResult) -> list[tuple]:
    return [(record.number, record.params, record.fold_scores) for record in result.trials]


@pytest.mark.parametrize("kind", KINDS)
def test_first_trial_is_the_enqueued_one(kind):
    baseline = BASELINES[kind]
    assert search(baseline, n_trials=1).trials[0].params == baseline.first_trial


@pytest.mark.parametrize("kind", KINDS)
def test_first_trial_lies_in_the_search_space(kind):
    baseline = BASELINES[kind]
    trial = FixedTrial(baseline.first_trial)
    assert baseline.suggest(trial) == baseline.first_trial
    for name, value in baseline.first_trial.items():
        space = trial.distributions[name]
        assert space._contains(space.to_internal_repr(value)), name


def test_same_seed_gives_the_same_trials():
    assert summarise(search(seed=3)) == summarise(search(seed=3))


def test_another_seed_gives_other_trials():
    assert summarise(search(seed=3)) != summarise(search(seed=4))


def test_on_trial_is_called_as_each_trial_ends():
    seen: list[TrialRecord] = []
    result = search(on_trial=seen.append)
    assert [record.number for record in seen] == [0, 1, 2, 3]
    assert seen == result.trials


def test_best_is_the_largest_score():
    result = search()
    best = max(result.trials, key=lambda record: record.value)
    assert result.best_score == best.value
    assert result.best_params == best.params
    assert result.best_score == result.study.best_value
    assert all(record.value == pytest.approx(np.mean(record.fold_scores)) for record in result.trials)
    assert all(record.seconds > 0 for record in result.trials)


def test_earliest_trial_wins_a_tie():
    class Constant:
        def predict_log_expr(self, log_expr):
            return np.tile([1.0, 0.0, 0.0], (log_expr.shape[0], 1))

    tied = replace(
        LOGISTIC, fit=lambda *args, **kwargs: None, to_annotator=lambda *args, **kwargs: Constant()
    )
    result = search(tied)
    assert len({record.value for record in result.trials}) == 1
    assert result.best_params == LOGISTIC.first_trial


def label_cells(adata: anndata.AnnData, folds: np.ndarray) -> LabelledCells:
    return LabelledCells(
        counts=csr_matrix(adata.X),
        depth=np.asarray(adata.X.sum(axis=1), dtype=np.float64).ravel(),
        codes=adata.obs["cell_type"].astype("category").cat.codes.to_numpy(dtype=np.int64),
        cell_ids=adata.obs_names,
        folds=folds,
    )


def test_the_panel_of_a_fold_never_sees_the_cells_it_scores():
    adata = simulate_cells()
    folds = np.arange(adata.n_obs) % 3
    made = make_folds(
        label_cells(adata, folds), adata.var_names, method="f_test", n_top_genes=25, target_sum=TARGET_SUM
    )
    altered = adata.copy()
    dense = altered.X.toarray()
    dense[folds == 1] = np.random.default_rng(0).poisson(9, size=dense.shape)[folds == 1]
    altered.X = csr_matrix(dense)
    cells = label_cells(altered, folds)
    again = make_folds(cells, adata.var_names, method="f_test", n_top_genes=25, target_sum=TARGET_SUM)
    assert (made[1].fitted != again[1].fitted).nnz == 0
    assert (made[0].fitted != again[0].fitted).nnz > 0


def test_folds_are_disjoint_and_complete():
    adata = simulate_cells()
    cells = label_cells(adata, np.arange(adata.n_obs) % 4)
    for number, fold in enumerate(
        make_folds(cells, adata.var_names, method="seurat", n_top_genes=0, target_sum=TARGET_SUM)
    ):
        assert fold.held_out.shape == (60, 300)
        assert fold.fitted.shape == (180, 300)
        np.testing.assert_array_equal(fold.held_out_codes, cells.codes[cells.folds == number])


def test_a_panel_that_is_given_is_the_panel_of_every_fold():
    adata = simulate_cells()
    cells = label_cells(adata, np.arange(adata.n_obs) % 2)
    panel = pd.Index(["GENE0007", "GENE0003"])
    for fold in make_folds(
        cells, adata.var_names, method="seurat", n_top_genes=9, target_sum=TARGET_SUM, panel=panel
    ):
        assert fold.fitted.shape[1] == 2


def test_error_in_a_trial_ends_the_search():
    def fail(*args, **kwargs):
        raise MemoryError("no room for the forest")

    seen: list[TrialRecord] = []
    with pytest.raises(MemoryError, match="no room"):
        search(replace(LOGISTIC, fit=fail), on_trial=seen.append)
    assert not seen


def test_error_in_on_trial_ends_the_search():
    def refuse(record: TrialRecord) -> None:
        raise RuntimeError("the registry is away")

    with pytest.raises(RuntimeError, match="registry"):
        search(on_trial=refuse)


@pytest.mark.parametrize("fails", [False, True])
def test_optuna_verbosity_is_given_back(fails):
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.DEBUG)
    try:
        if fails:
            with pytest.raises(TypeError):
                search(replace(LOGISTIC, fit=None))
        else:
            search(n_trials=1)
        assert optuna.logging.get_verbosity() == optuna.logging.DEBUG
    finally:
        optuna.logging.set_verbosity(before)


def test_tuning_leaves_cells_untouched():
    cells, codes = make_cells(60)
    before = cells.counts.copy()
    tune(
        LOGISTIC,
        split(cells, codes),
        n_trials=1,
        seed=0,
        target_sum=TARGET_SUM,
        on_trial=lambda record: None,
    )
    assert (cells.counts != before).nnz == 0


@pytest.mark.parametrize("kind", KINDS)
def test_number_of_jobs_does_not_change_the_model(kind):
    cells, codes = make_cells(90)
    baseline = BASELINES[kind]
    log_expr = log_normalize(cells, target_sum=TARGET_SUM)
    one, many = (
        baseline.to_annotator(
            baseline.fit(log_expr, codes, baseline.first_trial, seed=0, n_jobs=n_jobs), target_sum=TARGET_SUM
        ).predict_proba(cells)
        for n_jobs in (1, 2)
    )
    np.testing.assert_array_equal(one, many)


@pytest.mark.parametrize("params", [{"C": 1e-3}, {"C": 10.0}, {"C": 10.0, "class_weight": "balanced"}])
@pytest.mark.filterwarnings("error")
def test_logistic_regression_converges_at_the_ends_of_its_space(params):
    cells, codes = make_cells(150)
    fit_best(LOGISTIC, cells, codes, params, seed=0, target_sum=TARGET_SUM)


def test_two_classes_are_tuned():
    cells, codes = make_cells(60)
    result = tune(
        LOGISTIC,
        split(cells, codes % 2),
        n_trials=1,
        seed=0,
        target_sum=TARGET_SUM,
        on_trial=lambda record: None,
    )
    assert 0 <= result.best_score <= 1
