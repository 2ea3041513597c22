"""Where files are annotated: in a process of its own, which a file may stall or end, or in this one."""

import functools
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, Self

from annotary.bounded import BoundedProcess
from annotary.bounded_process import describe_unforeseen
from annotary.config import ScoreConfig
from annotary.data.atomic import TEMPORARY_PREFIX
from annotary.data.hashing import hash_source
from annotary.errors import (
    AnnotaryError,
    BundleError,
    CrashError,
    ShortageError,
    StalledError,
    UnforeseenError,
    find_shortage,
)
from annotary.models.bundle import Bundle
from annotary.models.bundle_files import load_bundle
from annotary.pulse import computing
from annotary.scoring.copying import BackgroundCopy, find_begun
from annotary.scoring.drift import Reference
from annotary.scoring.one_file import Annotated, Origin, annotate_one
from annotary.scoring.retry import retry


@dataclass(frozen=True)
class ModelFacts:
    """What a run must know of its model.

    Attributes
    ----------
    kind
        Model family.
    dataset_hash, split_hash, panel_hash
        What it was trained on.
    reference
        What is known of the training cells.
    """

    kind: str
    dataset_hash: str
    split_hash: str
    panel_hash: str
    reference: Reference

    @classmethod
    def of(cls, bundle: Bundle) -> Self:
        """Take what a model tells."""
        return cls(
            kind=bundle.model.kind,
            dataset_hash=bundle.provenance.dataset_hash,
            split_hash=bundle.provenance.split_hash,
            panel_hash=bundle.spec.panel_hash,
            reference=Reference.of(bundle),
        )


class Work(Protocol):
    """Annotates files with one model."""

    def describe_model(self) -> ModelFacts:
        """Open the model, if it is not open, and describe it."""

    def hash(self, path: Path) -> str:
        """Compute the SHA-256 of an input."""

    def annotate(self, origin: Origin, target: Path, *, owner: str) -> Annotated:
        """Annotate a file as :func:`annotary.scoring.one_file.annotate_one` does; try again what may pass.

        Raises
        ------
        AnnotaryError
            Of whatever kind: one that nobody foresaw is an UnforeseenError.
        """


def _introduce_to_nobody(model: ModelFacts) -> None:
    """Tell nobody which model is used."""


class WorkHere:
    """Annotates in this process.

    Parameters
    ----------
    open_bundle
        Gives the model; called when there is a file to annotate.
    config
        Settings.
    ahead
        What may have hashed an input before.
    introduce
        Called once with the model, before it is used.
    """

    def __init__(
        self,
        open_bundle: Callable[[], Bundle],
        config: ScoreConfig,
        ahead: BackgroundCopy | None = None,
        *,
        introduce: Callable[[ModelFacts], None] = _introduce_to_nobody,
    ) -> None:
        self._open_bundle = open_bundle
        self._config = config
        self._ahead = ahead
        self._introduce = introduce
        self._model: tuple[Bundle, ModelFacts] | None = None

    def describe_model(self) -> ModelFacts:
        """Open the model, if it is not open, and describe it."""
        return self._get_model()[1]

    def hash(self, path: Path) -> str:
        """Compute the SHA-256 of an input."""
        return retry(lambda: hash_source(path), place=path)

    def annotate(self, origin: Origin, target: Path, *, owner: str) -> Annotated:
        """Annotate a file."""
        return _annotate(origin, target, self._get_model()[0], self._config, owner=owner, ahead=self._ahead)

    def _get_model(self) -> tuple[Bundle, ModelFacts]:
        """Open the model once."""
        if self._model is None:
            bundle = self._open_bundle()
            self._model = bundle, ModelFacts.of(bundle)
            self._introduce(self._model[1])
        return self._model


