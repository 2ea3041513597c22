"""Many files, each once: looked up, claimed, annotated or refused, whatever becomes of the others."""

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from annotary.config import ScoreConfig
from annotary.data.atomic import TEMPORARY_PREFIX
from annotary.data.hashing import hash_source
from annotary.errors import (
    AnnotaryError,
    BundleError,
    ConfigError,
    InputFileError,
    OutputError,
    RegistryError,
)
from annotary.models.bundle import Bundle
from annotary.scoring.copying import BackgroundCopy
from annotary.scoring.discovery import ScoreInput, wait_for
from annotary.scoring.identity import Identity
from annotary.scoring.ledger import Details, Entry, Ledger, Standing
from annotary.scoring.ledger_errors import LedgerFileError
from annotary.scoring.ledger_file import hide_address
from annotary.scoring.one_file import Annotated, Origin, annotate_one
from annotary.scoring.records import ScoreRecord
from annotary.scoring.recovery import name_owner
from annotary.scoring.remote import fetch_remote
from annotary.scoring.retry import PassingError, may_pass, retry
from annotary.scoring.tally import Tally

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

    @property
    def target(self) -> Path:
        """Annotated file, or the table where there is none."""
        return self.outputs[0]

    @property
    def is_bad(self) -> bool:
        """Whether the file itself is at fault, and will be next time."""
        return self.status == "failed" and not isinstance(self.error, OutputError)

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
    open_bundle
        Gives the model; called when there is a file to annotate.
    ahead
        What may have hashed an input before.
    """

    ledger: Ledger
    config: ScoreConfig
    record: ScoreRecord
    open_bundle: Callable[[], Bundle]
    ahead: BackgroundCopy | None = None

    def score(self, inputs: list[ScoreInput]) -> Iterator[ScoredFile]:
        """Go through inputs; those that another run is at come last, and wait if it still is."""
        busy = []
        for one in inputs:
            scored = self._score(one)
            if scored is None:
                busy.append(one)
            else:
                yield scored
        for one in busy:
            yield self._score(one) or ScoredFile(
                one.address, "waiting", reason="another run is annotating it, or a file of the same size"
            )

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
            unforeseen = InputFileError(
                one.address,
                expected="to be a file that annotary can read",
                found=f"{type(error).__name__}: {error}",
                remedy="This may be a bug in annotary; ANNOTARY_DEBUG=1 shows the traceback.",
            )
            return ScoredFile(one.address, "failed", reason=str(unforeseen), error=unforeseen)

    def _claim(self, one: ScoreInput, identity: Identity, path: Path) -> Entry:
        """Claim a file; its hash is computed where another file has its size."""
        entry = self.ledger.claim(one.address, identity, name=one.name)
        if entry.standing is Standing.IN_DOUBT:
            sha256 = retry(lambda: hash_source(path), place=one.address)
            entry = self.ledger.claim(one.address, identity, name=one.name, sha256=sha256)
        return entry

    def _annotate(
        self, one: ScoreInput, identity: Identity, path: Path, entry: Entry, started: float
    ) -> ScoredFile:
        """Annotate a claimed file."""
        bundle = self.open_bundle()
        record = replace(
            self.record,
            dataset_hash=bundle.provenance.dataset_hash,
            split_hash=bundle.provenance.split_hash,
            panel_hash=bundle.spec.panel_hash,
            input_name=path.name if not one.is_remote else one.address.rsplit("/", 1)[-1],
            input_size=identity.size,
            input_id=hide_address(one.address),
        )
        origin = Origin(path=path, shown_as=one.address, record=record)
        target, owner = self.ledger.folder / entry.target, name_owner(self.ledger.run)
        annotated = retry(
            lambda: annotate_one(origin, target, bundle, self.config, owner=owner, ahead=self.ahead),
            place=one.address,
        )
        details = {
            **annotated.cells.measure(),
            **Tally.count(annotated.cells).to_details(),
            "annotating_seconds": round(annotated.seconds, 3),
        }
        self.ledger.complete(
            one.address, sha256=annotated.record.input_sha256, outputs=annotated.outputs, details=details
        )
        return ScoredFile(
            source=one.address,
            status="annotated",
            outputs=tuple(annotated.outputs),
            details=details,
            seconds=time.monotonic() - started,
            warnings=annotated.cells.warnings,
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
        """Note a file that cannot be annotated; a full disk, or what may pass, is not held against it."""
        if isinstance(error, OutputError) or may_pass(error):
            self.ledger.release(one.address)
        else:
            self.ledger.refuse(one.address, error)
        return ScoredFile(one.address, "failed", seconds=seconds, reason=str(error), error=error)

    @contextlib.contextmanager
    def _fetch(self, one: ScoreInput) -> Iterator[Path]:
        """Give a path on this machine of a file that may be on another one."""
        if not one.is_remote:
            yield Path(one.address)
            return
        prefix = f"{TEMPORARY_PREFIX}{name_owner(self.ledger.run)}"
        with tempfile.TemporaryDirectory(prefix=prefix, dir=self.ledger.folder) as folder:
            path = Path(folder) / one.address.rstrip("/").rsplit("/", 1)[-1].split("?")[0]
            retry(lambda: fetch_remote(one.address, path), place=one.address)
            yield path
