"""What scoring runs wrote, kept in MLflow: an annotated file's hashes where its forger cannot reach."""

import contextlib
import json
import time
from collections.abc import Iterator, Mapping
from typing import Any

from annotary.data.damage import UNREADABLE
from annotary.outage import closing_soon
from annotary.scoring.findings import Finding
from annotary.scoring.one_file import Annotated
from annotary.scoring.written import RECORD_HASH, WRITTEN
from annotary.tracking import RunFacts, StageRun, describe_run, iter_artifacts

FOLDER = "written"
MODEL_TAG = "annotary.model"

_MOST_WAITING = 200
_LONGEST_WAIT_SECONDS = 20.0
_SAME_FILE = ("input_id", "input_sha256")


class WrittenLog:
    """Records of the files that a scoring run wrote, sent to MLflow in pieces so that a kill loses few.

    Parameters
    ----------
    run
        The scoring run.
    """

    def __init__(self, run: StageRun) -> None:
        self._run = run
        self._waiting: list[Mapping[str, Any]] = []
        self._n_pieces = 0
        self._sent = time.monotonic()
        self._is_away = False

    def add(self, annotated: Annotated) -> None:
        """Take a file; a store that is away is asked again at the end only."""
        self._waiting.append(annotated.about)
        is_due = len(self._waiting) >= _MOST_WAITING or time.monotonic() - self._sent > _LONGEST_WAIT_SECONDS
        if is_due and not self._is_away:
            self._is_away = not self._run.log_text_if_possible(*self._describe())
            if not self._is_away:
                self._settle()

    def flush(self) -> None:
        """Send what waits."""
        if self._waiting:
            self._run.log_text(*self._describe())
            self._settle()

    def close(self) -> None:
        """Send what waits, if the store takes it now."""
        if self._waiting and not self._is_away:
            with closing_soon():
                self._run.log_text_if_possible(*self._describe())

    def _describe(self) -> tuple[str, str]:
        """Make the next piece, and its name."""
        return json.dumps(self._waiting, sort_keys=True), f"{FOLDER}/{self._n_pieces:05d}.json"

    def _settle(self) -> None:
        """Note that what waited was sent."""
        self._waiting = []
        self._n_pieces += 1
        self._sent = time.monotonic()


@contextlib.contextmanager
def keeping_written(run: StageRun) -> Iterator[WrittenLog]:
    """Give the log of a run; what waits when the block fails is sent if that is possible."""
    log = WrittenLog(run)
    try:
        yield log
    except BaseException:
        log.close()
        raise


def find_written(record: Mapping[str, Any]) -> tuple[Finding, dict[str, Any] | None]:
    """Find what the scoring run that a record names holds of the file.

    Returns
    -------
    What came of the search, and the record that the run holds; None where it holds none.
    """
    run_id, what = _name_run(record)
    if WRITTEN not in record:
        return _leave_open(what, "an older annotary wrote the file, and kept no hashes"), None
    facts = describe_run(run_id) if run_id else None
    if facts is None:
        return _leave_open(what, "the tracking store has no such run"), None
    model = f"models:/{record.get('model_name')}/{record.get('model_version')}"
    if facts.stage != "score" or facts.tags.get(MODEL_TAG) != model:
        is_other = f"a run of {facts.stage or 'something else'} with {facts.tags.get(MODEL_TAG, 'no model')}"
        return Finding(what, False, f"it is {is_other}, no score run of {model}"), None
    return _search(what, record, facts)


def leave_open(record: Mapping[str, Any], why: str) -> Finding:
    """Say why the scoring run that a record names could not be asked."""
    return _leave_open(_name_run(record)[1], why)


def has_run(record: Mapping[str, Any]) -> bool:
    """Tell whether the store has the scoring run that a record names."""
    run_id, _ = _name_run(record)
    return bool(run_id) and describe_run(run_id) is not None


def _name_run(record: Mapping[str, Any]) -> tuple[str, str]:
    """Give the id of the scoring run that a record names, and what it is called."""
    run_id = str(record.get("scoring_run_id", ""))
    return run_id, f"scoring run {run_id or '(none)'}"


def _search(what: str, record: Mapping[str, Any], facts: RunFacts) -> tuple[Finding, dict[str, Any] | None]:
    """Look through what a run holds for the record, or the one that is most like it."""
    best: dict[str, Any] | None = None
    most, n_held = 0, 0
    try:
        for one in _iter_held(facts.run_id):
            n_held += 1
            if one.get(RECORD_HASH) == record.get(RECORD_HASH):
                return Finding(what, True, "it holds the hashes of what it wrote into this file"), one
            if any(one.get(name) == record.get(name) for name in _SAME_FILE):
                n_same = sum(one.get(name) == value for name, value in record.items())
                best, most = (one, n_same) if n_same > most else (best, most)
    except UNREADABLE as error:
        return _leave_open(what, f"what it holds cannot be read ({error})"), None
    if best is not None:
        return Finding(what, True, "it holds the hashes of what it wrote for this input"), best
    if n_held and facts.is_finished:
        return Finding(what, False, f"of the {n_held} files that it wrote, this is none"), None
    return _leave_open(what, "it holds nothing of this file"), None


def _iter_held(run_id: str) -> Iterator[dict[str, Any]]:
    """Read the records that a run holds."""
    for path in iter_artifacts(run_id, FOLDER):
        yield from (one for one in json.loads(path.read_text()) if isinstance(one, dict))


def _leave_open(what: str, why: str) -> Finding:
    """Say that the registry could not be asked."""
    return Finding(what, None, f"not checked against the registry: {why}", is_needed=True)
