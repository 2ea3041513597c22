"""MLflow 3 of 4: the promotion ledger, and the aliases that follow from it.

Entries are parameters of one run, because MLflow writes a parameter once: where
two processes write entry 12, one wins and the other is told, over REST as well
as in a database. The entry comes first and the aliases after it; whoever sets
them looks at the ledger again afterwards, so the last one to write agrees with it.
"""

import os
import time
import uuid
from dataclasses import replace
from datetime import UTC, datetime

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE

from annotary.config import CHALLENGER, CHAMPION, PREVIOUS
from annotary.environment import name_user
from annotary.errors import RegistryError, StoreError, summarize
from annotary.ledger import OUTSIDE, Decision, Entry, Ledger, LedgerError, check_mark, read_entries
from annotary.log import warn
from annotary.outage import refuse_outage
from annotary.registry import RegisteredVersion, find_alias, get_version, remove_alias, set_alias
from annotary.tracking import DATASET_HASH_TAG, PANEL_HASH_TAG, SPLIT_HASH_TAG

MODEL_HASH_TAG = "annotary.model_hash"
LEDGER_TAG = "annotary.ledger"

_EXPERIMENT = "annotary-promotions/{}"
_NOTE = (
    "The promotion ledger: each parameter is an entry, the oldest first, with the hash of the one before. "
    "`annotary ledger` prints it and checks the chain."
)
"""What MLflow's page of the run says."""
_ENTRY_DIGITS = 6
_LONGEST_ENTRY = 5900
_LONGEST_REASON = 1500
_MOST_ROUNDS = 20
_PATIENCE_SECONDS = 10.0
_PAUSE_SECONDS = 0.5


def read_ledger(name: str) -> Ledger:
    """Read a registered model's ledger and check its chain.

    Raises
    ------
    LedgerError
        If it was altered, cut short or taken away.
    """
    place = f"promotion ledger of {name}"
    run_id = _find_run(name)
    stored = mlflow.MlflowClient().get_run(run_id).data.params if run_id else {}
    numbered = sorted((int(key), text) for key, text in stored.items() if key.isdigit())
    entries = read_entries(numbered, place=place)
    return Ledger(name, run_id, entries, applied=check_mark(entries, _read_mark(name), place=place))


def describe_hashes(version: RegisteredVersion) -> dict[str, str]:
    """List the hashes of a version that the ledger keeps."""
    tags = {
        "dataset": DATASET_HASH_TAG,
        "split": SPLIT_HASH_TAG,
        "panel": PANEL_HASH_TAG,
        "model": MODEL_HASH_TAG,
    }
    return {name: version.tags.get(tag, "") for name, tag in tags.items()}


def append(ledger: Ledger, decision: Decision) -> bool:
    """Write the next entry, unless another process has written one since the ledger was read.

    Returns
    -------
    Whether the entry is in the ledger.
    """
    run_id = ledger.run_id or _make_run(ledger.name)
    entry = Entry(
        number=len(ledger.entries) + 1,
        previous=ledger.head,
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        user=_name_user(),
        nonce=uuid.uuid4().hex,
        decision=replace(decision, reason=decision.reason[:_LONGEST_REASON]),
    )
    text, key = entry.to_json(), f"{entry.number:0{_ENTRY_DIGITS}}"
    if len(text) > _LONGEST_ENTRY:
        raise LedgerError(
            f"promotion ledger of {ledger.name}",
            expected=f"entries of at most {_LONGEST_ENTRY} characters, the size of an MLflow parameter",
            found=f"{len(text)}",
            remedy="Give a shorter reason.",
        )
    client = mlflow.MlflowClient()
    try:
        client.log_param(run_id, key, text)
    except MlflowException as error:
        refuse_outage(error)
        if key not in client.get_run(run_id).data.params:
            raise
        return False
    return True


def settle(name: str) -> Ledger:
    """Bring the aliases in step with the ledger, however many processes do so at once."""
    repeated = False
    for _ in range(_MOST_ROUNDS):
        ledger = read_ledger(name)
        if ledger.entries and (repeated or ledger.unapplied):
            _set_aliases(ledger)
        if ledger.applied < len(ledger.entries):
            mark = f"{len(ledger.entries)}:{ledger.head}"
            mlflow.MlflowClient().set_registered_model_tag(name, LEDGER_TAG, mark)
        if read_ledger(name).head == ledger.head:
            return ledger
        repeated = True
    raise RegistryError(
        f"registered model {name!r}",
        expected="its promotion ledger to rest while aliases are set",
        found=f"a new entry in each of {_MOST_ROUNDS} rounds",
        remedy="Look at annotary ledger, then promote again.",
    )


