"""Figures, drawn without pyplot: no window, no global state."""

import io
from collections.abc import Sequence

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from annotary import keys
from annotary.evaluation.names import shorten

_DPI = 120
_CELL_INCHES = 0.55
_LEAST_SHOWN = 0.005
_DARK_FROM = 0.6
"""From where on a cell of the matrix is so dark that white is easier to read on it than black."""


def draw_confusion(tables: dict[str, pd.DataFrame]) -> Figure:
    """Draw row-normalised confusion matrices side by side.

    Parameters
    ----------
    tables
        Title and matrix of each model, ``(n_classes, n_classes)``; rows add up to 1.
    """
    n_classes = len(next(iter(tables.values())))
    side = 2.5 + _CELL_INCHES * n_classes
    figure = Figure(figsize=(side * len(tables) + 1, side), layout="constrained")
    axes = figure.subplots(1, len(tables), squeeze=False, sharey=True)[0]
    for column, (axis, (title, table)) in enumerate(zip(axes, tables.items(), strict=True)):
        image = _draw_matrix(axis, table)
        axis.set_title(title)
        axis.set_xlabel("Predicted label")
        if column == 0:
            axis.set_ylabel("True label")
    figure.colorbar(image, ax=list(axes), label="Share of the true label's cells", shrink=0.8)
    return figure


def _draw_matrix(axis: Axes, table: pd.DataFrame) -> matplotlib.image.AxesImage:
    """Draw one matrix with its values; white on dark cells."""
    values = table.to_numpy()
    image = axis.imshow(values, vmin=0, vmax=1, cmap="Blues")
    axis.set_xticks(
        range(len(table.columns)),
        [shorten(name) for name in table.columns],
        rotation=60,
        ha="right",
        rotation_mode="anchor",
        parse_math=False,
    )
    axis.set_yticks(range(len(table.index)), [shorten(name) for name in table.index], parse_math=False)
    for row, column in np.argwhere(values >= _LEAST_SHOWN):
        value = values[row, column]
        axis.text(
            column,
            row,
            f"{value:.2f}",
            ha="center",
            va="center",
            fontsize=8,
            color="white" if value >= _DARK_FROM else "black",
        )
    return image


def draw_losses(epochs: pd.DataFrame, *, kept: int) -> Figure:
    """Draw train and validation loss, and validation macro-F1, by epoch.

    Parameters
    ----------
    epochs
        One row an epoch with ``epoch``, ``train_loss``, ``validation_loss``, ``validation_macro_f1``.
    kept
        Epoch whose weights are kept.
    """
    figure = Figure(figsize=(10, 4), layout="constrained")
    loss, score = figure.subplots(1, 2)
    loss.plot(epochs["epoch"], epochs["train_loss"], marker=".", label="train")
    loss.plot(epochs["epoch"], epochs["validation_loss"], marker=".", label="validation")
    loss.set(xlabel="Epoch", ylabel="Class-weighted cross-entropy", title="Loss")
    loss.legend()
    loss.xaxis.set_major_locator(MaxNLocator(integer=True))
    score.plot(epochs["epoch"], epochs["validation_macro_f1"], marker=".", color="tab:green")
    score.axvline(kept, color="grey", linestyle="--", label=f"kept: epoch {kept}")
    score.set(xlabel="Epoch", ylabel="Macro-F1 of validation cells", title="Validation macro-F1")
    score.legend()
    score.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def draw_panel(genes: pd.DataFrame) -> Figure:
    """Draw what the panel was chosen by against mean expression, and its ranking.

    Parameters
    ----------
    genes
        ``mean_log_expr``, ``score`` and ``in_panel`` of each gene, ``(n_genes, 3)``.
    """
    figure = Figure(figsize=(10, 4), layout="constrained")
    by_mean, by_rank = figure.subplots(1, 2)
    rank = genes["score"].rank(ascending=False, method="first")
    chosen = genes[keys.IN_PANEL].to_numpy(dtype=bool)
    for mask, colour, label in (
        (~chosen, "lightgrey", f"other genes ({(~chosen).sum()})"),
        (chosen, "tab:blue", f"panel ({chosen.sum()})"),
    ):
        by_mean.scatter(genes["mean_log_expr"][mask], genes["score"][mask], s=3, c=colour, label=label)
        by_rank.scatter(rank[mask], genes["score"][mask], s=3, c=colour, label=label)
    by_mean.set(xlabel="Mean log-normalised expression", ylabel="Score")
    by_rank.set(xlabel="Rank", ylabel="Score")
    by_mean.legend(markerscale=3)
    figure.suptitle("Gene panel, chosen on the training cells")
    return figure


def draw_class_counts(counts: pd.DataFrame) -> Figure:
    """Draw the cells of each label, stacked by side of the split.

    Parameters
    ----------
    counts
        Cells by label (rows) and side (columns), ``(n_classes, n_sides)``.
    """
    figure = Figure(figsize=(8, 1.5 + 0.35 * len(counts)), layout="constrained")
    axis = figure.subplots()
    ordered = counts.loc[counts.sum(axis=1).sort_values().index]
    left = np.zeros(len(ordered))
    rows = np.arange(len(ordered))
    for side in ordered.columns:
        axis.barh(rows, ordered[side], left=left, label=side)
        left += ordered[side].to_numpy()
    axis.set_yticks(rows, [shorten(name) for name in ordered.index], parse_math=False)
    for position, total in enumerate(left):
        axis.text(total, position, f" {total:.0f}", va="center", fontsize=8)
    axis.set(xlabel="Cells", title="Cells of each label")
    axis.margins(x=0.08)
    axis.legend()
    return figure


def to_png(figure: Figure) -> bytes:
    """Draw a figure as a PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI)
    return buffer.getvalue()


def format_table(rows: Sequence[dict[str, object]]) -> str:
    """Format rows as a plain table with aligned columns."""
    return pd.DataFrame(list(rows)).to_string(index=False, float_format=lambda value: f"{value:.3f}")
