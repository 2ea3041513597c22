"""One file from its bytes to its outputs, which appear whole or not at all."""

import contextlib
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from annotary.config import ScoreConfig
from annotary.data.atomic import TEMPORARY_PREFIX, make_folder, replacing
from annotary.data.discovery import ANNOTATED_SUFFIX
from annotary.data.formats import needs_conversion, write_as_h5ad
from annotary.data.hashing import hash_source
from annotary.errors import AnnotaryError
from annotary.models.bundle import Bundle
from annotary.pulse import computing
from annotary.scoring.annotate import AnnotatedCells, annotate_file
from annotary.scoring.copying import BackgroundCopy, refuse_change
from annotary.scoring.identity import identify
from annotary.scoring.keeping import keep_foreign
from annotary.scoring.ontology import add_terms
from annotary.scoring.outputs import add_annotation, describe_table
from annotary.scoring.records import ScoreRecord
from annotary.scoring.survey import Survey
from annotary.scoring.tables import TABLE_SUFFIXES, write_table
from annotary.scoring.tally import Tally
from annotary.scoring.voting import add_votes
from annotary.scoring.written import list_moved, to_plain


@dataclass(frozen=True)
class Origin:
    """An input as a record tells of it.

    Attributes
    ----------
    path
        Where its bytes lie on this machine.
    shown_as
        Its address.
    record
        Its record, but for what is known only when it has been read.
    vouched
        How earlier outputs were left that this one may take the place of, as
        :meth:`annotary.scoring.ledger.Ledger.list_vouched` tells it.
    """

    path: Path
    shown_as: str
    record: ScoreRecord
    vouched: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Annotated:
    """What became of a file.

    Attributes
    ----------
    cells
        The annotation; None where another process has it.
    record
        Where it comes from.
    outputs
        Files that were written.
    moved
        What was there under our names and is not ours, and where it is now.
    details
        Figures of the annotation, as the ledger keeps them.
    warnings
        What a person should know of the input.
    survey
        What is kept of the cells.
    about
        The record as the outputs hold it, in plain values.
    """

    cells: AnnotatedCells | None
    record: ScoreRecord
    outputs: list[Path]
    moved: list[str]
    details: dict[str, Any]
    warnings: tuple[str, ...]
    survey: Survey | None
    about: dict[str, Any] = field(default_factory=dict)


