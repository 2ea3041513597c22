"""The promotion ledger: what became of each candidate, who decided, and why, chained by hashes.

Every entry carries the hash of the one before, so none can be changed, taken
out or put in without breaking the chain. This module knows what the entries
say; ``promotions.py`` keeps them in MLflow.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field

from annotary.errors import AnnotaryError

PROMOTED = "promoted"
KEPT = "kept the champion"
WOULD_PROMOTE = "would be promoted"
WOULD_KEEP = "would keep the champion"
ROLLED_BACK = "rolled back"
OUTSIDE = "moved outside the gate"

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
        Of the dataset, split, panel and model of the champion afterwards, or of the candidate.
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
        return self.action in (PROMOTED, ROLLED_BACK, OUTSIDE)


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
    """

    name: str
    run_id: str = ""
    entries: tuple[Entry, ...] = ()
    applied: int = 0

    @property
    def head(self) -> str:
        """Hash that the next entry must carry."""
        return self.entries[-1].hash if self.entries else _FIRST_LINK

    @property
    def champions(self) -> list[str]:
        """Champions by the order in which they replaced each other, the present one last.

        A rollback takes the one that it ends off the list.
        """
        replaced: list[str] = []
        for entry in self.entries:
            decision = entry.decision
            if decision.action == ROLLED_BACK:
                while replaced and replaced[-1] != decision.after:
                    replaced.pop()
            if decision.moves and replaced[-1:] != [decision.after]:
                replaced.append(decision.after)
        return replaced

    @property
    def champion(self) -> str:
        """Version that the entries make champion; empty for none."""
        return self.champions[-1] if self.champions else ""

    @property
    def previous(self) -> str:
        """Version that a rollback returns to; empty for none."""
        return next((version for version in self.champions[-2::-1] if version), "")

    @property
    def unapplied(self) -> list[Decision]:
        """Moves whose aliases may not have been set yet."""
        return [entry.decision for entry in self.entries[self.applied :] if entry.decision.moves]


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


def check_mark(entries: tuple[Entry, ...], mark: str, *, place: str) -> int:
    """Check that the entry which the registered model remembers is in the chain; give its number.

    The chain alone does not show that its end was cut off.

    Parameters
    ----------
    mark
        ``NUMBER:HASH`` of an entry; empty if none was ever remembered.

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
        raise _broken(f"{place}, entry {number}", f"the entry {wanted[:12]} that once was there", found[:12])
    return int(number)


def _broken(place: str, expected: str, found: str) -> LedgerError:
    """Make the error of a chain that does not hold."""
    return LedgerError(
        place,
        expected=expected,
        found=found,
        remedy="The ledger was altered outside annotary: restore the tracking store from its backup.",
    )
