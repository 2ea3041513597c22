"""Labels that are spelt in several ways: they look alike, and would be classes of their own."""

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import pandas as pd

from annotary.errors import LabelError, list_some

SimilarLabels = Literal["warn", "merge", "refuse"]

_MOST_NAMED = 5
_SELECTORS = range(0xFE00, 0xFE10)
_INVISIBLE = frozenset([0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2800, 0x3164, 0xFFA0, *_SELECTORS])
"""Signs without a picture that Unicode does not call controls or formats."""


@dataclass(frozen=True)
class Spelling:
    """One of several ways in which a label is spelt.

    Attributes
    ----------
    label
        As it stands.
    n_cells
        Cells that have it.
    """

    label: str
    n_cells: int


def find_spellings(labels: pd.Series) -> list[tuple[Spelling, ...]]:
    """Find labels that differ only by invisible characters, normal form, case or spaces.

    Parameters
    ----------
    labels
        Label of each cell, ``(n_cells,)``; None where it has none.

    Returns
    -------
    The spellings of each such label, the most frequent first, and the alphabetically first of equals.
    """
    sizes = labels.value_counts()
    spellings: dict[str, list[Spelling]] = {}
    for label, size in sizes.items():
        spellings.setdefault(_reduce(str(label)), []).append(Spelling(str(label), int(size)))
    return [
        tuple(sorted(group, key=lambda one: (-one.n_cells, one.label)))
        for _, group in sorted(spellings.items())
        if len(group) > 1
    ]


def settle_spellings(labels: pd.Series, *, choice: SimilarLabels, place: str) -> tuple[pd.Series, list[str]]:
    """Leave, merge or refuse labels that differ only by how they are spelt.

    Parameters
    ----------
    labels
        Label of each cell, ``(n_cells,)``; None where it has none.
    choice
        ``warn`` leaves them, ``merge`` gives all of them the most frequent spelling.
    place
        File and element, for messages.

    Returns
    -------
    Labels, and what a person should know: one note for each label that is spelt in several ways.

    Raises
    ------
    LabelError
        If there are such labels and they are to be refused.
    """
    groups = find_spellings(labels)
    if not groups:
        return labels, []
    told = [_describe(group) for group in groups]
    if choice == "refuse":
        raise LabelError(
            place,
            expected="each label spelt in one way",
            found=list_some(told, most=_MOST_NAMED, separator="; "),
            remedy="Correct them, or pass --similar-labels merge.",
        )
    if choice == "warn":
        remedy = "they stay classes of their own (--similar-labels merge makes them one)"
        return labels, [f"{place}: {text}: {remedy}." for text in told]
    names = {one.label: group[0].label for group in groups for one in group[1:]}
    merged = labels.map(lambda label: names.get(label, label), na_action="ignore")
    notes = [
        f"{place}: {text}: merged into {group[0].label!a}." for text, group in zip(told, groups, strict=True)
    ]
    return merged, notes


def _describe(group: tuple[Spelling, ...]) -> str:
    """Name the spellings with their cells, and what they differ by."""
    spellings = ", ".join(f"{one.label!a} ({one.n_cells:,} cells)" for one in group)
    return f"labels that look alike, {spellings}, differ only by {_name_difference(group)}"


def _remove_invisible(label: str) -> str:
    """Remove signs without a picture; line ends and tabs are spaces."""
    return "".join(
        sign
        for sign in label
        if sign.isspace() or (unicodedata.category(sign) not in ("Cf", "Cc") and ord(sign) not in _INVISIBLE)
    )


def _unify_form(label: str) -> str:
    """Bring to Unicode's compatible normal form."""
    return unicodedata.normalize("NFKC", label)


def _remove_spaces(label: str) -> str:
    """Remove all spaces, no-break ones too."""
    return "".join(label.split())


_STEPS: dict[str, Callable[[str], str]] = {
    "invisible characters": _remove_invisible,
    "spaces": _remove_spaces,
    "Unicode's normal form": _unify_form,
    "case": str.casefold,
}


def _reduce(label: str) -> str:
    """Reduce a label to what all its spellings have in common."""
    for step in (*_STEPS.values(), _unify_form, _remove_spaces):
        label = step(label)
    return label


def _name_difference(group: tuple[Spelling, ...]) -> str:
    """Name what spellings differ by: the fewest steps that make all of them the same."""
    for n_steps in range(1, len(_STEPS) + 1):
        for names in combinations(_STEPS, n_steps):
            seen = {one.label for one in group}
            for name in names:
                seen = {_STEPS[name](label) for label in seen}
            if len(seen) == 1:
                return " and ".join(names)
    return "how they are written"
