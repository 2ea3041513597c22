"""A study that several processes share: where it is kept, whose turn it is, what becomes of the killed."""

import contextlib
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import optuna
import sqlalchemy
from filelock import FileLock
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import InterfaceError, InternalError, OperationalError

from annotary.errors import RegistryError, StoreError, summarize
from annotary.models.baselines import Params
from annotary.models.tuning.lost import LostTrials, drop_signature, sign
from annotary.models.tuning.records import COUNTED, QUEUED_AGAIN, SURPLUS
from annotary.models.tuning.sampler import NumberedSampler
from annotary.paths import hide_password
from annotary.sqlite_address import to_path

_SQLITE = "sqlite:///"
_POSTGRESQL = "postgresql"
_LOCK_NUMBER = 0x616E6E6F74617279
"""Number of the lock at a PostgreSQL server; any other would do, if all processes take the same."""
_SQLITE_TIMEOUT_S = 60
_POSTGRESQL_OPTIONS = {
    "connect_timeout": 30,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
}
"""How long a server may be silent (seconds, the last in milliseconds): else for hours."""
_AWAY = (StorageInternalError, OperationalError, InterfaceError, InternalError)
"""What Optuna and SQLAlchemy raise where the database is away, locked, or cannot be written."""
_MOST_RETRIES = 3
_POLL_S = 0.5
_NEVER_PRUNED = 3


@dataclass(frozen=True)
class Heartbeat:
    """How the death of a process is noticed.

    Attributes
    ----------
    interval_s
        Seconds between two signs of life of a running trial.
    grace_s
        Seconds without one after which the trial is taken for lost, and queued again.
    """

    interval_s: int = 10
    grace_s: int = 60


DEFAULT_HEARTBEAT = Heartbeat()


class _SurplusTrialError(Exception):
    """Another process has taken the last trial."""


def open_study(
    name: str,
    storage: str,
    *,
    first_trials: list[Params],
    n_trials: int,
    seed: int,
    n_unpruned_parts: int = 0,
    heartbeat: Heartbeat = DEFAULT_HEARTBEAT,
) -> optuna.Study:
    """Open a study, or go on with the one of this name.

    Parameters
    ----------
    name
        Name of the study.
    storage
        Address of an SQLite file (``sqlite:///FILE``) or another database that SQLAlchemy knows;
        empty keeps the study in memory.
    first_trials
        Hyperparameters that are tried first, where they were not yet.
    n_trials, seed
        Trials that the study will have, and seed of the sampler.
    n_unpruned_parts
        Parts of a trial that say too little to give it up.
    heartbeat
        How the death of a process is noticed.

    Raises
    ------
    RegistryError
        If the database does not answer.
    """
    try:
        with _quiet(), _alone(storage):
            study = optuna.create_study(
                study_name=name,
                storage=_open_storage(storage, heartbeat) if storage else None,
                sampler=NumberedSampler(seed),
                pruner=optuna.pruners.MedianPruner(
                    n_startup_trials=_NEVER_PRUNED, n_warmup_steps=n_unpruned_parts
                ),
                direction="maximize",
                load_if_exists=True,
            )
            for params in first_trials[:n_trials]:
                study.enqueue_trial(params, skip_if_exists=True)
            return study
    except Exception as error:
        # Drivers of other databases raise their own errors; SQLAlchemy's are not all wrapped by Optuna.
        raise RegistryError(
            _name_place(storage),
            expected="to be an SQLite file or a database that answers and can be written",
            found=_tell_cause(error),
            remedy="Check --storage, and that the database or its disk is there.",
        ) from error


@contextlib.contextmanager
def _alone(address: str) -> Iterator[None]:
    """Keep other processes out while tables are made and first trials queued: two would make them twice."""
    file = to_path(address)
    if file is not None:
        with FileLock(f"{file}.lock"):
            yield
    elif address.startswith(_POSTGRESQL):
        engine = sqlalchemy.create_engine(address, connect_args=_list_driver_options(address))
        try:
            with engine.begin() as connection:  # the lock ends with the transaction
                connection.execute(sqlalchemy.select(sqlalchemy.func.pg_advisory_xact_lock(_LOCK_NUMBER)))
                yield
        finally:
            engine.dispose()
    else:
        yield


def _name_place(address: str) -> str:
    """Name a storage without its password."""
    if not address:
        return "study storage in memory"
    return f"study storage {hide_password(address)}"


def _list_driver_options(address: str) -> dict[str, int]:
    """List what a database's driver is told about waiting; nothing for drivers that we do not know."""
    if address.startswith(_SQLITE):
        return {"timeout": _SQLITE_TIMEOUT_S}
    is_libpq = address.startswith((f"{_POSTGRESQL}://", f"{_POSTGRESQL}+psycopg"))
    return _POSTGRESQL_OPTIONS if is_libpq else {}


class _Storage(RDBStorage):
    """A database in which a sign of life may fail: the next one, or the trial's own scores, will tell."""

    def record_heartbeat(self, trial_id: int) -> None:
        """Give a sign of life of a running trial, in a thread that has nobody to tell of an error."""
        with contextlib.suppress(*_AWAY):
            super().record_heartbeat(trial_id)


