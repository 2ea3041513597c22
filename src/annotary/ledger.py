"""The promotion ledger: what became of each candidate, who decided, and why, chained by hashes.

Every entry carries the hash of the one before, so none can be changed, taken
out or put in without breaking the chain. It also says which version it speaks
of, by training run and time of registration: a later version of the same number
is another one. This module knows what the entries say; ``promotions.py`` keeps
them in MLflow.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta

from annotary.errors import AnnotaryError

PROMOTED = "promoted"
KEPT = "kept the champion"
WOULD_PROMOTE = "would be promoted"
WOULD_KEEP = "would keep the champion"
ROLLED_BACK = "rolled back"
OUTSIDE = "moved outside the gate"
DELETED = "deleted outside"
RENAMED = "renamed outside"

CREATED, RUN_ID = "created", "run_id"
"""What tells a version from a later one of the same number: when it was registered, and its training run."""

_SAME_WHATEVER_CLOCK = timedelta(minutes=10)
_FIRST_LINK = "0" * 64


class LedgerError(AnnotaryError):
    """The promotion ledger was altered, cut short or taken away."""


@dataclass(frozen=True)
class Decision:
    """What an entry says, apart from its place in the chain.

    Attributes
    ----------
    action
        What was done, one of this module's constants.
    before, after
        Champion before and afterwards, version numbers; empty for none.
    candidate
        Version that was judged; empty where none was.
    reason
        Why, in words.
    rules
        Name, figure, limit and verdict of each rule of the gate.
    hashes
        Of the dataset, split, panel, files and calls of the version that the entry speaks of, and what
        tells it from others: its training run and when it was registered.
    run_id
        MLflow run of the stage that decided.
    """

    action: str
    before: str
    after: str
    reason: str
    candidate: str = ""
    rules: list[dict[str, object]] = field(default_factory=list)
    hashes: dict[str, str] = field(default_factory=dict)
    run_id: str = ""

    @property
    def moves(self) -> bool:
        """Whether the champion changed."""
        return self.action in (PROMOTED, ROLLED_BACK, OUTSIDE, DELETED)

    @property
    def subject(self) -> str:
        """Version that ``hashes`` describes: the champion afterwards, or a candidate that is not it."""
        return self.after if self.moves else self.candidate


@dataclass(frozen=True)
class Entry:
    """A link of the chain.

    Attributes
    ----------
    number
        Place in the chain, from 1.
    previous
        Hash of the entry before; zeros for the first.
    time
        UTC, ISO 8601.
    user
        Who started the stage.
    nonce
        Random text: no two processes write the same entry.
    decision
        What was decided.
    """

    number: int
    previous: str
    time: str
    user: str
    nonce: str
    decision: Decision

    @property
    def hash(self) -> str:
        """SHA-256 of everything else in the entry, as hexadecimal."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    def to_json(self) -> str:
        """Write the entry with its hash."""
        return json.dumps(asdict(self) | {"hash": self.hash}, sort_keys=True)