class WorkInProcess:
    """Annotates in a process of its own.

    Parameters
    ----------
    process
        The process.
    open_folder
        Gives the folder of the model's files; called when there is a file to annotate.
    config
        Settings.
    terms
        Terms of the labels that replace the model's; None leaves them.
    introduce
        Called once with the model, before it is used.
    """

    def __init__(
        self,
        process: BoundedProcess,
        open_folder: Callable[[], Path],
        config: ScoreConfig,
        terms: Mapping[str, str] | None = None,
        *,
        introduce: Callable[[ModelFacts], None] = _introduce_to_nobody,
    ) -> None:
        self._process = process
        self._open_folder = open_folder
        self._config = config
        self._terms = terms
        self._introduce = introduce
        self._model: ModelFacts | None = None
        self._loaded_by = 0

    def describe_model(self) -> ModelFacts:
        """Open the model there, if it is not open, and describe it.

        Raises
        ------
        BundleError
            If it cannot be loaded, for whatever reason: that is no file's fault.
        """
        if self._model is None:
            self._model = self._load()
            self._introduce(self._model)
        return self._model

    def _load(self) -> ModelFacts:
        """Load the model into the process."""
        self._process.get_ready()
        folder = self._open_folder()
        try:
            facts = self._process.call(_describe_there, folder, place=folder, n_bytes=_measure(folder))
        except (StalledError, CrashError, ShortageError, UnforeseenError) as error:
            raise BundleError(
                folder, expected="to be a model that can be loaded", found=error.found, remedy=error.remedy
            ) from error
        self._loaded_by = self._process.births
        return facts

    def hash(self, path: Path) -> str:
        """Compute the SHA-256 of an input there."""
        return self._process.call(_hash_there, path, place=path, n_bytes=_measure(path))

    def annotate(self, origin: Origin, target: Path, *, owner: str) -> Annotated:
        """Annotate a file there; what a process that stalled or died left half written goes."""
        self._process.get_ready()
        if self._loaded_by != self._process.births:  # the last file ended the process that had the model
            self._load()
        arguments = (origin, target, self._open_folder(), self._terms, self._config, f"{owner}p-")
        place, size = origin.shown_as, _measure(origin.path)
        try:
            return self._process.call(_annotate_there, *arguments, place=place, n_bytes=size)
        finally:
            _remove_left(target.parent, f"{TEMPORARY_PREFIX}{owner}p-")


def _annotate(
    origin: Origin,
    target: Path,
    bundle: Bundle,
    config: ScoreConfig,
    *,
    owner: str,
    ahead: BackgroundCopy | None,
) -> Annotated:
    """Annotate a file; every error says whose fault it is."""
    try:
        return retry(
            lambda: annotate_one(origin, target, bundle, config, owner=owner, ahead=ahead),
            place=origin.shown_as,
        )
    except AnnotaryError as error:
        shortage = find_shortage(error, origin.shown_as)
        if shortage is None:
            raise
        raise shortage from error
    except Exception as error:
        if os.environ.get("ANNOTARY_DEBUG"):
            raise
        found = find_shortage(error, origin.shown_as) or describe_unforeseen(error, origin.shown_as)
        raise found from error


@functools.lru_cache(maxsize=1)
def _load_there(folder: Path) -> Bundle:
    """Load the model once in the life of the process."""
    return load_bundle(folder)


def _describe_there(folder: Path) -> ModelFacts:
    with computing():  # a library's import takes its time
        return ModelFacts.of(_load_there(folder))


def _hash_there(path: Path) -> str:
    return retry(lambda: hash_source(path), place=path)


def _annotate_there(
    origin: Origin,
    target: Path,
    folder: Path,
    terms: Mapping[str, str] | None,
    config: ScoreConfig,
    owner: str,
) -> Annotated:
    """Annotate a file; of its cells, only what is small goes back."""
    bundle = _load_there(folder)
    if terms is not None:
        bundle = replace(bundle, terms=terms)
    annotated = _annotate(origin, target, bundle, config, owner=owner, ahead=find_begun())
    return replace(annotated, cells=None)


def _measure(path: Path) -> int:
    """Measure a file, or all of a folder; 0 where it is not there."""
    try:
        if not path.is_dir():
            return path.stat().st_size
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    except OSError:
        return 0


def _remove_left(folder: Path, prefix: str) -> None:
    """Remove temporary files; a finished task has left none."""
    for path in folder.glob(f"{prefix}*"):
        path.unlink(missing_ok=True)
