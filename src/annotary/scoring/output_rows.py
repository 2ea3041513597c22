"""Which files of an output folder annotary wrote, and how it left them: a table of the ledger's file."""

import json
import os
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from annotary.data.atomic import fit_name
from annotary.data.discovery import ANNOTATED_SUFFIX
from annotary.scoring.ledger_file import change, hide_address
from annotary.scoring.tables import TABLE_SUFFIXES

_SUFFIXES = (ANNOTATED_SUFFIX, *TABLE_SUFFIXES.values())
_LONGEST_SUFFIX = max(_SUFFIXES, key=len)
_TABLE = (
    "CREATE TABLE outputs (name TEXT PRIMARY KEY, target TEXT NOT NULL, prefix TEXT NOT NULL,"
    " fingerprint TEXT NOT NULL)"
)
_PLAIN = re.compile(r"[^A-Za-z0-9]+")


class OutputRows:
    """The outputs of a folder.

    Parameters
    ----------
    folder
        Output folder.
    database
        The ledger's open file.
    prefix
        Prefix of the columns that this run writes; outputs of another prefix are not its to replace.
    """

    def __init__(self, folder: Path, database: sqlite3.Connection, prefix: str) -> None:
        self._folder = folder
        self._database = database
        self._prefix = prefix
        known = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'outputs'"
        if database.execute(known).fetchone() is None:
            with change(database):
                if database.execute(known).fetchone() is None:  # another run may have been quicker
                    database.execute(_TABLE)
                    self._take_over()

    def note(self, names: list[str], fingerprints: list[str], *, prefix: str | None = None) -> None:
        """Note outputs that have their names, and what the file system says of each; within a transaction."""
        for name, fingerprint in zip(names, fingerprints, strict=False):
            ending = next((suffix for suffix in _SUFFIXES if name.endswith(suffix)), "")
            self._database.execute(
                "INSERT OR REPLACE INTO outputs VALUES (?, ?, ?, ?)",
                (name, name.removesuffix(ending), self._prefix if prefix is None else prefix, fingerprint),
            )

    def list_vouched(self, target: str) -> frozenset[str]:
        """List what the file system said of a target's outputs when annotary wrote them with this prefix."""
        rows = self._database.execute(
            "SELECT fingerprint FROM outputs WHERE target = ? AND prefix = ?", (target, self._prefix)
        ).fetchall()
        return frozenset(row["fingerprint"] for row in rows if row["fingerprint"])

    def choose_target(self, address: str, name: str) -> str:
        """Choose a name for outputs that no other input has, that is kept, and that is no input itself."""
        options = list(self._iter_names(address, name))
        return next((option for option in options if self._is_free(option, address)), options[-1])

    def _iter_names(self, address: str, name: str) -> Iterator[str]:
        """Give names in the order in which they are tried; each leaves room for the longest ending."""
        plain = _PLAIN.sub("-", self._prefix).strip("-")
        yield self._fit(name)
        if plain and not self._is_others(self._fit(name), address):
            yield self._fit(f"{name}-{plain}")
        yield self._fit(f"{name}-{hide_address(address)[1:9]}")
        yield self._fit(f"{name}-{hide_address(address + self._prefix)[1:]}")

    def _fit(self, name: str) -> str:
        """Cut a name that is too long for the file system."""
        folder, _, last = name.rpartition("/")
        fitted = fit_name(last, _LONGEST_SUFFIX, self._folder / folder).removesuffix(_LONGEST_SUFFIX)
        return f"{folder}/{fitted}" if folder else fitted

    def _is_free(self, target: str, address: str) -> bool:
        """Tell a target that is free for an input."""
        others = "SELECT 1 FROM outputs WHERE target = ? AND prefix != ?"
        return not (
            self._is_others(target, address)
            or self._database.execute(others, (target, self._prefix)).fetchone()
            or any(_is_same_file(self._folder / f"{target}{suffix}", address) for suffix in _SUFFIXES)
        )

    def _is_others(self, target: str, address: str) -> bool:
        """Tell the target of another input."""
        owners = {address, hide_address(address)}
        rows = self._database.execute("SELECT address FROM files WHERE target = ?", (target,)).fetchall()
        return any(row["address"] not in owners for row in rows)

    def _take_over(self) -> None:
        """Take from the rows of an older ledger what it knew of outputs."""
        for row in self._database.execute("SELECT outputs_fingerprint, details FROM files").fetchall():
            try:
                names = [str(name) for name in json.loads(row["details"] or "{}").get("outputs", [])]
            except (ValueError, TypeError, AttributeError):
                continue
            self.note(names, str(row["outputs_fingerprint"] or "").split(" "), prefix="")


def _is_same_file(path: Path, address: str) -> bool:
    """Tell whether two names are one file."""
    try:
        return os.path.samefile(path, address)
    except (OSError, ValueError):
        return False
