"""Trials whose process died are done again: at once on this machine, else when they stay silent."""

import os
import subprocess
import sys
import time

import optuna
import pytest
from optuna.trial import TrialState

from annotary.liveness import Process, _find_birth, name_host
from annotary.models.tuning import lost, study


@pytest.fixture
def shared(tmp_path):
    return study.open_study(
        "shared", f"sqlite:///{tmp_path / 'optuna.db'}", first_trials=[], n_trials=2, seed=0
    )


def begin_trial(shared, worker=None):
    """Leave a trial RUNNING, done by some process, as a kill does."""
    trial = shared.ask()
    trial.suggest_int("n", 1, 9)
    if worker:
        trial.set_user_attr(lost._WORKER, [worker.host, worker.pid, worker.birth])
    return trial


def make_dead():
    """Describe a process of this machine that has ended."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    dead = Process(host=name_host(), pid=child.pid, birth=_find_birth(child.pid))
    child.kill()
    child.wait()
    return dead


def work(shared):
    started = time.monotonic()
    study.work_on(shared, lambda trial: float(trial.suggest_int("n", 1, 9)), n_trials=2)
    return time.monotonic() - started


def test_the_trial_of_a_dead_process_is_done_again_at_once(shared):
    left = begin_trial(shared, make_dead())
    assert work(shared) < 10
    assert shared.trials[left.number].state is TrialState.FAIL
    again = [trial for trial in shared.trials if trial.state is TrialState.COMPLETE]
    assert len(again) == 2
    assert left.params in [trial.params for trial in again]


def test_a_dead_process_costs_no_wait_though_its_heartbeat_is_fresh(shared):
    left = begin_trial(shared, make_dead())
    shared._storage.record_heartbeat(left._trial_id)
    assert work(shared) < 10
    assert shared.trials[left.number].state is TrialState.FAIL


def test_an_unsigned_trial_without_a_heartbeat_is_not_waited_for_for_ever(shared, monkeypatch):
    monkeypatch.setattr(study, "_find_silence", lambda shared: 0.5)
    left = begin_trial(shared)
    assert work(shared) < 10
    assert shared.trials[left.number].state is TrialState.FAIL


@pytest.mark.parametrize("is_elsewhere", [False, True])
def test_the_trial_of_a_living_process_is_left_alone(shared, is_elsewhere):
    own = Process.own()
    worker = Process(host="elsewhere", pid=os.getpid(), birth="x") if is_elsewhere else own
    left = begin_trial(shared, worker)
    if is_elsewhere:
        shared._storage.record_heartbeat(left._trial_id)
    lost.LostTrials(shared, silence_s=0).fail()
    assert shared.trials[left.number].state is TrialState.RUNNING


def test_an_unsigned_trial_with_a_heartbeat_is_left_to_it(shared):
    left = begin_trial(shared)
    shared._storage.record_heartbeat(left._trial_id)
    lost.LostTrials(shared, silence_s=0).fail()
    assert shared.trials[left.number].state is TrialState.RUNNING


def test_a_lost_trial_is_queued_once_by_two_processes(shared):
    begin_trial(shared, make_dead())
    other = optuna.load_study(study_name="shared", storage=shared._storage)
    for seen in (shared, other):
        lost.LostTrials(seen, silence_s=0).fail()
    assert [trial.state for trial in shared.trials] == [TrialState.FAIL, TrialState.WAITING]


def test_who_takes_up_a_lost_trial_is_not_taken_for_dead(shared):
    begin_trial(shared, make_dead())
    lost.LostTrials(shared, silence_s=60).fail()
    taken = shared.ask()
    lost.LostTrials(shared, silence_s=60).fail()
    assert shared.trials[taken.number].state is TrialState.RUNNING
