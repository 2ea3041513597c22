"""Which of a file's matrices holds its raw counts most completely: figures only, no files."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix

from annotary.data.diagnosis import find_common_sum

MUCH_FEWER = 0.9
"""A matrix with less than this share of what another one holds (cells with counts, values) lacks some."""

_LEAST_VALUES = 20
"""Values that must all be 1 before a matrix is said to tell only whether a gene is expressed."""


@dataclass(frozen=True)
class PlaceFigures:
    """What is known of one matrix of counts.

    Attributes
    ----------
    name
        Its name in the file, such as ``.raw``.
    n_genes
        Its genes.
    n_stored
        Stored values of the whole matrix; None where zeros are stored too.
    largest
        Largest count that was looked at.
    rows
        Counts of the cells that were looked at, ``(n_probed, n_genes)``; the same cells in every place.
        None where a matrix is stored by gene, whose rows cost a pass over all of it.
    is_whole
        Whether these are all cells.
    """

    name: str
    n_genes: int
    n_stored: int | None
    largest: float
    rows: csr_matrix | None
    is_whole: bool = False

    @property
    def is_empty(self) -> bool:
        """Whether no count was found."""
        return self.largest <= 0

    @property
    def is_surely_empty(self) -> bool:
        """Whether the whole matrix holds no count."""
        return self.is_empty and (self.is_whole or self.n_stored == 0)

    @property
    def is_binary(self) -> bool:
        """Whether there are many values, and all are 0 or 1."""
        n_values = self.n_stored if self.rows is None else self.rows.nnz
        return self.largest == 1 and (n_values or 0) >= _LEAST_VALUES

    @property
    def common_sum(self) -> float | None:
        """Sum that all cells looked at have; None where they differ, or were not looked at."""
        return None if self.rows is None else find_common_sum(self.rows)

    @property
    def has_counts(self) -> np.ndarray | None:
        """Which cells looked at have counts, ``(n_probed,)``."""
        return None if self.rows is None else np.asarray(self.rows.sum(axis=1)).ravel() > 0


def _find_emptiness(one: PlaceFigures, other: PlaceFigures) -> str:
    if one.is_empty and not other.is_empty:
        return "it holds no count above 0"
    return ""


def _find_detection(one: PlaceFigures, other: PlaceFigures) -> str:
    if one.largest <= 1 < other.largest and not one.is_empty:
        return f"it holds only 0 and 1, where {other.name} has counts up to {other.largest:.0f}"
    return ""


def _find_scaling(one: PlaceFigures, other: PlaceFigures) -> str:
    if one.common_sum is None or other.rows is None or other.common_sum is not None:
        return ""
    total = f"{one.common_sum:,.0f}"
    return f"its cells all add up to {total}, as normalised values do, those of {other.name} do not"


def _find_missing_cells(one: PlaceFigures, other: PlaceFigures) -> str:
    if one.has_counts is None or other.has_counts is None:
        return ""
    n_one, n_other = int(one.has_counts.sum()), int(other.has_counts.sum())
    if n_one >= MUCH_FEWER * n_other:
        return ""
    return (
        f"{n_one} of the {len(one.has_counts)} cells looked at have counts in it, {n_other} in {other.name}"
    )


def _find_missing_genes(one: PlaceFigures, other: PlaceFigures) -> str:
    if one.n_genes >= other.n_genes:
        return ""
    return f"it has {one.n_genes:,} genes, {other.name} has {other.n_genes:,}"


def _find_missing_values(one: PlaceFigures, other: PlaceFigures) -> str:
    if one.n_stored is not None and other.n_stored is not None:
        n_one, n_other, where = one.n_stored, other.n_stored, "in the file"
    elif one.rows is not None and other.rows is not None:
        n_one, n_other, where = one.rows.nnz, other.rows.nnz, "in the cells looked at"
    else:
        return ""
    if n_one >= MUCH_FEWER * n_other:
        return ""
    return f"it holds {n_one:,} values {where}, {other.name} holds {n_other:,}"


_SERIOUS: list[Callable[[PlaceFigures, PlaceFigures], str]] = [
    _find_emptiness,
    _find_detection,
    _find_scaling,
    _find_missing_cells,
]
_FLAWS = [*_SERIOUS, _find_missing_genes, _find_missing_values]
"""What one matrix may lack that another has, the worst first."""


def find_flaw(one: PlaceFigures, other: PlaceFigures, *, is_serious: bool = False) -> str:
    """Say what a matrix lacks that another one has.

    Parameters
    ----------
    one, other
        The two; of a flaw that each has beside the other, nothing follows.
    is_serious
        Whether only flaws are looked for that make values no raw counts.

    Returns
    -------
    The worst flaw for people; empty where there is none, or the other one has a worse.
    """
    for find in _SERIOUS if is_serious else _FLAWS:
        flaw, other_flaw = find(one, other), find(other, one)
        if bool(flaw) != bool(other_flaw):
            return flaw
    return ""


def choose_most_complete(figures: list[PlaceFigures]) -> tuple[int, list[str]]:
    """Choose the matrix with the most complete raw counts; the first one where none is better.

    Returns
    -------
    Its position, and why those before it were passed over or how others differ, for people.
    """
    best, notes = 0, []
    for position, one in enumerate(figures[1:], start=1):
        flaw = find_flaw(figures[best], one)
        if flaw:
            notes.append(f"counts are taken from {one.name}, not from {figures[best].name}: {flaw}")
            best = position
    for position, one in enumerate(figures):
        if position != best and not find_flaw(one, figures[best]):
            difference = _describe_difference(figures[best], one)
            notes += [difference] if difference else []
    return best, notes


def _describe_difference(taken: PlaceFigures, other: PlaceFigures) -> str:
    """Say how the counts of two places that both seem whole differ; empty where they do not."""
    if taken.rows is None or other.rows is None:
        return ""
    sums = [
        np.asarray(one.rows.sum(axis=1, dtype=np.float64)).ravel()
        for one in (taken, other)
        if one.rows is not None
    ]
    is_other = sums[0] != sums[1]
    if taken.rows.shape == other.rows.shape:
        is_other = is_other | (np.diff((taken.rows != other.rows).tocsr().indptr) > 0)
    if not is_other.any():
        return ""
    return (
        f"{taken.name} and {other.name} hold different counts in {is_other.sum()} of the {len(is_other)} "
        f"cells looked at ({sums[0].sum():,.0f} and {sums[1].sum():,.0f} in all): those of {taken.name} "
        "are taken"
    )


def list_doubts(taken: PlaceFigures) -> list[str]:
    """List what makes a matrix doubtful that no other one can replace, for people."""
    doubts = []
    if taken.is_empty:
        doubts.append("holds no count in the cells looked at")
    if taken.is_binary:
        doubts.append(
            "holds only 0 and 1 in the cells looked at: whether a gene is expressed (or a peak open), not "
            "how strongly; labels by a model of counts are not to be relied on"
        )
    if taken.common_sum is not None and not taken.is_binary:
        doubts.append(
            f"has cells that all add up to {taken.common_sum:,.0f}: normalised and rounded, it seems, or "
            "thinned to one depth, and not the raw counts"
        )
    return doubts
