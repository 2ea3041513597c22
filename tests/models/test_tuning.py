import contextlib
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest
from models.folded import make_search
from optuna.trial import FixedTrial, TrialState

from annotary.errors import RegistryError
from annotary.models.baselines import BASELINES
from annotary.models.panels import Preparation
from annotary.models.tuning.records import list_records, tabulate_trials
from annotary.models.tuning.search import Search
from annotary.models.tuning.study import DEFAULT_HEARTBEAT, _alone, _open_storage, open_study
from annotary.models.tuning.trials import TuningResult
from annotary.sqlite_address import to_address

KINDS = sorted(BASELINES)
WORKER = Path(__file__).with_name("study_worker.py")


def run(search: Search | None = None, *, name="study", storage="", n_trials=4, **options) -> TuningResult:
    return (search or make_search()).run(name, storage, n_trials=n_trials, **options)


def summarise(result: TuningResult) -> list[tuple]:
    return [(record.number, record.params, record.scores) for record in result.trials]


def count_fits(search: Search) -> list[int]:
    """Count a search's fits in the list that is returned."""
    fits: list[int] = []
    fit = search.baseline.fit
    search.baseline = replace(
        search.baseline, fit=lambda *args, **kwargs: fits.append(1) or fit(*args, **kwargs)
    )
    return fits


@pytest.mark.parametrize("kind", KINDS)
def test_the_notebook_s_grid_on_the_dataset_s_panel_is_tried_first(kind):
    search = make_search(kind)
    own = {"panel_method": "seurat", "n_top_genes": 12, "target_sum": 1e4}
    assert run(search, n_trials=1).trials[0].params == own | BASELINES[kind].notebook


@pytest.mark.parametrize("kind", KINDS)
def test_first_trials_lie_in_the_search_space(kind):
    search = make_search(kind)
    for params in search.first_trials:
        trial = FixedTrial(params)
        search._suggest(trial)
        assert trial.params == params
        for name, value in params.items():
            space = trial.distributions[name]
            assert space._contains(space.to_internal_repr(value)), name


def test_the_panel_and_class_weights_are_hyperparameters():
    trial = FixedTrial(make_search().first_trials[0])
    make_search()._suggest(trial)
    assert set(trial.distributions["class_weight"].choices) == {"none", "balanced", "sqrt"}
    assert set(trial.distributions["panel_method"].choices) == {"seurat", "f_test"}
    assert trial.distributions["n_top_genes"].choices == (12, 0)


def test_a_fixed_panel_stays_in_every_trial():
    search = make_search(fixed=np.array([1, 4, 30]))
    result = run(search)
    assert {record.params["n_top_genes"] for record in result.trials} == {12}
    np.testing.assert_array_equal(search.fit(result.best.params).columns, [1, 4, 30])


def test_same_seed_gives_the_same_trials():
    assert summarise(run(make_search(seed=3))) == summarise(run(make_search(seed=3)))
    assert summarise(run(make_search(seed=3))) != summarise(run(make_search(seed=4)))


def test_a_search_in_two_runs_does_the_trials_of_one(tmp_path):
    storage = f"sqlite:///{tmp_path / 'optuna.db'}"
    run(storage=storage, n_trials=3)
    assert summarise(run(storage=storage, n_trials=6)) == summarise(run(n_trials=6))


def test_a_finished_study_is_taken_as_it_is(tmp_path):
    storage = f"sqlite:///{tmp_path / 'optuna.db'}"
    first = run(storage=storage)
    search = make_search()
    fits = count_fits(search)
    again = run(search, storage=storage)
    assert not fits
    assert summarise(again) == summarise(first)
    assert search.fit(again.best.params).model.temperature > 0


def test_on_trial_is_called_as_each_trial_ends():
    seen = []
    result = run(on_trial=seen.append)
    assert [record.number for record in seen] == [0, 1, 2, 3]
    assert seen == result.trials


def test_best_is_the_largest_mean_of_complete_trials():
    result = run(n_trials=6)
    complete = [record for record in result.trials if record.state == "complete"]
    assert result.best.value == max(record.value for record in complete) == result.study.best_value
    assert all(record.value == pytest.approx(np.mean(record.scores)) for record in complete)
    assert all(len(record.scores) == 3 for record in complete)


