"""A run of scoring on one page: files, labels, confidence, and how far they are from the training cells."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from annotary.evaluation.pages import render_page

_TEMPLATE = "scoring.html"
_MOST_FILES = 500


class Comparison(Protocol):
    """A figure of drift with its limits and its level."""

    @property
    def title(self) -> str:
        """What was compared, for people."""

    @property
    def value(self) -> float | None:
        """The figure; None where there was nothing to compare with."""

    @property
    def warn(self) -> float:
        """From where on it is worth a warning."""

    @property
    def alert(self) -> float:
        """From where on it is worth an alert."""

    @property
    def level(self) -> str:
        """How bad it is."""


@dataclass(frozen=True)
class LabelRow:
    """A label: cells that got it, their share, and its share of the training cells (None for unknown)."""

    name: str
    n_cells: int
    share: float
    expected: float | None


@dataclass(frozen=True)
class FlagRow:
    """Cells that a person should look at: what they have in common, how many, their share of all."""

    name: str
    n_cells: int
    share: float


@dataclass(frozen=True)
class FileRow:
    """A file: address, status, cells, mean confidence (None without), seconds, what to know of it."""

    source: str
    status: str
    n_cells: int
    mean_confidence: float | None
    seconds: float
    reason: str


@dataclass(frozen=True)
class GeneRow:
    """A gene: the share of the training cells, and of the cells, that express it."""

    name: str
    in_training: float
    found: float


def make_scoring_report(
    title: str,
    facts: dict[str, str],
    *,
    labels: Sequence[LabelRow],
    flags: Sequence[FlagRow],
    confidence: Sequence[int],
    drift: Sequence[Comparison],
    files: Sequence[FileRow],
    notes: list[str],
    held_out: Sequence[int] = (),
    genes: Sequence[GeneRow] = (),
    umap: bytes | None = None,
) -> str:
    """Write a run's report as one HTML page that needs no other file.

    Parameters
    ----------
    title
        Heading of the page.
    facts
        Version, run, settings.
    labels
        Labels of all cells that were annotated; empty where none were.
    flags
        Cells to look at.
    confidence
        Cells in each bin of confidence, from 0 to 1.
    drift
        Comparison with the training cells.
    files
        What became of each file; the first 500 are shown, failures before the others.
    notes
        Warnings; empty if there is nothing to warn of.
    held_out
        Known cells that the model was not fitted to, in the same bins; empty where it does not tell.
    genes
        Genes that are found otherwise than in the training cells.
    umap
        Picture of a sample of the cells, PNG.

    Returns
    -------
    HTML; every text is escaped, and the page runs no script and loads nothing.
    """
    ordered = sorted(files, key=lambda one: one.status != "failed")
    return render_page(
        _TEMPLATE,
        title=title,
        facts=facts,
        pictures={"UMAP of a sample of the cells": umap} if umap else {},
        notes=notes,
        labels=labels,
        flags=flags,
        histograms=_make_histograms(confidence, held_out),
        genes=genes,
        drift=drift,
        files=ordered[:_MOST_FILES],
        n_more=max(len(files) - _MOST_FILES, 0),
    )


def _make_histograms(confidence: Sequence[int], held_out: Sequence[int]) -> dict[str, list[float]]:
    """Give what there is to show of confidence a caption, and bars from 0 to 1."""
    counts = {
        f"These {sum(confidence):,} cells": confidence,
        f"{sum(held_out):,} known cells that the model was not fitted to": held_out,
    }
    return {caption: _scale(bins) for caption, bins in counts.items() if len(bins)}


def _scale(counts: Sequence[int]) -> list[float]:
    """Scale bars to the largest, 0 to 1."""
    largest = max(counts) or 1
    return [count / largest for count in counts]