def _open_storage(address: str, heartbeat: Heartbeat) -> RDBStorage:
    """Open a database; a trial whose process died is queued again."""
    options: dict[str, object] = {"connect_args": _list_driver_options(address)}
    if not address.startswith(_SQLITE):
        # A database that was started again is noticed before a query, not by its failure.
        options["pool_pre_ping"] = True
    return _Storage(
        address,
        engine_kwargs=options,
        heartbeat_interval=heartbeat.interval_s,
        grace_period=heartbeat.grace_s,
        heartbeat_stale_trial_callback=_queue_lost,
    )


def work_on(
    study: optuna.Study,
    objective: Callable[[optuna.Trial], float],
    *,
    n_trials: int,
    timeout: float = 0,
    on_trial: Callable[[FrozenTrial], None] = lambda trial: None,
) -> None:
    """Do trials of a study until it has ``n_trials``, whichever processes did them.

    Returns when no process runs a trial any more: those of a process that died are done again here.

    Parameters
    ----------
    study
        What :func:`open_study` gives.
    objective
        Scores a trial.
    n_trials
        Trials of the study in all, earlier runs included; failed ones do not count.
    timeout
        Seconds after which no trial is begun and no other process waited for; 0 for none.
        A study without a complete trial gets one all the same.
    on_trial
        Called as each trial of this process ends.
    """
    started = time.monotonic()
    lost = LostTrials(study, silence_s=_find_silence(study))

    def run(trial: optuna.Trial) -> float:
        sign(trial)
        if _count(study, before=trial.number) >= n_trials:
            trial.set_user_attr(SURPLUS, True)
            raise _SurplusTrialError
        with _queueing_again(study, trial):
            return objective(trial)

    def tell(study: optuna.Study, trial: FrozenTrial) -> None:
        if trial.state is not TrialState.FAIL:
            on_trial(trial)

    with _quiet():
        while True:
            lost.fail()
            late = bool(timeout) and time.monotonic() - started >= timeout
            has_best = bool(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))
            if late and has_best:
                return
            if _count(study) < n_trials:
                study.optimize(run, n_trials=1, catch=(_SurplusTrialError,), callbacks=[tell])
            elif _is_running(study):
                time.sleep(_POLL_S)
            else:
                return


def _find_silence(study: optuna.Study) -> float:
    """Find the seconds within which a trial gives its first sign of life: two of its intervals."""
    storage = getattr(study._storage, "_backend", study._storage)
    interval = storage.get_heartbeat_interval() if isinstance(storage, RDBStorage) else None
    return 2.0 * (interval or 0)


@contextlib.contextmanager
def naming_absence(study: optuna.Study) -> Iterator[None]:
    """Tell a study's database that went away, or cannot be written, from other errors.

    Raises
    ------
    StoreError
        If the database does not answer.
    """
    try:
        yield
    except (UnboundLocalError, *_AWAY) as error:
        # Optuna's own loop fails while it handles the error of a trial that it cannot write down.
        absence = error.__context__ if isinstance(error, UnboundLocalError) else error
        if not isinstance(absence, _AWAY):
            raise
        raise StoreError(
            _name_place(_find_address(study)),
            expected="to answer until the study is done",
            found=_tell_cause(absence),
            remedy="Check that the database is there and can be written, and start again: the trials that "
            "are done are kept.",
        ) from error


def _tell_cause(error: Exception) -> str:
    """Tell what the database said: Optuna's own words for it guess at another cause."""
    is_wrapped = isinstance(error, StorageInternalError) and isinstance(error.__cause__, Exception)
    return summarize(error.__cause__ if is_wrapped else error)  # type: ignore[arg-type]


def _find_address(study: optuna.Study) -> str:
    """Find where a study is kept, which Optuna has behind a cache; empty for memory."""
    storage = getattr(study._storage, "_backend", study._storage)
    return storage.url if isinstance(storage, RDBStorage) else ""


@contextlib.contextmanager
def _queueing_again(study: optuna.Study, trial: optuna.Trial) -> Iterator[None]:
    """Queue the trial for the next run if an error or the user stops it; the trial itself failed then."""
    try:
        yield
    except optuna.TrialPruned:
        raise
    except BaseException:
        _queue(study, study.trials[trial.number])
        trial.set_user_attr(QUEUED_AGAIN, True)
        raise


def _queue_lost(study: optuna.Study, trial: FrozenTrial) -> None:
    """Queue a trial whose process died, unless that process did it itself."""
    if not trial.user_attrs.get(QUEUED_AGAIN):
        _queue(study, trial)


def _queue(study: optuna.Study, trial: FrozenTrial) -> None:
    """Queue a trial again, up to the most times."""
    drop_signature(trial)
    RetryHeartbeatStaleTrialCallback(max_retry=_MOST_RETRIES)(study, trial)


def _count(study: optuna.Study, *, before: int | None = None) -> int:
    """Count the trials that run or are done, all or those with a smaller number."""
    counted = study.get_trials(deepcopy=False, states=COUNTED)
    return sum(before is None or trial.number < before for trial in counted)


def _is_running(study: optuna.Study) -> bool:
    """Tell whether some process runs a trial."""
    return bool(study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep Optuna's lines out of the progress bar, then give the caller's setting back."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(verbosity)
