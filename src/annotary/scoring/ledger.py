"""Which files were annotated, with which version and settings, and who is at which: an SQLite file.

Every change is one transaction. A run claims a file before it reads it and completes the claim once the
output has its name; a claim of a run that is dead is free again.
"""

import contextlib
import json
import sqlite3
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from annotary import __version__
from annotary.data.discovery import ANNOTATED_SUFFIX
from annotary.errors import AnnotaryError, OutputError
from annotary.liveness import Process
from annotary.scoring import sightings
from annotary.scoring.heartbeat import Heartbeat, tell_time
from annotary.scoring.identity import Identity, identify
from annotary.scoring.ledger_file import LEDGER_NAME, change, mark_filled, reading
from annotary.scoring.ledger_rows import (
    CLAIMED,
    COLUMNS,
    DONE,
    FAILED,
    Details,
    FileRow,
    iter_rows,
)
from annotary.scoring.output_rows import OutputRows

__all__ = ["Adopted", "Details", "Entry", "Ledger", "Standing", "describe"]

_MOST_RIVALS = 100


class Standing(Enum):
    """What the ledger says of a file."""

    CLAIMED = "it is ours to annotate"
    KNOWN = "it was annotated"
    REFUSED = "it cannot be annotated"
    BUSY = "another run is at it"
    IN_DOUBT = "another file has its size: its hash decides"


@dataclass(frozen=True)
class Entry:
    """A file's standing.

    Attributes
    ----------
    standing
        What is to be done.
    target
        Name of its outputs, without ending, below the output folder.
    details
        What was stored when the file was done, or failed.
    """

    standing: Standing
    target: str = ""
    details: Details | None = None


@dataclass(frozen=True)
class Adopted:
    """An annotated file that its own record speaks for.

    Attributes
    ----------
    output
        The annotated file.
    sha256
        Hash of its input.
    details
        Figures that the ledger keeps.
    prefix
        Prefix of its columns.
    """

    output: Path
    sha256: str
    details: Details
    prefix: str = ""


