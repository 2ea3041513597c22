"""Trials whose process is gone: found at once where the process can be looked up, else by its silence."""

import contextlib
import time
from collections.abc import Callable
from dataclasses import asdict

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from annotary.liveness import Process

_PROCESS = "process"


def sign(trial: optuna.Trial) -> None:
    """Note which process does a trial, which begins now."""
    trial.set_user_attr(_PROCESS, asdict(Process.own()))


class LostTrials:
    """Finds the trials of a study that no process does any more.

    Parameters
    ----------
    study
        The study.
    grace_s
        Seconds after which a trial without any sign of who does it is taken for lost: its process died
        before it could leave one.
    queue_again
        Called with each trial that was lost, and failed.
    """

    def __init__(
        self, study: optuna.Study, *, grace_s: float, queue_again: Callable[[optuna.Study, FrozenTrial], None]
    ) -> None:
        self._study = study
        self._grace_s = grace_s
        self._queue_again = queue_again
        self._seen: dict[int, float] = {}

    def fail(self) -> None:
        """Fail the lost trials and queue them again; other machines' go by Optuna's signs of life."""
        optuna.storages.fail_stale_trials(self._study)
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if self._is_lost(trial):
                self._fail(trial)

    def _is_lost(self, trial: FrozenTrial) -> bool:
        """Tell a trial whose process is known to be gone, or never was heard of."""
        process = _read_process(trial)
        if process is not None:
            return process.is_there() is False
        if trial.params:  # an earlier version's: Optuna hears of it
            return False
        since = self._seen.setdefault(trial.number, time.monotonic())
        return time.monotonic() - since > self._grace_s

    def _fail(self, trial: FrozenTrial) -> None:
        """Fail a trial, unless another process was quicker."""
        with contextlib.suppress(UpdateFinishedTrialError):
            if self._study._storage.set_trial_state_values(trial._trial_id, state=TrialState.FAIL):
                self._queue_again(self._study, self._study.get_trials()[trial.number])


def _read_process(trial: FrozenTrial) -> Process | None:
    """Read which process does a trial; None where it did not say so."""
    try:
        return Process(**trial.user_attrs[_PROCESS])
    except (KeyError, TypeError):
        return None
