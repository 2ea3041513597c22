"""Many files, each once: looked up, claimed, annotated or refused, whatever becomes of the others."""

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from annotary.bounded_process import describe_unforeseen
from annotary.config import ScoreConfig
from annotary.data.atomic import TEMPORARY_PREFIX
from annotary.errors import (
    AnnotaryError,
    BundleError,
    ConfigError,
    CountsError,
    GeneOverlapError,
    InputFileError,
    LabelError,
    RegistryError,
    SetupError,
    find_shortage,
    printable,
)
from annotary.scoring.discovery import ScoreInput, wait_for
from annotary.scoring.identity import Identity
from annotary.scoring.ledger import Details, Entry, Ledger, Standing
from annotary.scoring.ledger_errors import LedgerFileError
from annotary.scoring.ledger_file import hide_address
from annotary.scoring.one_file import Annotated, Origin
from annotary.scoring.records import ScoreRecord
from annotary.scoring.recovery import name_owner
from annotary.scoring.remote import fetch_remote
from annotary.scoring.retry import PassingError, may_pass, retry
from annotary.scoring.tally import Tally
from annotary.scoring.work import Work

Status = Literal["annotated", "known", "failed", "waiting"]

_ENDS_THE_BATCH = (RegistryError, BundleError, ConfigError, LedgerFileError)
"""Errors of the model, the settings or the ledger: no other file would do better."""


@dataclass(frozen=True)
class ScoredFile:
    """What became of one input.

    Attributes
    ----------
    source
        Its address.
    status
        ``annotated`` now, ``known`` from before, ``failed``, or ``waiting`` for the next run.
    outputs
        Annotated file, table, or both.
    details
        Figures of the annotation, as the ledger keeps them.
    seconds
        Time that it took.
    reason
        Why it failed or waits.
    error
        The error that says why it failed.
    warnings
        What a person should know of a file that was annotated now.
    annotated
        Its annotation.
    spelled
        The path itself, where it is no UTF-8 and the address is not quite it.
    """

    source: str
    status: Status
    outputs: tuple[Path, ...] = ()
    details: Details = field(default_factory=dict)
    seconds: float = 0.0
    reason: str = ""
    error: AnnotaryError | None = None
    warnings: tuple[str, ...] = ()
    annotated: Annotated | None = None
    spelled: str = ""

    @property
    def path(self) -> Path:
        """Where the input lies, if that is on this machine."""
        return Path(self.spelled or self.source)

    @property
    def target(self) -> Path:
        """Annotated file, or the table where there is none."""
        return self.outputs[0]

    @property
    def is_bad(self) -> bool:
        """Whether the file itself is at fault, and will be next time."""
        return self.status == "failed" and _blames_file(self.error)

    @property
    def tally(self) -> Tally | None:
        """Labels and confidence of its cells, where they are known."""
        return Tally.from_details(self.details)

    @property
    def n_cells(self) -> int:
        """Cells of the file; 0 where it was not annotated."""
        return int(self.details.get("n_cells", 0))


