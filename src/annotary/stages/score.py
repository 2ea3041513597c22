"""score: annotate new files with the champion."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd

from annotary import __version__
from annotary.config import ScoreConfig
from annotary.data.atomic import make_folder
from annotary.data.hashing import hash_file
from annotary.errors import AnnotaryError, InputFileError
from annotary.log import say, warn
from annotary.models.bundle import Bundle
from annotary.promotions import note_outside_move_if_possible
from annotary.registry import RegisteredVersion, load, resolve_alias
from annotary.scoring.annotate import AnnotatedCells, annotate_file
from annotary.scoring.discovery import find_inputs
from annotary.scoring.outputs import ScoreRecord, name_output, write_annotated
from annotary.tracking import StageRun, stage_run


@dataclass(frozen=True)
class ScoredFile:
    """One annotated file.

    Attributes
    ----------
    source, target
        Input and annotated file.
    n_cells
        Cells in both.
    mean_confidence
        Mean probability of the given labels, 0 to 1.
    seconds
        Time that it took.
    """

    source: Path
    target: Path
    n_cells: int
    mean_confidence: float
    seconds: float


def score(config: ScoreConfig) -> list[ScoredFile]:
    """Resolve the alias once, then annotate one file or every h5ad file of a folder.

    A file of a folder that cannot be annotated does not stop the others; the
    stage ends with an error that lists such files.
    """
    with stage_run("score", config) as run:
        version = resolve_alias(config.model_name, config.alias)
        note_outside_move_if_possible(config.model_name)
        inputs = find_inputs(config.input)
        output = make_folder(Path(config.output))
        bundle = load(version.uri)
        say(f"{version.name} version {version.number} ({bundle.model.kind}), alias {config.alias}")
        run.set_tags({"annotary.model": version.uri})
        scored: list[ScoredFile] = []
        refused: list[AnnotaryError] = []
        for path in inputs:
            try:
                scored.append(_score_file(path, output, bundle, version, config, run))
            except AnnotaryError as error:
                if inputs == [Path(config.input)]:
                    raise
                warn(str(error))
                refused.append(error)
        _record(run, scored, refused)
        if refused:
            raise InputFileError(
                config.input,
                expected="files that can all be annotated",
                found=f"{len(refused)} of {len(inputs)} that cannot (named above), "
                f"such as {refused[0].place}",
                remedy=f"The other {len(scored)} were annotated.",
            )
        return scored


def _score_file(
    path: Path,
    output: Path,
    bundle: Bundle,
    version: RegisteredVersion,
    config: ScoreConfig,
    run: StageRun,
) -> ScoredFile:
    """Annotate one file."""
    started = time.monotonic()
    cells = annotate_file(
        bundle,
        path,
        counts_layer=config.counts_layer,
        depth_key=config.depth_key,
        device=config.device,
        chunk_size=config.chunk_size,
    )
    target = name_output(path, output)
    record = _make_record(path, cells, bundle, version, config, run)
    for moved in write_annotated(path, target, cells, record):
        warn(f"{path}: kept what was there: {moved}")
    for message in cells.warnings:
        warn(message)
    n_low = int(cells.annotation.low_information.sum())
    if n_low:
        warn(
            f"{path}: {n_low} of {len(cells.cell_ids)} cells express fewer panel genes than any training cell"
        )
    say(f"annotated {len(cells.cell_ids)} cells: {target}")
    return ScoredFile(
        source=path,
        target=target,
        n_cells=len(cells.cell_ids),
        mean_confidence=float(np.mean(cells.annotation.confidence)),
        seconds=time.monotonic() - started,
    )


def _make_record(
    path: Path,
    cells: AnnotatedCells,
    bundle: Bundle,
    version: RegisteredVersion,
    config: ScoreConfig,
    run: StageRun,
) -> ScoreRecord:
    """Write down where the annotation comes from."""
    return ScoreRecord(
        model_name=version.name,
        model_version=version.number,
        alias=config.alias,
        run_id=version.run_id,
        scoring_run_id=run.run_id,
        dataset_hash=bundle.provenance.dataset_hash,
        split_hash=bundle.provenance.split_hash,
        panel_hash=bundle.spec.panel_hash,
        input_name=path.name,
        input_sha256=hash_file(path),
        counts_place=cells.place.removeprefix(f"{path}: "),
        package_version=__version__,
        time=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _record(run: StageRun, scored: list[ScoredFile], refused: list[AnnotaryError]) -> None:
    """Log what was annotated and what was refused."""
    n_cells = sum(one.n_cells for one in scored)
    seconds = sum(one.seconds for one in scored)
    run.log_metrics(
        {
            "files_annotated": float(len(scored)),
            "files_refused": float(len(refused)),
            "cells_annotated": float(n_cells),
            "cells_per_second": n_cells / seconds if seconds else 0.0,
        }
    )
    run.log_table(pd.DataFrame([vars(one) for one in scored]), "annotated", index=False)
    if refused:
        run.log_table(pd.DataFrame({"refused": [str(error) for error in refused]}), "refused", index=False)