class Ledger:
    """The ledger of one output folder, for one version and one set of settings.

    Parameters
    ----------
    folder
        Output folder.
    key
        Names version and settings; files done under another key are not done under this one.
    database
        The open file, as :func:`annotary.scoring.ledger_file.open_database` gives it.
    prefix
        Prefix of the columns that are written.
    """

    def __init__(self, folder: Path, key: str, database: sqlite3.Connection, *, prefix: str = "") -> None:
        self.folder = folder
        self.key = key
        self.run = uuid.uuid4().hex[:12]
        self._database = database
        self._outputs = OutputRows(folder, database, prefix)

    def look_up(self, address: str, identity: Identity) -> Entry | None:
        """Tell of a file that the ledger knows by size and time; None where it must be claimed."""
        return self._judge_own(self._find(address), identity)

    def claim(self, address: str, identity: Identity, *, name: str, sha256: str | None = None) -> Entry:
        """Claim a file, unless it was done or another run is at it.

        Parameters
        ----------
        address
            Where it lies.
        identity
            What the file system says of it.
        name
            Name of its output, if it is free.
        sha256
            Its hash; without one, the answer may be that the hash decides.
        """
        with change(self._database):
            own = self._find(address)
            judged = self._judge_own(own, identity)
            if judged is not None:
                return judged
            others = self._iter_rivals(address, identity, sha256)
            if sha256 is None and (identity.size < 0 or any(others)):
                return Entry(Standing.IN_DOUBT)
            for other in others:
                if other["status"] == CLAIMED and other["sha256"] in (None, sha256):
                    return Entry(Standing.BUSY)
                if other["status"] == DONE and other["sha256"] == sha256 and self._is_intact(other):
                    self._insert(address, identity, sha256, like=other, status=DONE)
                    return Entry(Standing.KNOWN, other["target"], other["details"])
            target = self._choose_target(address, name)
            self._insert(address, identity, sha256, target=target, status=CLAIMED)
        return Entry(Standing.CLAIMED, target)

    def complete(self, address: str, *, sha256: str, outputs: list[Path], details: Details) -> None:
        """Note that a claimed file was annotated, once its outputs have their names."""
        names = [output.relative_to(self.folder).as_posix() for output in outputs]
        self._settle(address, DONE, sha256=sha256, details=details | {"outputs": names})

    def list_vouched(self, target: str) -> frozenset[str]:
        """List what the file system said of a target's outputs when they were written."""
        return self._outputs.list_vouched(target)

    def refuse(self, address: str, error: AnnotaryError) -> None:
        """Note that a claimed file cannot be annotated; it is not tried again as it is."""
        self._settle(address, FAILED, details=describe(error))

    def release(self, address: str) -> None:
        """Give a claim back, for the next run."""
        with change(self._database):
            self._database.execute(
                "DELETE FROM files WHERE address = ? AND key = ? AND run = ? AND status = ?",
                (address, self.key, self.run, CLAIMED),
            )

    def adopt(self, found: Adopted, *, address: str, identity: Identity, key: str) -> None:
        """Note an annotated file that the ledger does not know; it leaves alone what it knows.

        Parameters
        ----------
        found
            What the annotated file's own record says.
        address
            Where its input lies, or what :func:`hide_address` made of it.
        identity
            What is known of the input.
        key
            Version and settings.
        """
        names = self._name_output(found)
        with change(self._database):
            self._insert(
                address,
                identity,
                found.sha256,
                target=names[0].removesuffix(ANNOTATED_SUFFIX),
                outputs_fingerprint=self._fingerprint(names),
                details=found.details | {"outputs": names},
                status=DONE,
                key=key,
                over=False,
            )
            self._note_adopted(found, "")  # nobody knows what was done to it since

    def mark_filled(self) -> None:
        """Note that all annotated files were adopted."""
        mark_filled(self._database)

    def adopt_claim(self, claim: FileRow, found: Adopted) -> None:
        """Note that the output of a dead run's claim got its name before the run died."""
        names = self._name_output(found)
        with change(self._database):
            self._database.execute(
                "UPDATE files SET status = ?, sha256 = ?, outputs_fingerprint = ?, details = ?"
                " WHERE address = ? AND key = ? AND run = ? AND status = ?",
                (
                    DONE,
                    found.sha256,
                    self._fingerprint(names),
                    json.dumps(found.details | {"outputs": names}),
                    claim["address"],
                    claim["key"],
                    claim["run"],
                    CLAIMED,
                ),
            )
            self._note_adopted(found, self._fingerprint(names))

    def _name_output(self, found: Adopted) -> list[str]:
        """Name an annotated file below the folder."""
        return [found.output.relative_to(self.folder).as_posix()]

    def list_dead_claims(self) -> list[FileRow]:
        """List the claims of runs that are dead."""
        alive = self.list_alive()
        return [row for row in self._select("status = ?", CLAIMED) if row["run"] not in alive]

    def drop(self, row: FileRow) -> None:
        """Forget a claim of a dead run."""
        with change(self._database):
            self._database.execute(
                "DELETE FROM files WHERE address = ? AND key = ? AND run = ? AND status = ?",
                (row["address"], row["key"], row["run"], CLAIMED),
            )

    def list_alive(self) -> set[str]:
        """List the runs whose process is there, this one among them."""
        with reading(self._database):
            return sightings.list_alive(self._database)

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """Be known as a run that is alive while the block lasts."""
        process = Process.own()
        with change(self._database):
            dead = {row["id"] for row in self._database.execute("SELECT id FROM runs")} - self.list_alive()
            self._database.executemany("DELETE FROM runs WHERE id = ?", [(run,) for run in dead])
            self._database.execute(
                "INSERT INTO runs (id, host, pid, birth, heartbeat) VALUES (?, ?, ?, ?, ?)",
                (self.run, process.host, process.pid, process.birth, tell_time()),
            )
            sightings.forget_ended(self._database)
        try:
            with Heartbeat(self.folder / LEDGER_NAME, self.run):
                yield
        finally:
            # On a full disk this stays undone; the next run sees that the process is gone.
            with contextlib.suppress(OutputError), change(self._database):
                self._database.execute("DELETE FROM runs WHERE id = ?", (self.run,))
                self._database.execute("DELETE FROM files WHERE run = ? AND status = ?", (self.run, CLAIMED))

    def _select(self, where: str, *values: object) -> list[FileRow]:
        """Read the rows of files that meet a condition, and parse."""
        return list(self._iter_rows(where, *values))

    def _iter_rows(self, where: str, *values: object) -> Iterator[FileRow]:
        """Read the rows of files that meet a condition at once, and go through those that parse."""
        with reading(self._database):
            found = self._database.execute(f"SELECT * FROM files WHERE {where}", values).fetchall()
        return iter_rows(found)

    def _find(self, address: str) -> FileRow | None:
        """Find the row of a file."""
        return next(iter(self._select("address = ? AND key = ?", address, self.key)), None)

    def _judge_own(self, row: FileRow | None, identity: Identity) -> Entry | None:
        """Judge by a file's own row."""
        if row is None:
            return None
        if row["status"] == CLAIMED:
            alive = row["run"] != self.run and row["run"] in self.list_alive()
            return Entry(Standing.BUSY) if alive else None
        if not identity.fingerprint or row["fingerprint"] != identity.fingerprint:
            return None
        if row["status"] == FAILED:
            is_ours = row["package_version"] == __version__
            return Entry(Standing.REFUSED, details=row["details"]) if is_ours else None
        return Entry(Standing.KNOWN, row["target"], row["details"]) if self._is_intact(row) else None

    def _iter_rivals(self, address: str, identity: Identity, sha256: str | None) -> Iterator[FileRow]:
        """Go through some files that may have the same content, done or being done; those done first."""
        alive: set[str] | None = None
        for row in self._iter_rows(
            "key = ? AND (size = ? OR size < 0 OR ? < 0)"
            " AND (status = ? OR (status = ? AND sha256 = coalesce(?, sha256)))"
            " ORDER BY status = ? DESC LIMIT ?",
            *(self.key, identity.size, identity.size, CLAIMED, DONE, sha256, DONE, _MOST_RIVALS),
        ):
            if row["status"] == CLAIMED:
                alive = self.list_alive() if alive is None else alive
                if row["run"] not in alive or row["run"] == self.run or row["address"] == address:
                    continue
            yield row

    def _choose_target(self, address: str, name: str) -> str:
        """Choose an output that no other file has, and that a file keeps."""
        return self._outputs.choose_target(address, name)

    def _is_intact(self, row: FileRow) -> bool:
        """Tell whether the outputs are still as they were left."""
        names = row["details"].get("outputs", [])
        return bool(names) and self._fingerprint(names) == row["outputs_fingerprint"]

    def _fingerprint(self, names: list[str]) -> str:
        """Describe outputs as the file system does; a missing one makes it empty."""
        try:
            return " ".join(identify(self.folder / name).fingerprint for name in names)
        except OSError:
            return ""

    def _insert(
        self,
        address: str,
        identity: Identity,
        sha256: str | None,
        *,
        status: str,
        like: FileRow | None = None,
        target: str = "",
        outputs_fingerprint: str | None = None,
        details: Details | None = None,
        key: str = "",
        over: bool = True,
    ) -> None:
        """Write the row of a file, with target, outputs and details as given or like those of another one."""
        values = {
            "address": address,
            "key": key or self.key,
            "fingerprint": identity.fingerprint,
            "size": identity.size,
            "sha256": sha256,
            "status": status,
            "run": self.run,
            "target": like["target"] if like else target,
            "outputs_fingerprint": like["outputs_fingerprint"] if like else outputs_fingerprint,
            "details": json.dumps(like["details"] if like else details) if like or details else None,
            "package_version": __version__,
        }
        self._database.execute(
            f"INSERT OR {'REPLACE' if over else 'IGNORE'} INTO files ({', '.join(COLUMNS)})"
            f" VALUES ({', '.join('?' * len(COLUMNS))})",
            [values[name] for name in COLUMNS],
        )

    def _settle(self, address: str, status: str, *, details: Details, sha256: str | None = None) -> None:
        """Turn a claim into what came of it."""
        with change(self._database):
            self._database.execute(
                "UPDATE files SET status = ?, sha256 = coalesce(?, sha256), outputs_fingerprint = ?,"
                " details = ? WHERE address = ? AND key = ? AND run = ?",
                (
                    status,
                    sha256,
                    self._fingerprint(details.get("outputs", [])),
                    json.dumps(details),
                    address,
                    self.key,
                    self.run,
                ),
            )
            self._note_outputs(details.get("outputs", []))

    def _note_adopted(self, found: Adopted, fingerprint: str) -> None:
        """Note an output of a run that is not there any more."""
        name = found.output.relative_to(self.folder).as_posix()
        self._outputs.note([name], [fingerprint], prefix=found.prefix)

    def _note_outputs(self, names: list[str]) -> None:
        """Note how outputs were left, so that a later run can tell that nobody changed them since."""
        self._outputs.note(names, [self._fingerprint([name]) for name in names])


def describe(error: AnnotaryError) -> Details:
    """Take an error apart, to store it."""
    return {
        "place": error.place,
        "expected": error.expected,
        "found": error.found,
        "remedy": error.remedy,
    }