def catch_up(name: str) -> Ledger:
    """Read the ledger before a decision: first finish what another process left, note what moved outside.

    A process that wrote its entry gets some seconds to set its aliases itself.
    """
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        note_outside_move(name)
        ledger = read_ledger(name)
        if not ledger.unapplied or time.monotonic() > deadline:
            return settle(name)
        time.sleep(_PAUSE_SECONDS)


def note_outside_move(name: str) -> Decision | None:
    """Note in the ledger that the alias champion was moved by other means than annotary.

    Returns
    -------
    What was noted; None where the champion is the one that the ledger says.
    """
    for _ in range(_MOST_ROUNDS):
        ledger = read_ledger(name)
        champion = find_alias(name, CHAMPION)
        after = champion.number if champion else ""
        if read_ledger(name).head != ledger.head:
            continue
        under_way = ledger.unapplied and after == ledger.unapplied[0].before
        if after == ledger.champion or under_way:
            return None
        decision = Decision(
            action=OUTSIDE,
            before=ledger.champion,
            after=after,
            reason="the alias champion was found on another version than the ledger says: "
            "somebody set it in MLflow's UI or with its client",
            hashes=describe_hashes(champion) if champion else {},
        )
        if append(ledger, decision):
            settle(name)
            warn(f"{name}: champion is {_tell(after)}, moved outside the gate from {_tell(ledger.champion)}")
            return decision
    return None


def note_outside_move_if_possible(name: str) -> None:
    """Note an outside move where that must not stop the work at hand: a failure is only told.

    Raises
    ------
    StoreError
        If the tracking store is away: the work at hand needs it too.
    """
    try:
        note_outside_move(name)
    except StoreError:
        raise
    except (MlflowException, LedgerError, RegistryError) as error:
        warn(f"the promotion ledger of {name} could not be brought up to date: {summarize(error)}")


def _tell(number: str) -> str:
    """Name a version."""
    return f"version {number}" if number else "none"


def _set_aliases(ledger: Ledger) -> None:
    """Set champion and previous as the ledger says; a champion is no challenger any more."""
    for alias, number in ((CHAMPION, ledger.champion), (PREVIOUS, ledger.previous)):
        if number:
            set_alias(get_version(ledger.name, number), alias)
        elif find_alias(ledger.name, alias):
            remove_alias(ledger.name, alias)
    challenger = find_alias(ledger.name, CHALLENGER)
    if challenger and challenger.number == ledger.champion:
        remove_alias(ledger.name, CHALLENGER)


def _read_mark(name: str) -> str:
    """Read which entry the registered model remembers as the last whose aliases were set."""
    try:
        return str(mlflow.MlflowClient().get_registered_model(name).tags.get(LEDGER_TAG, ""))
    except MlflowException as error:
        refuse_outage(error)
        raise RegistryError(
            f"registered model {name!r}",
            expected="to be in the registry",
            found=summarize(error),
            remedy=f"Check --model-name, and MLFLOW_TRACKING_URI (now {mlflow.get_registry_uri()}).",
        ) from error


def _find_run(name: str) -> str:
    """Find the run that holds a model's entries; empty if there is none yet."""
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name(_EXPERIMENT.format(name))
    if experiment is None:
        return ""
    runs = client.search_runs(
        [experiment.experiment_id],
        filter_string=f"tags.`{LEDGER_TAG}` = '{name}'",
        order_by=["attributes.start_time ASC"],
        max_results=1,
    )
    if not runs or experiment.lifecycle_stage != "active":
        raise LedgerError(
            f"promotion ledger of {name}",
            expected=f"its run in the experiment {experiment.name!r}",
            found="it deleted",
            remedy="Restore it with mlflow runs restore and mlflow experiments restore.",
        )
    return str(runs[0].info.run_id)


def _make_run(name: str) -> str:
    """Make the run of a new ledger, or take the one that another process made first.

    The run is made in an experiment of a name of its own, which is then given
    the right one: MLflow lets only one process do that.
    """
    client = mlflow.MlflowClient()
    title = _EXPERIMENT.format(name)
    experiment_id = client.create_experiment(f"{title}/{uuid.uuid4().hex}")
    tags = {LEDGER_TAG: name, MLFLOW_RUN_NOTE: _NOTE}
    run = client.create_run(experiment_id, tags=tags, run_name=f"promotions of {name}")
    client.set_terminated(run.info.run_id)
    try:
        client.rename_experiment(experiment_id, title)
    except MlflowException as error:
        refuse_outage(error)
        first = _find_run(name)
        if not first:
            raise
        client.delete_experiment(experiment_id)
        return first
    return str(run.info.run_id)


def _name_user() -> str:
    """Name who is at work: the account at the server, or on this machine; its number where it has no name."""
    return os.environ.get("MLFLOW_TRACKING_USERNAME") or name_user()