def annotate_one(
    origin: Origin,
    target: Path,
    bundle: Bundle,
    config: ScoreConfig,
    *,
    owner: str,
    ahead: BackgroundCopy | None = None,
) -> Annotated:
    """Annotate a file and write what is asked for.

    Parameters
    ----------
    origin
        The input.
    target
        Path of the outputs, without ending.
    bundle
        The model.
    config
        Settings.
    owner
        Marks temporary files.
    ahead
        What may have hashed the input before.

    Raises
    ------
    InputFileError, CountsError, GeneOverlapError
        If the file cannot be annotated.
    PassingError
        If it changed while it was read.
    OutputError
        If an output cannot be written.
    """
    outputs = name_outputs(target, config)
    about: dict[str, Any] = {}
    kept: list[str] = []
    with contextlib.ExitStack() as stack:  # the h5ad file, entered first, gets its name last
        new_h5ad, new_table = (
            stack.enter_context(_replacing(path, origin, owner=owner, kept=kept)) for path in outputs
        )
        cells, sha256, seconds = _read(
            origin, new_h5ad, bundle, config, folder=target.parent, owner=owner, ahead=ahead
        )
        record = replace(
            origin.record,
            input_sha256=sha256,
            counts_place=cells.place.removeprefix(f"{origin.shown_as}: "),
            time=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        if new_h5ad:
            about = add_annotation(new_h5ad, cells, record, shown_as=origin.shown_as, prefix=config.prefix)
        if new_table:
            about = about or describe_table(cells, record, config.prefix)
            with computing():  # nothing of the input is read
                write_table(new_table, cells, about, kind=config.table_format, prefix=config.prefix)
    moved, written = [*list_moved(about), *kept], [path for path in outputs if path]
    return _collect(cells, record, written, moved, about=to_plain(about), seconds=seconds)


@contextlib.contextmanager
def _replacing(path: Path | None, origin: Origin, *, owner: str, kept: list[str]) -> Iterator[Path | None]:
    """Write an output if it is wanted; what somebody else has in its place is kept and noted."""
    if path is None:
        yield None
        return
    keep = partial(_keep, path, vouched=origin.vouched, kept=kept)
    with replacing(path, owner=owner, before=keep) as new:
        yield new


def _collect(
    cells: AnnotatedCells,
    record: ScoreRecord,
    outputs: list[Path],
    moved: list[str],
    *,
    about: dict[str, Any],
    seconds: float,
) -> Annotated:
    """Put together what became of a file; ``seconds`` are those without writing."""
    return Annotated(
        cells=cells,
        record=record,
        outputs=outputs,
        moved=moved,
        details={
            **cells.measure(),
            **Tally.count(cells).to_details(),
            "annotating_seconds": round(seconds, 3),
        },
        warnings=cells.warnings,
        survey=cells.survey,
        about=about,
    )


def _keep(target: Path, new: Path, *, vouched: frozenset[str], kept: list[str]) -> None:
    """Keep what somebody else has where an output goes, and note where it is then."""
    where = keep_foreign(target, new, vouched=vouched)
    if where:
        kept.append(f"{target} -> {where}")


def name_outputs(target: Path, config: ScoreConfig) -> tuple[Path | None, Path | None]:
    """Name the annotated file and the table that are wanted of a target without ending."""
    h5ad = target.with_name(f"{target.name}{ANNOTATED_SUFFIX}")
    table = target.with_name(f"{target.name}{TABLE_SUFFIXES[config.table_format]}")
    return (None if config.form == "table" else h5ad), (None if config.form == "h5ad" else table)


def _read(
    origin: Origin,
    copy: Path | None,
    bundle: Bundle,
    config: ScoreConfig,
    *,
    folder: Path,
    owner: str,
    ahead: BackgroundCopy | None,
) -> tuple[AnnotatedCells, str, float]:
    """Annotate the input's cells while its bytes are copied and hashed; give SHA-256 and seconds too."""

    def annotate(path: Path) -> AnnotatedCells:
        cells = annotate_file(
            bundle,
            path,
            counts_layer=config.counts_layer,
            depth_key=config.depth_key,
            device=config.device,
            chunk_size=config.chunk_size,
            shown_as=Path(origin.shown_as),
            scratch=folder,
            is_sampled=config.report_umap,
        )
        if config.majority_voting:
            cells = add_votes(cells, bundle, path, config)
        return cells if bundle.terms is None else add_terms(cells, bundle.terms)

    if needs_conversion(origin.path):
        with _open_copy(copy, folder, owner) as converted:
            before = identify(origin.path)
            write_as_h5ad(origin.path, converted, shown_as=origin.shown_as)
            sha256 = (ahead.take_hash(origin.path, before) if ahead else "") or hash_source(origin.path)
            refuse_change(origin.path, before)
            started = time.monotonic()
            return annotate(converted), sha256, time.monotonic() - started
    started = time.monotonic()
    copying = BackgroundCopy(origin.path, copy, ahead=ahead)
    try:
        cells = annotate(origin.path)
    except AnnotaryError:
        copying.stop()
        copying.refuse_change()  # what looks damaged may be half of a new file
        raise
    except BaseException:
        copying.stop()
        raise
    seconds = time.monotonic() - started
    return cells, copying.finish(), seconds


@contextlib.contextmanager
def _open_copy(copy: Path | None, folder: Path, owner: str) -> Iterator[Path]:
    """Give the copy that becomes the output, or else one that goes when the block ends."""
    if copy:
        yield copy
        return
    with tempfile.NamedTemporaryFile(
        dir=make_folder(folder), prefix=f"{TEMPORARY_PREFIX}{owner}", suffix=".h5ad"
    ) as file:
        yield Path(file.name)
