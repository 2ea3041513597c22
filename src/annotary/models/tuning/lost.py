"""Trials of a shared study whose process has died: known at once on its own machine, else by silence."""

import time

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.storages._rdb.models import TrialHeartbeatModel, TrialModel
from optuna.trial import FrozenTrial, TrialState

from annotary.liveness import Process

_WORKER = "worker"
"""User attribute of a trial: host, number and birth of the process that does it."""


def sign(trial: optuna.Trial) -> None:
    """Write into a trial which process does it."""
    own = Process.own()
    trial.set_user_attr(_WORKER, [own.host, own.pid, own.birth])


def drop_signature(trial: FrozenTrial) -> None:
    """Take the dead process out of a trial that is queued again: whoever takes it up is not dead."""
    trial.user_attrs.pop(_WORKER, None)


class LostTrials:
    """Fails the trials of a study whose process is known to be dead, or that never gave a sign of life.

    Parameters
    ----------
    study
        A study in memory loses no trial.
    silence_s
        Seconds that a trial may be seen to run without a single sign of life, where its process cannot
        be looked up.
    """

    def __init__(self, study: optuna.Study, *, silence_s: float) -> None:
        self._study = study
        self._silence_s = silence_s
        self._first_seen: dict[int, float] = {}

    def fail(self) -> None:
        """Fail them, so that the storage's callback queues each again, once among all processes."""
        optuna.storages.fail_stale_trials(self._study)
        storage = getattr(self._study._storage, "_backend", self._study._storage)
        if not isinstance(storage, RDBStorage):
            return
        queue = storage.get_heartbeat_stale_trial_callback()
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if not self._is_lost(trial, storage):
                continue
            try:
                has_failed = storage.set_trial_state_values(trial._trial_id, state=TrialState.FAIL)
            except UpdateFinishedTrialError:  # by another process, which queues it
                continue
            if has_failed and queue is not None:
                queue(self._study, storage.get_trial(trial._trial_id))

    def _is_lost(self, trial: FrozenTrial, storage: RDBStorage) -> bool:
        """Tell a trial of a dead process; on other machines the heartbeat decides, once there is one."""
        worker = trial.user_attrs.get(_WORKER)
        if worker:
            host, pid, birth = worker
            is_there = Process(host=host, pid=pid, birth=birth).is_there()
            if is_there is not None:
                return not is_there
        # Killed before its first sign of life, or begun without any: no heartbeat will ever go stale.
        first = self._first_seen.setdefault(trial.number, time.monotonic())
        return time.monotonic() - first >= self._silence_s and not _has_heartbeat(trial, storage)


def _has_heartbeat(trial: FrozenTrial, storage: RDBStorage) -> bool:
    """Tell whether a trial ever gave a sign of life."""
    with storage.scoped_session() as session:
        query = session.query(TrialHeartbeatModel).join(TrialModel)
        return query.filter(TrialModel.trial_id == trial._trial_id).first() is not None
