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
from datetime import UTC, datetime, timedelta

import mlflow
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from annotary.anchors import check_anchors, drop_anchor, find_anchors, recall_head
from annotary.config import CHALLENGER, CHAMPION, PREVIOUS
from annotary.data.hashing import hash_strings
from annotary.environment import name_user
from annotary.errors import RegistryError, StoreError, summarize
from annotary.ledger import (
    CREATED,
    DELETED,
    OUTSIDE,
    RENAMED,
    RUN_ID,
    Decision,
    Entry,
    Ledger,
    LedgerError,
    check_mark,
)
from annotary.ledger_run import (
    LEDGER_TAG,
    ModelMemory,
    bind,
    find_run,
    list_planted,
    make_run,
    read_memory,
    read_stored,
    take_name,
)
from annotary.log import warn
from annotary.outage import refuse_outage
from annotary.registry import (
    RegisteredVersion,
    find_alias,
    get_version,
    list_versions,
    remove_alias,
    set_alias,
)
from annotary.tracking import DATASET_HASH_TAG, PANEL_HASH_TAG, SPLIT_HASH_TAG
from annotary.version_files import MODEL_HASH_TAG, PACKAGE_TAG

__all__ = ["MODEL_HASH_TAG", "recall_head"]

EVALUATION_TAG = "annotary.evaluation_run"
CALLS_HASH_TAG = "annotary.calls_hash"

_ENTRY_DIGITS = 6
_LONGEST_ENTRY = 5900
_LONGEST_REASON = 1500
_SHORTEST_REASON = 40
_CUT = " ..."
_MOST_ROUNDS = 20
_PATIENCE_SECONDS = 10.0
_PAUSE_SECONDS = 0.5


def read_ledger(name: str) -> Ledger:
    """Read a registered model's ledger and check its chain.

    Raises
    ------
    LedgerError
        If it was altered, cut short, replaced or taken away.
    """
    model = read_memory(name)
    return _read(model)[0]


def read_anchored_ledger(name: str) -> Ledger:
    """Read a ledger, and check too that it holds what the runs that used it remember of it.

    Raises
    ------
    LedgerError
        If it was altered, cut short, replaced or taken away.
    """
    anchors = find_anchors(read_memory(name).created)
    ledger = read_ledger(name)
    check_anchors(ledger, anchors)
    return ledger


def anchor(name: str, ledger: Ledger) -> None:
    """Have the active run remember the ledger's head."""
    drop_anchor(ledger, read_memory(name).created)


def _read(model: ModelMemory) -> tuple[Ledger, Run | None]:
    """Read a ledger with the run that holds it."""
    run = find_run(model, {}) if model.run_id else None
    versions = {version.number: describe_hashes(version) for version in list_versions(model.name)}
    run = run or find_run(model, versions)
    entries = read_stored(run, place=model.place)
    ledger = Ledger(
        model.name,
        run.info.run_id if run else "",
        entries,
        applied=check_mark(entries, model.mark, place=model.place),
        versions=versions,
    )
    return ledger, run


def describe_hashes(version: RegisteredVersion) -> dict[str, str]:
    """List the hashes of a version that the ledger keeps, and what tells it from others of its number."""
    tags = {
        "dataset": DATASET_HASH_TAG,
        "split": SPLIT_HASH_TAG,
        "panel": PANEL_HASH_TAG,
        "model": MODEL_HASH_TAG,
        "evaluation": EVALUATION_TAG,
        "calls": CALLS_HASH_TAG,
    }
    said = {name: version.tags.get(tag, "") for name, tag in tags.items()}
    package = version.tags.get(PACKAGE_TAG, "")
    moment = datetime.fromtimestamp(0, tz=UTC) + timedelta(milliseconds=version.created_ms)
    return said | {
        "package": hash_strings([package]) if package else "",
        RUN_ID: version.run_id,
        CREATED: moment.isoformat(timespec="milliseconds"),
    }


def append(ledger: Ledger, decision: Decision) -> bool:
    """Write the next entry, unless another process has written one since the ledger was read.

    Returns
    -------
    Whether the entry is in the ledger.
    """
    model = read_memory(ledger.name)
    run = find_run(model, {}) if ledger.run_id else make_run(model)
    if run is None:
        return False
    bind(model, run)
    entry = _fit(
        Entry(
            number=len(ledger.entries) + 1,
            previous=ledger.head,
            time=datetime.now(UTC).isoformat(timespec="seconds"),
            user=_name_user(),
            nonce=uuid.uuid4().hex,
            decision=replace(decision, reason=decision.reason[:_LONGEST_REASON]),
        )
    )
    key = f"{entry.number:0{_ENTRY_DIGITS}}"
    client = mlflow.MlflowClient()
    try:
        client.log_param(run.info.run_id, key, entry.to_json())
    except MlflowException as error:
        refuse_outage(error)
        if key not in client.get_run(run.info.run_id).data.params:
            raise
        return False
    return True