def test_a_trial_far_below_the_median_is_pruned_after_its_first_fold():
    search = make_search("logistic_regression", n_folds=5)
    search.baseline = replace(
        search.baseline, suggest=lambda trial: {"right": trial.suggest_categorical("right", [True, False])}
    )
    search._score_folds = lambda params, preparation: (
        make_scores(search, fold, params["right"]) for fold in range(search.cells.n_folds)
    )
    study = open_study("s", "", first_trials=[], n_trials=5, seed=0)
    own = search.first_trials[0]
    for right in (True, True, True, True, False):
        target_sum = [100.0, 300.0, 1000.0, 3000.0, 1e4][len(study.trials)]
        study.enqueue_trial(own | {"right": right, "target_sum": target_sum})
    study.optimize(search.score, n_trials=5)
    states = [trial.state for trial in study.trials]
    assert states == [TrialState.COMPLETE] * 4 + [TrialState.PRUNED]
    assert list(study.trials[4].intermediate_values) == [0]
    record = list_records(study)[4]
    assert (record.state, len(record.scores)) == ("pruned", 1)


def make_scores(search: Search, fold: int, right: bool) -> np.ndarray:
    codes = search.cells.codes[search.cells.list_held_out(fold)]
    return np.eye(search.cells.n_classes)[codes if right else (codes + 1) % 3]


def test_folds_fitted_side_by_side_score_as_one_after_another():
    params = BASELINES["logistic_regression"].notebook
    preparation = Preparation("seurat", 12, 300.0)
    one, several = (
        list(make_search("logistic_regression", n_folds=5, n_jobs=n)._score_folds(params, preparation))
        for n in (1, 3)
    )
    assert len(one) == 5
    assert all(np.array_equal(first, second) for first, second in zip(one, several, strict=True))


def test_a_trial_that_repeats_another_is_not_fitted_again():
    search = make_search()
    study = open_study("s", "", first_trials=[], n_trials=2, seed=0)
    params = search.first_trials[0] | {"n_top_genes": 0}
    for method in ("seurat", "f_test"):
        study.enqueue_trial(params | {"panel_method": method})
    fits = count_fits(search)
    study.optimize(search.score, n_trials=2)
    assert len(fits) == 3
    assert study.trials[0].value == study.trials[1].value


def test_no_trial_begins_after_the_timeout():
    seen = []
    result = run(n_trials=1000, timeout=0.001, on_trial=seen.append)
    assert len(result.trials) == len(seen) == 1


def test_an_error_ends_the_search_and_its_trial_is_queued_for_the_next(tmp_path):
    storage = f"sqlite:///{tmp_path / 'optuna.db'}"

    def fail(*args, **kwargs):
        raise MemoryError("no room for the forest")

    search = make_search()
    search.baseline = replace(search.baseline, fit=fail)
    with pytest.raises(MemoryError, match="no room"):
        run(search, storage=storage)
    params = [record.params for record in run(storage=storage).trials]
    assert search.first_trials[0] in params
    assert len(params) == 4


def test_error_in_on_trial_ends_the_search():
    def refuse(record):
        raise RuntimeError("the registry is away")

    with pytest.raises(RuntimeError, match="registry"):
        run(on_trial=refuse)


def test_a_storage_that_does_not_answer_is_named(tmp_path):
    with pytest.raises(RegistryError, match=r"study storage sqlite:///.*Check --storage"):
        run(storage=f"sqlite:///{tmp_path}")


@pytest.mark.parametrize("name", ["a b", "50% of", "what?", "C#", "{x}"])
def test_a_study_s_file_may_have_any_name(name, tmp_path):
    folder = tmp_path / name
    folder.mkdir()
    open_study("study", to_address(folder / "optuna.db"), first_trials=[], n_trials=1, seed=0)
    assert {path.name for path in folder.iterdir()} >= {"optuna.db"}
    assert {path.name for path in tmp_path.iterdir()} == {name}


OPEN = """
import sys, time
from annotary.models.tuning.study import open_study
time.sleep(max(0, float(sys.argv[2]) - time.time()))
open_study("shared", sys.argv[1], first_trials=[{"x": 1}, {"x": 2}], n_trials=4, seed=0)
"""


@pytest.mark.full
@pytest.mark.slow
def test_processes_that_open_a_new_storage_at_once_make_it_once(tmp_path):
    storage = f"sqlite:///{tmp_path / 'new.db'}"
    check_opened_at_once(storage, n_processes=4)


