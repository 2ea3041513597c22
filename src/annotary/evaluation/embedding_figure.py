"""A figure of cells in the plane, by what they are and where they come from."""

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from annotary.evaluation.groups import (
    PALETTE,
    POOLED_COLOUR,
    Groups,
    group_cells,
    show_names_as_they_are,
)
from annotary.evaluation.names import shorten

_MOST_GROUPS = 40
_MARKERS = "os^Dv"
_LEGEND_ROWS = 20
_LEAST_GAP = 0.035
_PLANE_INCHES = 5.0
_LEGEND_INCHES = 2.7


def draw_embedding(positions: np.ndarray, groups: dict[str, np.ndarray]) -> Figure:
    """Draw cells in the plane, once for each way to group them, one below the other.

    Groups differ in colour, and beyond 8 in marker and by a number as well. Of
    more than 40 the 39 largest are shown, and the others as one.

    Parameters
    ----------
    positions
        Places of the cells, ``(n_cells, 2)``.
    groups
        Title, and the group of each cell, ``(n_cells,)``.
    """
    panels = {title: group_cells(values, most=_MOST_GROUPS) for title, values in groups.items()}
    width = _PLANE_INCHES + _LEGEND_INCHES * max(map(_count_columns, panels.values()))
    figure = Figure(figsize=(width, _PLANE_INCHES * len(panels)), layout="constrained")
    axes = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
    for axis, (title, panel) in zip(axes, panels.items(), strict=True):
        _draw_groups(axis, positions, panel)
        axis.set_title(shorten(title), parse_math=False)
        axis.set(xlabel="UMAP 1", ylabel="UMAP 2", xticks=[], yticks=[])
    return figure


def _count_columns(groups: Groups) -> int:
    """Count the columns of a legend."""
    return 1 + (len(groups.names) - 1) // _LEGEND_ROWS


def _draw_groups(axis: Axes, positions: np.ndarray, groups: Groups) -> None:
    """Draw the cells of each group; those with the same marker in one mixed cloud."""
    n_groups = len(groups.names)
    colours = np.array([PALETTE[code % len(PALETTE)] for code in range(n_groups)], dtype=object)
    markers = np.arange(n_groups) // len(PALETTE)
    if groups.is_pooled:
        colours[-1], markers[-1] = POOLED_COLOUR, 0  # below all that are drawn after the first marker
    order = np.random.default_rng(0).permutation(len(positions))
    area = np.clip(24_000 / max(1, len(positions)), 3, 40)
    for number, marker in enumerate(_MARKERS[: markers.max(initial=-1) + 1]):
        rows = order[markers[groups.codes[order]] == number]
        axis.scatter(
            positions[rows, 0],
            positions[rows, 1],
            s=area,
            c=colours[groups.codes[rows]].tolist(),
            marker=marker,
            alpha=0.8,
            linewidths=0,
            rasterized=True,
        )
    numbers = [""] * n_groups
    if n_groups > len(PALETTE):
        numbers[: n_groups - groups.is_pooled] = _number_groups(axis, positions, groups)
    handles = [
        Line2D([], [], linestyle="", marker=_MARKERS[markers[code]], color=colours[code], markersize=6)
        for code in range(n_groups)
    ]
    names = [
        f"{number}{shorten(name)} ({size:,})"
        for number, name, size in zip(numbers, groups.names, groups.sizes, strict=True)
    ]
    legend = axis.legend(
        handles,
        names,
        loc="center left",
        bbox_to_anchor=(1.0, 0.5),
        fontsize=8,
        frameon=False,
        handletextpad=0.2,
        ncols=_count_columns(groups),
    )
    show_names_as_they_are(legend)


def _number_groups(axis: Axes, positions: np.ndarray, groups: Groups) -> list[str]:
    """Write each group's number at its median, the largest first, unless another number is there.

    Returns
    -------
    Numbers for the legend, of all groups but the pooled one.
    """
    extent = np.ptp(positions, axis=0)
    taken = np.zeros((0, 2))
    n_numbered = len(groups.names) - groups.is_pooled
    for code in range(n_numbered):
        place = np.median(positions[groups.codes == code], axis=0)
        gap = np.abs(taken - place) / np.where(extent > 0, extent, 1)
        if (gap.max(axis=1, initial=0) < _LEAST_GAP).any():
            continue
        taken = np.vstack([taken, place])
        axis.text(
            place[0],
            place[1],
            str(code + 1),
            fontsize=9,
            fontweight="bold",
            ha="center",
            va="center",
            path_effects=[patheffects.withStroke(linewidth=2.5, foreground="white")],
        )
    return [f"{code + 1}  " for code in range(n_numbered)]
