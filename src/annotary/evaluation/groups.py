"""Groups of cells as figures show them: few enough, by size, with short names and safe colours."""

from dataclasses import dataclass

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.colors import to_hex
from matplotlib.legend import Legend

NO_NAME = "none"
"""What cells without a group are shown as."""

_OKABE_ITO = matplotlib.color_sequences["okabe_ito"]
# The yellow is faint on white and the black heavy: both come last.
PALETTE = tuple(to_hex(_OKABE_ITO[index]) for index in (5, 6, 3, 7, 2, 1, 0, 4))
"""Colours that colour-blind readers tell apart (Okabe & Ito 2008)."""

POOLED_COLOUR = "#bfbfbf"


@dataclass(frozen=True)
class Groups:
    """Which group each cell belongs to.

    Attributes
    ----------
    codes
        Number of each cell's group, ``(n_cells,)``.
    names
        Names of the groups, the largest first and the pooled ones last.
    is_pooled
        Whether the last group pools several.
    """

    codes: np.ndarray
    names: tuple[str, ...]
    is_pooled: bool

    @property
    def sizes(self) -> np.ndarray:
        """Cells of each group, ``(n_groups,)``."""
        return np.bincount(self.codes, minlength=len(self.names))


def group_cells(values: np.ndarray | pd.Series, *, most: int) -> Groups:
    """Number groups by size (ties by name), pooling the smallest as ``other`` where there are too many.

    Parameters
    ----------
    values
        Group of each cell, ``(n_cells,)``; a missing one is called ``none``.
    most
        Most groups, the pooled one among them.
    """
    named = pd.Series(np.asarray(values, dtype=object))
    named = named.where(named.notna(), NO_NAME).astype(str)
    sizes = named.value_counts()
    names = sorted(sizes.index, key=lambda name: (-sizes[name], name))
    codes = pd.Index(names).get_indexer(named) if names else np.zeros(0, dtype=np.int64)
    if len(names) <= most:
        return Groups(codes=codes, names=tuple(names), is_pooled=False)
    shown = most - 1
    other = f"other ({len(names) - shown})"
    return Groups(codes=np.minimum(codes, shown), names=(*names[:shown], other), is_pooled=True)


def group_column(table: pd.DataFrame, column: str, *, most: int) -> Groups:
    """Number the groups in a column; without that column all cells are one group."""
    return group_cells(table[column] if column in table else np.full(len(table), "all cells"), most=most)


def sample_groups(groups: Groups, *, most: int) -> list[np.ndarray]:
    """Sample cells, ``most`` at most in all, no group more than its share, and always the same ones.

    Returns
    -------
    Row numbers of each group, ascending.
    """
    rng = np.random.default_rng(0)
    share = most // max(1, len(groups.names))
    rows = [np.flatnonzero(groups.codes == code) for code in range(len(groups.names))]
    return [
        found if len(found) <= share else np.sort(rng.choice(found, share, replace=False)) for found in rows
    ]


def count_cells(n_cells: int) -> str:
    """Write a number of cells."""
    return f"{n_cells:,} cell" if n_cells == 1 else f"{n_cells:,} cells"


def show_names_as_they_are(legend: Legend) -> None:
    """Keep dollar signs in a legend from being read as mathematics."""
    for text in legend.get_texts():
        text.set_parse_math(False)