@dataclass(frozen=True)
class Ledger:
    """A registered model's promotions, oldest first, the chain unbroken.

    Attributes
    ----------
    name
        Registered model.
    run_id
        MLflow run that holds the entries; empty while there are none.
    entries
        The links.
    applied
        Number of the last entry whose aliases were set.
    versions
        Versions that the registered model has now, by number, described as entries describe them; None
        where nobody looked, and every version counts as there.
    """

    name: str
    run_id: str = ""
    entries: tuple[Entry, ...] = ()
    applied: int = 0
    versions: Mapping[str, Mapping[str, str]] | None = None

    @property
    def head(self) -> str:
        """Hash that the next entry must carry."""
        return self.entries[-1].hash if self.entries else _FIRST_LINK

    @property
    def mark(self) -> str:
        """Number and hash of the last entry, as others remember it; empty while there are none."""
        return f"{len(self.entries)}:{self.head}" if self.entries else ""

    @property
    def holders(self) -> list[Entry]:
        """Entries that made the champions, by the order in which these replaced each other.

        A rollback takes the one that it ends off the list.
        """
        made: list[Entry] = []
        for entry in self.entries:
            if entry.decision.action == ROLLED_BACK:
                while made and not _is_same(made[-1], entry):
                    made.pop()
            if entry.decision.moves and not (made and _is_same(made[-1], entry)):
                made.append(entry)
        return made

    @property
    def champion(self) -> str:
        """Version that the entries make champion; empty for none, and where it is gone."""
        return next((entry.decision.after for entry in self.holders[-1:] if self.is_there(entry)), "")

    @property
    def previous(self) -> str:
        """Version that a rollback returns to, of those that are left; empty for none."""
        return next(iter(self.list_before()), "")

    def list_before(self) -> list[str]:
        """List the champions before the present one that are left, newest first."""
        left = [entry.decision.after for entry in self.holders[-2::-1] if self.is_there(entry)]
        return [number for number in dict.fromkeys(left) if number and number != self.champion]

    @property
    def deleted(self) -> list[str]:
        """Champions, present and former, that are gone without an entry that says so."""
        noted = {
            entry.decision.candidate: entry.number
            for entry in self.entries
            if entry.decision.action == DELETED
        }
        gone = [
            entry.decision.after
            for entry in self.holders
            if not self.is_there(entry) and noted.get(entry.decision.after, 0) < entry.number
        ]
        return list(dict.fromkeys(gone))

    @property
    def lost_champion(self) -> str:
        """Champion whose deletion left none; empty where another one followed, or none was deleted."""
        last = self.holders[-1].decision if self.holders else None
        return last.candidate if last and last.action == DELETED and not last.after else ""

    @property
    def unapplied(self) -> list[Decision]:
        """Moves whose aliases may not have been set yet."""
        return [entry.decision for entry in self.entries[self.applied :] if entry.decision.moves]

    def is_there(self, entry: Entry) -> bool:
        """Tell whether the version that an entry speaks of is the one that bears its number now.

        Entries from before versions were told apart speak of one that was registered before them; the hash
        of its files decides where two clocks could differ about that.
        """
        if self.versions is None or not entry.decision.subject:
            return True
        now, said = self.versions.get(entry.decision.subject), entry.decision.hashes
        if now is None:
            return False
        if said.get(CREATED):
            return all(said.get(name) == now[name] for name in (CREATED, RUN_ID))
        later = datetime.fromisoformat(now[CREATED]) - datetime.fromisoformat(entry.time)
        if abs(later) > _SAME_WHATEVER_CLOCK:
            return later < timedelta()
        return not (said.get("model") and now.get("model")) or said["model"] == now["model"]

    def list_recorded(self, number: str) -> list[Entry]:
        """List the entries that speak of a version, oldest first."""
        return [entry for entry in self.entries if entry.decision.subject == number and self.is_there(entry)]


def _is_same(one: Entry, other: Entry) -> bool:
    """Tell whether two entries left the same version champion."""
    said = [(entry.decision.after, entry.decision.hashes.get(CREATED, "")) for entry in (one, other)]
    either_unknown = not (said[0][1] and said[1][1])
    return said[0] == said[1] or (said[0][0] == said[1][0] and either_unknown)


def read_entries(stored: Iterable[tuple[int, str]], *, place: str) -> tuple[Entry, ...]:
    """Read entries and check their chain.

    Parameters
    ----------
    stored
        Number and text of each entry, in order.
    place
        What an error names.

    Raises
    ------
    LedgerError
        Naming the first link that does not hold.
    """
    entries: list[Entry] = []
    link = _FIRST_LINK
    for expected, (number, text) in enumerate(stored, start=1):
        if number != expected:
            raise _broken(f"{place}, entry {expected}", "to be there", f"entry {number} next")
        try:
            fields = json.loads(text)
            claimed = fields.pop("hash")
            entry = Entry(**fields | {"decision": Decision(**fields["decision"])})
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise _broken(f"{place}, entry {expected}", "an entry of the ledger", repr(text[:60])) from error
        if entry.hash != claimed or entry.number != expected:
            raise _broken(f"{place}, entry {expected}", f"content of SHA-256 {claimed[:12]}", entry.hash[:12])
        if entry.previous != link:
            wanted = f"to follow entry {expected - 1}, {link[:12]}"
            raise _broken(f"{place}, entry {expected}", wanted, entry.previous[:12])
        entries.append(entry)
        link = entry.hash
    return tuple(entries)


def check_mark(entries: tuple[Entry, ...], mark: str, *, place: str, witness: str = "once was there") -> int:
    """Check that an entry which others remember is in the chain; give its number.

    The chain alone does not show that its end was cut off.

    Parameters
    ----------
    mark
        ``NUMBER:HASH`` of an entry; empty if none was ever remembered.
    witness
        Who remembers it, as the error says.

    Raises
    ------
    LedgerError
        If the chain does not hold that entry.
    """
    if not mark:
        return 0
    number, _, wanted = mark.partition(":")
    found = entries[int(number) - 1].hash if number.isdigit() and 0 < int(number) <= len(entries) else "none"
    if found != wanted:
        raise _broken(f"{place}, entry {number}", f"the entry {wanted[:12]} that {witness}", found[:12])
    return int(number)


def _broken(place: str, expected: str, found: str) -> LedgerError:
    """Make the error of a chain that does not hold."""
    return LedgerError(
        place,
        expected=expected,
        found=found,
        remedy="The ledger was altered outside annotary: restore the tracking store from its backup. Without "
        "one, begin a new history: annotary evaluate and promote with another --model-name.",
    )