def check_opened_at_once(storage: str, *, n_processes: int) -> None:
    at = str(time.time() + 6)  # all have imported what they need by then
    command = [sys.executable, "-c", OPEN, storage, at]
    openers = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(n_processes)]
    for opener in openers:
        _, said = opener.communicate(timeout=100)
        assert opener.returncode == 0, said
    study = optuna.load_study(study_name="shared", storage=storage)
    assert [trial.system_attrs["fixed_params"] for trial in study.trials] == [{"x": 1}, {"x": 2}]


@pytest.mark.parametrize("fails", [False, True])
def test_optuna_verbosity_is_given_back(fails):
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.DEBUG)
    try:
        search = make_search()
        if fails:
            search.baseline = replace(search.baseline, fit=None)
            with pytest.raises(TypeError):
                run(search)
        else:
            run(search, n_trials=1)
        assert optuna.logging.get_verbosity() == optuna.logging.DEBUG
    finally:
        optuna.logging.set_verbosity(before)


@pytest.mark.parametrize("kind", KINDS)
def test_two_classes_are_tuned(kind):
    search = make_search(kind, n_labels=2)
    result = run(search, n_trials=1)
    assert 0 <= result.best.value <= 1
    assert search.fit(result.best.params).calibration.after.shape == (90, 2)


@pytest.mark.parametrize("kind", KINDS)
def test_the_fitted_model_is_calibrated_by_the_scores_of_held_out_cells(kind):
    search = make_search(kind)
    params = run(search, n_trials=2).best.params
    kept, made_again = search.fit(params), make_search(kind).fit(params)
    assert kept.model.temperature == made_again.model.temperature != 1.0
    np.testing.assert_array_equal(kept.calibration.before, made_again.calibration.before)


@pytest.mark.full
def test_trials_are_tabulated_and_their_importance_measured():
    result = run(make_search("random_forest"), n_trials=8)
    table = tabulate_trials(result.trials, part="fold")
    assert table["number"].tolist() == list(range(8))
    assert {"state", "value", "seconds", "fold_0", "n_top_genes", "class_weight"} <= set(table.columns)
    assert set(table["max_depth"].map(str)) <= {"None", "16", "32"}
    importance = result.importance
    assert importance.empty or importance.sum() == pytest.approx(1)


def start_worker(storage: str, log: Path, *, n_trials: int, seconds: float) -> subprocess.Popen:
    command = [sys.executable, str(WORKER), storage, str(n_trials), str(seconds), str(log)]
    return subprocess.Popen(command)


@pytest.mark.full
def test_two_processes_split_the_trials_of_one_study(tmp_path):
    storage = f"sqlite:///{tmp_path / 'optuna.db'}"
    logs = [tmp_path / "a.log", tmp_path / "b.log"]
    workers = [start_worker(storage, log, n_trials=8, seconds=0.3) for log in logs]
    assert [worker.wait(60) for worker in workers] == [0, 0]
    done = [[int(line) for line in log.read_text().split()] for log in logs]
    assert done[0]
    assert done[1]
    study = optuna.load_study(study_name="shared", storage=storage)
    records = list_records(study)
    assert sorted(done[0] + done[1]) == [record.number for record in records]
    assert len(records) == 8
    assert len({str(record.params) for record in records}) == 8
    first = make_search().first_trials
    assert [sum(record.params == params for record in records) for params in first] == [1] * len(first)


@pytest.mark.full
def test_the_trial_of_a_killed_process_is_done_by_another(tmp_path):
    storage = f"sqlite:///{tmp_path / 'optuna.db'}"
    victim = start_worker(storage, tmp_path / "a.log", n_trials=3, seconds=60)
    try:
        lost = wait_for_a_running_trial(storage)
    finally:
        victim.kill()
        victim.wait()
    survivor = start_worker(storage, tmp_path / "b.log", n_trials=3, seconds=0)
    assert survivor.wait(60) == 0
    study = optuna.load_study(study_name="shared", storage=storage)
    assert study.trials[lost.number].state is TrialState.FAIL
    records = list_records(study)
    assert len(records) == 3
    assert [record.params == lost.params for record in records].count(True) == 1


def wait_for_a_running_trial(storage: str) -> optuna.trial.FrozenTrial:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        # Whoever opens a new database makes its tables: the worker must not be at it too.
        with contextlib.suppress(KeyError), _alone(storage):
            study = optuna.load_study(study_name="shared", storage=_open_storage(storage, DEFAULT_HEARTBEAT))
            running = study.get_trials(states=(TrialState.RUNNING,))
            if running and "key" in running[0].user_attrs:
                return running[0]
        time.sleep(0.1)
    raise AssertionError("no trial was begun")
