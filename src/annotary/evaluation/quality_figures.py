"""Figures of a dataset's cells: quality and doublets."""

from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cbook import violin_stats
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from annotary import keys
from annotary.evaluation.groups import (
    PALETTE,
    count_cells,
    group_column,
    sample_groups,
    show_names_as_they_are,
)
from annotary.evaluation.names import shorten

_MOST_SOURCES = 12
_MOST_DRAWN = 20_000
_LEAST_FOR_VIOLIN = 10
_HISTOGRAM_BINS = 50
_KEPT, _REMOVED = PALETTE[:2]
_MEASURES = {
    keys.DEPTH: ("Counts", "counts"),
    keys.N_GENES: ("Expressed genes", "genes"),
    keys.PCT_MITO: ("Mitochondrial counts (%)", "pct_mito"),
}


def draw_quality(cells: pd.DataFrame, limits: dict[str, float]) -> Figure:
    """Draw violins of counts, expressed genes and mitochondrial share, by source.

    At most 20,000 cells are drawn, no source more than its share and the same
    ones each time; the numbers in the titles are of all cells. Fewer than 10
    cells of a source are drawn as points. Of more than 12 sources the 11
    largest are shown, and the others as one.

    Parameters
    ----------
    cells
        ``total_counts``, ``n_genes_by_counts`` and ``pct_counts_mt`` of each cell, those to be
        removed among them, ``(n_cells, 3 or more)``; ``source`` if there are several.
    limits
        Thresholds: ``min_`` or ``max_`` with ``counts``, ``genes`` or ``pct_mito``. A cell at a threshold is
        kept; thresholds that nothing can fall outside of (0 and 100 %) are not drawn.
    """
    sources = group_column(cells, keys.SOURCE, most=_MOST_SOURCES)
    n_sources = len(sources.names)
    drawn = sample_groups(sources, most=_MOST_DRAWN)
    figure = Figure(figsize=(12, 1.6 + 0.6 * max(2, n_sources)), layout="constrained")
    axes = figure.subplots(1, len(_MEASURES), sharey=True)
    for axis, (column, (title, name)) in zip(axes, _MEASURES.items(), strict=True):
        values = cells[column].to_numpy(dtype=np.float64)
        axis.set_xlabel(title)
        if column == keys.DEPTH:
            values = np.maximum(values, 1)
            _use_log_scale(axis)
        axis.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
        low, high = limits.get(f"min_{name}", 0), limits.get(f"max_{name}", np.inf)
        low, high = low if low > 0 else -np.inf, high if name != "pct_mito" or high < 100 else np.inf
        for row, cells_drawn in enumerate(drawn):
            _draw_source(axis, row, values[cells_drawn], low=low, high=high)
        _draw_limits(axis, values, low=low, high=high)
    names = [
        f"{shorten(name)}\n{count_cells(size)}"
        for name, size in zip(sources.names, sources.sizes, strict=True)
    ]
    axes[0].set_yticks(range(n_sources), names, parse_math=False)
    axes[0].set_ylim(max(1, n_sources) - 0.4, -0.6)
    return figure


def _use_log_scale(axis: Axes) -> None:
    """Scale the values' axis by decades, with whole numbers beside it."""
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
    axis.xaxis.set_minor_formatter(NullFormatter())


def _draw_source(axis: Axes, row: int, values: np.ndarray, *, low: float, high: float) -> None:
    """Draw one source: a violin with median and quartiles, and the cells outside as points."""
    values = values[np.isfinite(values)]
    if not len(values):
        return
    heights = row + np.random.default_rng(row).uniform(-0.2, 0.2, size=len(values))
    is_out = (values < low) | (values > high)
    if len(values) < _LEAST_FOR_VIOLIN:
        axis.scatter(values[~is_out], heights[~is_out], s=14, color=_KEPT)
    else:
        is_log = axis.get_xscale() == "log"
        stats = violin_stats(np.log10(values) if is_log else values)
        if is_log:
            stats[0]["coords"] = 10 ** stats[0]["coords"]
        axis.violin(
            stats,
            [row],
            orientation="horizontal",
            widths=0.85,
            showextrema=False,
            facecolor=to_rgba(_KEPT, 0.4),
        )
        first, median, third = np.percentile(values, [25, 50, 75])
        axis.plot([first, third], [row, row], color="black", linewidth=3, solid_capstyle="butt")
        axis.plot(median, row, "o", color="white", markeredgecolor="black", markersize=5)
    area = 14 if len(values) < _LEAST_FOR_VIOLIN else 6
    axis.scatter(values[is_out], heights[is_out], s=area, color=_REMOVED, linewidths=0, rasterized=True)