@dataclass(frozen=True)
class Batch:
    """What a run needs for every file.

    Attributes
    ----------
    ledger
        Who is at which file.
    config
        Settings.
    record
        What the records of all files have in common.
    work
        Annotates files.
    """

    ledger: Ledger
    config: ScoreConfig
    record: ScoreRecord
    work: Work

    def score(self, inputs: list[ScoreInput]) -> Iterator[ScoredFile]:
        """Go through inputs; those that another run is at come last, and wait if it still is."""
        busy = []
        for one in inputs:
            scored = self._score(one)
            if scored is None:
                busy.append(one)
            else:
                yield replace(scored, spelled=one.spelled)
        for one in busy:
            scored = self._score(one) or ScoredFile(
                one.address, "waiting", reason="another run is annotating it, or a file of the same size"
            )
            yield replace(scored, spelled=one.spelled)

    def _score(self, one: ScoreInput) -> ScoredFile | None:
        """Annotate one file; None where another run is at it."""
        started = time.monotonic()
        try:
            identity = one.identify()
            entry = self.ledger.look_up(one.address, identity)
            seconds = wait_for(one, identity, self.config.settle_seconds)
            if entry is None and seconds:
                reason = f"it changed a moment ago and may be incomplete; it settles in {seconds:.0f} s"
                return ScoredFile(one.address, "waiting", reason=reason)
            if entry is None:
                with self._fetch(one) as path:
                    entry = self._claim(one, identity, path)
                    if entry.standing is Standing.CLAIMED:
                        return self._annotate(one, identity, path, entry, started)
            return self._take(one, entry)
        except _ENDS_THE_BATCH:
            raise
        except PassingError as error:
            self.ledger.release(one.address)
            return ScoredFile(one.address, "waiting", reason=str(error))
        except AnnotaryError as error:
            return self._refuse(one, error, time.monotonic() - started)
        except Exception as error:
            if os.environ.get("ANNOTARY_DEBUG"):
                raise
            self.ledger.release(one.address)
            unforeseen = find_shortage(error, one.address) or describe_unforeseen(error, one.address)
            return ScoredFile(one.address, "failed", reason=str(unforeseen), error=unforeseen)

    def _claim(self, one: ScoreInput, identity: Identity, path: Path) -> Entry:
        """Claim a file; its hash is computed where another file has its size."""
        entry = self.ledger.claim(one.address, identity, name=one.name)
        if entry.standing is Standing.IN_DOUBT:
            sha256 = self.work.hash(path)
            entry = self.ledger.claim(one.address, identity, name=one.name, sha256=sha256)
        return entry

    def _annotate(
        self, one: ScoreInput, identity: Identity, path: Path, entry: Entry, started: float
    ) -> ScoredFile:
        """Annotate a claimed file."""
        model = self.work.describe_model()
        record = replace(
            self.record,
            dataset_hash=model.dataset_hash,
            split_hash=model.split_hash,
            panel_hash=model.panel_hash,
            input_name=printable(path.name) if not one.is_remote else one.address.rsplit("/", 1)[-1],
            input_size=identity.size,
            input_id=hide_address(one.address),
        )
        vouched = self.ledger.list_vouched(entry.target)
        origin = Origin(path=path, shown_as=one.address, record=record, vouched=vouched)
        target, owner = self.ledger.folder / entry.target, name_owner(self.ledger.run)
        annotated = self.work.annotate(origin, target, owner=owner)
        self.ledger.complete(
            one.address,
            sha256=annotated.record.input_sha256,
            outputs=annotated.outputs,
            details=annotated.details,
        )
        return ScoredFile(
            source=one.address,
            status="annotated",
            outputs=tuple(annotated.outputs),
            details=annotated.details,
            seconds=time.monotonic() - started,
            warnings=annotated.warnings,
            annotated=annotated,
        )

    def _take(self, one: ScoreInput, entry: Entry) -> ScoredFile | None:
        """Tell of a file what the ledger says of it."""
        details = entry.details or {}
        if entry.standing is Standing.BUSY:
            return None
        if entry.standing is Standing.REFUSED:
            error = InputFileError(**details)
            return ScoredFile(one.address, "failed", reason=str(error), error=error)
        outputs = tuple(self.ledger.folder / name for name in details.get("outputs", []))
        return ScoredFile(one.address, "known", outputs=outputs, details=details)

    def _refuse(self, one: ScoreInput, error: AnnotaryError, seconds: float) -> ScoredFile:
        """Note a file that cannot be annotated; what is not its fault is not held against it."""
        error = find_shortage(error, one.address) or error
        if _blames_file(error) and not may_pass(error):
            self.ledger.refuse(one.address, error)
        else:
            self.ledger.release(one.address)
        return ScoredFile(one.address, "failed", seconds=seconds, reason=str(error), error=error)

    @contextlib.contextmanager
    def _fetch(self, one: ScoreInput) -> Iterator[Path]:
        """Give a path on this machine of a file that may be on another one."""
        if not one.is_remote:
            yield one.path
            return
        prefix = f"{TEMPORARY_PREFIX}{name_owner(self.ledger.run)}"
        with tempfile.TemporaryDirectory(prefix=prefix, dir=self.ledger.folder) as folder:
            path = Path(folder) / one.address.rstrip("/").rsplit("/", 1)[-1].split("?")[0]
            retry(lambda: fetch_remote(one.spelled or one.address, path), place=one.address)
            yield path


def _blames_file(error: AnnotaryError | None) -> bool:
    """Tell an error of the file that is read from one of the machine, the output, or annotary."""
    blamed = InputFileError | CountsError | GeneOverlapError | LabelError
    return isinstance(error, blamed) and not isinstance(error, SetupError)
