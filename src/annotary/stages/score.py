"""score: annotate new files with the champion, each once."""

import contextlib
import functools
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from annotary import __version__
from annotary.bounded import BoundedProcess
from annotary.config import ScoreConfig
from annotary.data.atomic import make_folder
from annotary.data.ontology import read_terms
from annotary.errors import StoreError
from annotary.log import say, warn
from annotary.models.bundle import Bundle
from annotary.promotions import note_outside_move_if_possible, recall_head
from annotary.registry import RegisteredVersion, resolve_alias
from annotary.scoring.batch import Batch, ScoredFile
from annotary.scoring.copying import BackgroundCopy, hashing_ahead
from annotary.scoring.discovery import ScoreInput, Search, find_inputs
from annotary.scoring.drift import measure_drift
from annotary.scoring.ledger import Ledger
from annotary.scoring.ledger_file import open_database
from annotary.scoring.outcome import BatchError, Outcome, make_key
from annotary.scoring.quarantine import move_aside
from annotary.scoring.records import ScoreRecord
from annotary.scoring.recovery import rebuild, recover
from annotary.scoring.survey import Survey
from annotary.scoring.work import ModelFacts, Work, WorkHere, WorkInProcess
from annotary.stages.score_process import open_worker
from annotary.stages.score_record import record_outcome, tell
from annotary.stages.shadow import score_shadow
from annotary.stages.written_log import WrittenLog, keeping_written
from annotary.tracking import StageRun, stage_run
from annotary.version_check import fetch_checked, load_version
from annotary.version_files import BUNDLE

__all__ = ["BatchError", "score"]


def score(config: ScoreConfig, *, process: BoundedProcess | None = None) -> Outcome:
    """Resolve the alias once, then annotate every input that was not annotated with this version before.

    A file that cannot be annotated does not stop the others.

    Parameters
    ----------
    config
        Settings.
    process
        The process that reads the files, where it was begun before; None begins one, unless
        ``read_timeout`` is 0: then this one reads them.

    Raises
    ------
    BatchError
        If there are such files; it carries the outcome.
    """
    outcome = None
    try:
        with contextlib.ExitStack() as stack:
            process = process or stack.enter_context(open_worker(config))
            ahead = None if process else stack.enter_context(hashing_ahead(Path(config.input)))
            run = stack.enter_context(stage_run("score", config))
            log = stack.enter_context(keeping_written(run))
            outcome = _score(config, run, process, ahead, log)
            log.flush()
            record_outcome(run, outcome)
            if config.shadow:
                score_shadow(config, outcome, run)
            outcome.raise_failures(config.input)
    except StoreError as error:
        if outcome is None:
            raise
        warn(f"what was done is not in MLflow: {error}")
        outcome.raise_failures(config.input)
        outcome = replace(outcome, is_recorded=False)
    return outcome


def _score(
    config: ScoreConfig,
    run: StageRun,
    process: BoundedProcess | None,
    ahead: BackgroundCopy | None,
    log: WrittenLog,
) -> Outcome:
    """Find the inputs, score them, and compare their cells with the training cells."""
    version = resolve_alias(config.model_name, config.alias)
    note_outside_move_if_possible(config.model_name)
    run.set_tags({"annotary.model": version.uri})
    inputs = _find(config)
    terms = read_terms(Path(config.ontology)) if config.ontology else None
    work = _make_work(version, config, terms, process, ahead)
    files, survey = _score_files(inputs, version, config, run, work, log)
    outcome = Outcome(
        model=version.uri,
        run_id=run.run_id,
        files=files,
        fails_on_drift=config.fail_on_drift,
        survey=survey,
    )
    if outcome.tally is None or survey is None:
        return outcome
    found = [one.details["n_panel_genes_found"] for one in outcome.files if one.status == "annotated"]
    reference = work.describe_model().reference
    overlap = min(found) / len(reference.panel)
    drift = measure_drift(outcome.tally, survey, reference, overlap=overlap)
    return replace(outcome, reference=reference, drift=drift)


def _find(config: ScoreConfig) -> list[ScoreInput]:
    """Find the inputs, and tell where there are none."""
    own = frozenset(Path(os.path.realpath(name)) for name in (config.output, config.quarantine) if name)
    found = find_inputs(config.input, Search(recursive=config.recursive, skipped=own))
    for place in found.empty:
        warn(f"{place}: no file to annotate")
    return found.inputs


def _score_files(
    inputs: list[ScoreInput],
    version: RegisteredVersion,
    config: ScoreConfig,
    run: StageRun,
    work: Work,
    log: WrittenLog,
) -> tuple[list[ScoredFile], Survey | None]:
    """Score what the ledger does not know yet; give what is kept of the cells too."""
    folder = make_folder(Path(config.output).absolute())
    key = make_key((version.name, version.number, version.run_id), config)
    with open_database(folder) as (database, is_new):
        ledger = Ledger(folder, key, database, prefix=config.prefix)
        if is_new and (n_found := rebuild(ledger)):
            say(f"{folder}: a new ledger, with {n_found} files that were annotated before")
        with ledger.working():
            recover(ledger)
            batch = Batch(
                ledger=ledger,
                config=config,
                record=_begin_record(version, config, run, ledger),
                work=work,
            )
            scored: list[ScoredFile] = []
            survey: Survey | None = None
            for one in batch.score(inputs):
                tell(one)
                if one.annotated:
                    log.add(one.annotated)
                if config.quarantine and one.is_bad:
                    move_aside(one, Path(config.quarantine))
                if one.annotated and one.annotated.survey:
                    found = one.annotated.survey
                    survey = survey.join(found) if survey else found
                scored.append(replace(one, annotated=None))  # cells of all files would not fit into memory
    return scored, survey


def _make_work(
    version: RegisteredVersion,
    config: ScoreConfig,
    terms: Mapping[str, str] | None,
    process: BoundedProcess | None,
    ahead: BackgroundCopy | None,
) -> Work:
    """Say where files are annotated; labels get other terms than the model's where some are given."""

    @functools.cache
    def open_bundle() -> Bundle:
        bundle = load_version(version)
        return bundle if terms is None else replace(bundle, terms=terms)

    @functools.cache
    def open_folder() -> Path:
        return fetch_checked(version) / BUNDLE

    def introduce(model: ModelFacts) -> None:
        say(f"{version.name} version {version.number} ({model.kind}), alias {config.alias}")

    if process is None:
        return WorkHere(open_bundle, config, ahead, introduce=introduce)
    return WorkInProcess(process, open_folder, config, terms, introduce=introduce)


def _begin_record(
    version: RegisteredVersion, config: ScoreConfig, run: StageRun, ledger: Ledger
) -> ScoreRecord:
    """Write down where the annotations of this run come from, but for what differs between files."""
    return ScoreRecord(
        model_name=version.name,
        model_version=version.number,
        alias=config.alias,
        run_id=version.run_id,
        scoring_run_id=run.run_id,
        dataset_hash="",
        split_hash="",
        panel_hash="",
        input_name="",
        input_sha256="",
        input_size=-1,
        input_id="",
        counts_place="",
        ledger_key=ledger.key,
        ledger_run=ledger.run,
        package_version=__version__,
        time="",
        ledger_head=recall_head(run.run_id),
    )