def _fit(entry: Entry) -> Entry:
    """Shorten an entry's reason until MLflow can keep the entry; letters of other scripts take more room.

    Raises
    ------
    LedgerError
        If it is too long whatever the reason.
    """
    while len(entry.to_json()) > _LONGEST_ENTRY:
        reason = entry.decision.reason.removesuffix(_CUT)
        if len(reason) <= _SHORTEST_REASON:
            raise LedgerError(
                "promotion ledger",
                expected=f"entries of at most {_LONGEST_ENTRY} characters, the size of an MLflow parameter",
                found=f"{len(entry.to_json())}",
                remedy="Shorten MLFLOW_TRACKING_USERNAME, or the tags that hold the version's hashes.",
            )
        shorter = reason[: len(reason) * 3 // 4] + _CUT
        entry = replace(entry, decision=replace(entry.decision, reason=shorter))
    return entry


def settle(name: str) -> Ledger:
    """Bring the aliases in step with the ledger, however many processes do so at once."""
    repeated = False
    for _ in range(_MOST_ROUNDS):
        model = read_memory(name)
        ledger, run = _read(model)
        if run is not None:
            bind(model, run)
        if ledger.entries and (repeated or ledger.unapplied):
            _set_aliases(ledger)
        if ledger.applied < len(ledger.entries):
            mlflow.MlflowClient().set_registered_model_tag(name, LEDGER_TAG, ledger.mark)
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
    warn_of_planted(read_anchored_ledger(name))
    while True:
        note_outside_changes(name)
        ledger = read_ledger(name)
        if not ledger.unapplied or time.monotonic() > deadline:
            return settle(name)
        time.sleep(_PAUSE_SECONDS)


def warn_of_planted(ledger: Ledger) -> None:
    """Tell of runs that claim to be a registered model's ledger; nothing of them is believed."""
    for run_id in list_planted(ledger):
        warn(
            f"run {run_id} says that it is the promotion ledger of {ledger.name}, and is not: it is not read"
        )


def note_outside_changes(name: str) -> list[Decision]:
    """Note in the ledger what was done by other means than annotary: a new name, versions deleted, a move.

    Returns
    -------
    What was noted.
    """
    ledger, run = _read(read_memory(name))
    noted = [_note_new_name(ledger, run)]
    for _ in range(_MOST_ROUNDS):
        if not ledger.deleted:
            break
        noted.append(_note_deletion(ledger))
        ledger = read_ledger(name)
    noted.append(note_outside_move(name))
    return [decision for decision in noted if decision]


def _note_new_name(ledger: Ledger, run: Run | None) -> Decision | None:
    """Note that the registered model was renamed."""
    before = run.data.tags.get(LEDGER_TAG, ledger.name) if run else ledger.name
    if run is None or before == ledger.name or not ledger.entries:
        return None
    decision = Decision(
        action=RENAMED,
        before=ledger.champion,
        after=ledger.champion,
        reason=f"the registered model was {before!r} before: somebody renamed it in MLflow",
    )
    if not append(ledger, decision):
        return None
    take_name(run, ledger.name)
    warn(f"{ledger.name}: the registered model was {before} before; its promotion ledger goes on")
    return decision


def _note_deletion(ledger: Ledger) -> Decision | None:
    """Note that a version which is or was champion was deleted by other means than annotary."""
    gone, name = ledger.deleted[0], ledger.name
    was_champion = ledger.holders[-1].decision.after == gone and not ledger.champion
    champion = find_alias(name, CHAMPION) if was_champion else None
    decision = Decision(
        action=DELETED,
        candidate=gone,
        before=gone if was_champion else ledger.champion,
        after=(champion.number if champion else "") if was_champion else ledger.champion,
        reason=f"version {gone}, which was champion, is gone: somebody deleted it in MLflow's UI or with "
        "its client",
        hashes=describe_hashes(champion) if champion else {},
    )
    if not append(ledger, decision):
        return None
    settle(name)
    is_way = was_champion and not champion and ledger.previous
    way = f"; annotary rollback returns to {_tell(ledger.previous)}" if is_way else ""
    warn(f"{name}: version {gone}, which was champion, was deleted outside annotary{way}")
    return decision


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
        if after == ledger.champion or _is_under_way(ledger, after):
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


def _is_under_way(ledger: Ledger, champion: str) -> bool:
    """Tell whether the ledger has a move whose alias is not set yet, so that the champion is the one before.

    That one may have been deleted meanwhile, and its alias with it.
    """
    if not ledger.unapplied:
        return False
    before = ledger.unapplied[0].before
    return champion == before or (not champion and before not in (ledger.versions or {}))


def note_outside_move_if_possible(name: str) -> None:
    """Note what was done outside annotary where that must not stop the work at hand: a failure is only told.

    The active run remembers the ledger's head, if it can be believed.

    Raises
    ------
    StoreError
        If the tracking store is away: the work at hand needs it too.
    """
    try:
        read_anchored_ledger(name)
        note_outside_changes(name)
        anchor(name, read_ledger(name))
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


def _name_user() -> str:
    """Name who is at work: the account at the server, or on this machine; its number where it has no name."""
    return os.environ.get("MLFLOW_TRACKING_USERNAME") or name_user()
