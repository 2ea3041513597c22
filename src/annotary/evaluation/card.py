"""A model card: what a version was made from, how good it is, against what, and where it ends.

After Mitchell et al. 2019, *Model Cards for Model Reporting* (FAT*).
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from annotary.evaluation.bootstrap import find_interval, resample
from annotary.evaluation.gate import Comparison
from annotary.evaluation.metrics import HEADLINE, Evaluation
from annotary.evaluation.pages import render_markdown, render_page

LONGEST_DESCRIPTION = 4900
"""MLflow's column for a version's description has 5,000 characters: SQLite takes more, PostgreSQL not."""

_PAGE = "card.html"
_TEXT = "card.md"
_FIGURES = {
    HEADLINE: "Macro-F1",
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "ece": "Expected calibration error",
    "log_loss": "Log loss",
    "cells_per_second": "Cells a second",
    "bundle_mb": "Size, MB",
}
_FEW_CELLS = 30
_CUT = "\nCut here: the rest is in the whole card.\n"


@dataclass(frozen=True)
class Figure:
    """A figure with its 95 % interval.

    Attributes
    ----------
    name
        What it is.
    value
        The figure.
    low, high
        Its interval by the stratified bootstrap; None where chance of the test cells has no say.
    """

    name: str
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class LabelFigures:
    """How well one label is found.

    Attributes
    ----------
    name
        The label.
    support
        Test cells.
    f1
        F1 with its interval.
    precision, recall
        0 to 1.
    """

    name: str
    support: int
    f1: Figure
    precision: float
    recall: float


@dataclass(frozen=True)
class Rival:
    """Another version on the same test cells.

    Attributes
    ----------
    name
        Kind, version and part, such as champion.
    comparison
        This version as challenger, the other as champion.
    """

    name: str
    comparison: Comparison


@dataclass(frozen=True)
class ModelCard:
    """What a card says.

    Attributes
    ----------
    title
        Registered model, version and kind.
    data
        Where cells and labels come from, and their licence.
    figures
        Figures on the test cells.
    labels
        The same for each label.
    rivals
        What the version was compared with.
    limits
        Where it ends, in sentences.
    facts
        Hashes, run, settings.
    address
        Where the card's page is: a link for MLflow's UI.
    """

    title: str
    data: dict[str, str]
    figures: list[Figure]
    labels: list[LabelFigures]
    rivals: list[Rival]
    limits: list[str]
    facts: dict[str, str]
    address: str


def measure_figures(
    codes: np.ndarray, calls: np.ndarray, evaluation: Evaluation, *, n_draws: int, rng: np.random.Generator
) -> tuple[list[Figure], list[LabelFigures]]:
    """Give the figures of an evaluation their intervals.

    Parameters
    ----------
    codes, calls
        True and called labels, ``(n_cells,)``, positions in the evaluation's tables.
    evaluation
        The figures.
    n_draws
        Draws of the bootstrap.
    rng
        Source of chance.

    Returns
    -------
    Figures over all labels, and those of each label that is true or called in some cell.
    """
    n_classes = len(evaluation.per_class)
    drawn = resample(codes, calls[np.newaxis], n_classes=n_classes, n_draws=n_draws, rng=rng)
    intervals = {
        HEADLINE: find_interval(drawn.macro_f1[0]),
        "accuracy": find_interval(drawn.accuracy[0]),
        "balanced_accuracy": find_interval(drawn.balanced_accuracy[0]),
    }
    figures = [
        Figure(title, evaluation.metrics[name], *map(float, intervals.get(name, ())))
        for name, title in _FIGURES.items()
        if name in evaluation.metrics
    ]
    low, high = find_interval(drawn.f1[0])
    labels = [
        LabelFigures(
            name=str(name),
            support=int(row["support"]),
            f1=Figure("F1", float(row["f1"]), float(low[code]), float(high[code])),
            precision=float(row["precision"]),
            recall=float(row["recall"]),
        )
        for code, (name, row) in enumerate(evaluation.per_class.iterrows())
        if drawn.counts_in_macro[0, code]
    ]
    return figures, labels


def list_limits(per_class: pd.DataFrame, *, split: str, min_overlap: float, leaky: bool) -> list[str]:
    """Say where a model ends, by what is known of it.

    Parameters
    ----------
    per_class
        ``support`` of each label among the test cells, ``(n_classes, ...)``.
    split
        How cells were put on their sides: stratified, group or cluster.
    min_overlap
        Share of the model's genes that a file must have.
    leaky
        Whether test cells had a say in the panel.
    """
    limits = [
        "It knows the labels below and no others: a cell of another type gets the most similar one.",
        f"It takes raw counts; a file with fewer than {min_overlap:.0%} of its genes is refused.",
    ]
    if split != "group":
        limits.append(
            "Test cells come from the same samples as training cells: on other donors, chemistries or "
            "laboratories expect less."
        )
    few = [str(name) for name in per_class.index[per_class["support"] < _FEW_CELLS]]
    if few:
        limits.append(f"Fewer than {_FEW_CELLS} test cells stand behind the figures of {', '.join(few)}.")
    if leaky:
        limits.append("The gene panel was chosen on test cells too: all figures are too good.")
    return limits


def to_html(card: ModelCard, confusion: bytes) -> str:
    """Write a card as one HTML page, with the confusion matrix as PNG."""
    return render_page(
        _PAGE,
        title=card.title,
        facts=card.facts,
        pictures={"Share of each true label's test cells by predicted label": confusion},
        notes=card.limits,
        notes_title="Limits",
        card=card,
    )


def to_markdown(card: ModelCard) -> str:
    """Write a card as the Markdown of a version's description.

    Where it would be too long, the last labels are left out, then the last rivals, and what is still too long
    ends after a whole line; it says so, and where the whole is.
    """
    n_labels, n_rivals = len(card.labels), len(card.rivals)
    while True:
        text = render_markdown(_TEXT, card=card, n_labels=n_labels, n_rivals=n_rivals)
        if len(text) <= LONGEST_DESCRIPTION:
            return text
        if n_labels:
            n_labels -= 1
        elif n_rivals:
            n_rivals -= 1
        else:
            return text[: text.rindex("\n", 0, LONGEST_DESCRIPTION - len(_CUT)) + 1] + _CUT
