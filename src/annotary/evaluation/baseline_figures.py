"""Figures of a fitted model: whether its confidence is right, and which genes speak for each label."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from annotary.evaluation.names import shorten

N_TOP_GENES = 10
_COLUMNS = 5
_INCHES = 2.4
_LONGEST_TITLE = 28
_MOST_TICKS = 3


def draw_reliability(bins: dict[str, pd.DataFrame]) -> Figure:
    """Draw accuracy against confidence; the area of a point is its share of cells.

    Parameters
    ----------
    bins
        ``confidence``, ``accuracy`` and ``n_cells`` of each bin, ``before`` and ``after`` calibration,
        ``(n_bins, 3)``.
    """
    figure = Figure(figsize=(4.6, 4.4), layout="constrained")
    axis = figure.subplots()
    axis.plot([0, 1], [0, 1], color="grey", linestyle="--", linewidth=1)
    for name, table in bins.items():
        error = np.average((table["confidence"] - table["accuracy"]).abs(), weights=table["n_cells"])
        sizes = 300 * table["n_cells"] / table["n_cells"].sum() + 8
        line = axis.plot(
            table["confidence"], table["accuracy"], label=f"{name} calibration: ECE {error:.3f}"
        )[0]
        axis.scatter(table["confidence"], table["accuracy"], s=sizes, color=line.get_color(), alpha=0.6)
    axis.set(xlabel="Confidence", ylabel="Share of right labels", xlim=(0, 1.02), ylim=(0, 1.02))
    axis.set_title("Cells held out in cross-validation")
    axis.legend()
    return figure


def draw_top_genes(
    weights: pd.DataFrame, *, measure: str = "Weight (above 0 speaks for the label)"
) -> Figure:
    """Draw the genes whose expression speaks most for each label.

    Parameters
    ----------
    weights
        Weight of each gene (rows) for each label (columns), ``(n_panel, n_classes)``; a label of which
        nothing is known has NaN.
    measure
        What the weights are, for the axis.
    """
    n_rows = -(-weights.shape[1] // _COLUMNS)
    n_columns = min(weights.shape[1], _COLUMNS)
    figure = Figure(figsize=(_INCHES * n_columns, _INCHES * n_rows), layout="constrained")
    axes = figure.subplots(n_rows, n_columns, squeeze=False).ravel()
    for axis, label in zip(axes, weights.columns, strict=False):
        top = weights[label].nlargest(N_TOP_GENES).iloc[::-1]
        axis.barh(np.arange(len(top)), top)
        names = [shorten(gene) for gene in top.index]
        axis.set_yticks(np.arange(len(top)), names, fontsize=7, parse_math=False)
        axis.tick_params(axis="x", labelsize=7)
        axis.xaxis.set_major_locator(MaxNLocator(_MOST_TICKS))
        axis.set_title(shorten(label, longest=_LONGEST_TITLE), fontsize=8, parse_math=False)
    for axis in axes[weights.shape[1] :]:
        axis.set_visible(False)
    figure.supxlabel(measure, fontsize=8)
    return figure