def _draw_limits(axis: Axes, values: np.ndarray, *, low: float, high: float) -> None:
    """Draw the thresholds, and say how many of all cells lie outside."""
    said = []
    for limit, is_out, side in ((low, values < low, "below"), (high, values > high, "above")):
        if np.isfinite(limit):
            axis.axvline(limit, color=_REMOVED, linestyle="--", linewidth=1.2)
            share = is_out.mean() if len(values) else 0.0
            said.append(f"{is_out.sum():,} {side} {limit:,.6g} ({share:.1%})")
    axis.set_title("\n".join(said) or "no threshold", fontsize=10, color=_REMOVED if said else "dimgrey")
    if len(values) and (values == 0).all():
        axis.set_xlim(-1, 1)
        axis.text(0.5, 0.8, "0 in every cell", transform=axis.transAxes, ha="center", va="center")


def draw_doublets(table: pd.DataFrame, thresholds: dict[str, float]) -> Figure:
    """Draw a histogram of the doublet probability, with the thresholds of the calls.

    Parameters
    ----------
    table
        ``doublet_probability`` of each cell, NaN where there is none, and its call ``doublet``,
        ``(n_cells, 2 or more)``; ``lane`` if there are several. Of more than 12 lanes the 11
        largest are shown, and the others as one.
    thresholds
        Lane, and the probability above which its cells are doublets; NaN where there is none.
    """
    probability = table[keys.DOUBLET_PROBABILITY].to_numpy(dtype=np.float64)
    called = table[keys.DOUBLET].to_numpy(dtype=bool)
    tested = np.isfinite(probability)
    lanes = group_column(table[tested], keys.LANE, most=_MOST_SOURCES)
    n_lanes = len(lanes.names)
    edges = np.linspace(0, 1, _HISTOGRAM_BINS + 1)
    figure = Figure(figsize=(9, 4), layout="constrained")
    axis = figure.subplots()
    lines = []
    for number, lane in enumerate(lanes.names):
        is_member = lanes.codes == number
        values = probability[tested][is_member]
        heights = np.histogram(values, edges)[0]
        colour = PALETTE[number % len(PALETTE)]
        style: Literal["-", ":"] = "-" if number < len(PALETTE) else ":"
        if n_lanes == 1:
            axis.stairs(heights, edges, color=colour, alpha=0.6, fill=True)
        else:
            axis.stairs(heights, edges, color=colour, linestyle=style, linewidth=1.5)
        share = called[tested][is_member].mean()
        text = f"{shorten(lane)}: {share:.1%} of {count_cells(len(values))}"
        lines.append((Line2D([], [], color=colour, linestyle=style), text))
        if np.isfinite(threshold := thresholds.get(lane, np.nan)):
            axis.axvline(threshold, color=colour, linestyle="--", linewidth=1)
    axis.set(xlabel="Doublet probability", ylabel="Cells", xlim=(0, 1), yscale="log")
    axis.yaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    axis.set_title(_describe_doublets(called[tested], n_untested=int((~tested).sum())))
    if n_lanes > 1:
        legend = axis.legend(
            *zip(*lines, strict=True),
            title="Doublets by lane",
            fontsize=8,
            loc="center left",
            bbox_to_anchor=(1, 0.5),
        )
        show_names_as_they_are(legend)
    return figure


def _describe_doublets(called: np.ndarray, *, n_untested: int) -> str:
    """Say how many cells are called doublets."""
    if not len(called):
        return "No cell was tested for doublets"
    said = f"Doublets: {called.sum():,} of {count_cells(len(called))} ({called.mean():.1%})"
    return f"{said}; {n_untested:,} not tested" if n_untested else said
