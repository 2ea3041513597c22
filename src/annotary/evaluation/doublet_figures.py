"""Figures of doublet calling, drawn without pyplot."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from annotary.evaluation.names import shorten

_TITLES = {"scvi": "scVI: negative ELBO", "solo": "SOLO's classifier: cross-entropy"}
_MOST_NAMED = 12


def draw_doublet_training(curves: pd.DataFrame) -> Figure:
    """Draw the losses of SOLO's two networks by epoch, one colour a lane.

    Parameters
    ----------
    curves
        ``lane``, ``network`` (``scvi`` or ``solo``), ``epoch``, ``train_loss`` and
        ``validation_loss``, one row a lane, network and epoch.
    """
    figure = Figure(figsize=(10, 4), layout="constrained")
    axes = figure.subplots(1, len(_TITLES))
    lanes = list(dict.fromkeys(curves["lane"]))
    for axis, (network, title) in zip(axes, _TITLES.items(), strict=True):
        for number, lane in enumerate(lanes):
            rows = curves[(curves["lane"] == lane) & (curves["network"] == network)]
            _draw_lane(axis, rows, colour=f"C{number % 10}", lane=shorten(lane) if len(lanes) > 1 else "")
        axis.set(xlabel="Epoch", ylabel="Loss", title=title)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    if 0 < len(lanes) <= _MOST_NAMED:
        legend = axes[-1].legend()
        for text in legend.get_texts():
            text.set_parse_math(False)
    return figure


def _draw_lane(axis: Axes, rows: pd.DataFrame, *, colour: str, lane: str) -> None:
    """Draw one lane's validation loss as a line, its training loss dashed."""
    names = {"validation_loss": ("-", "validation"), "train_loss": ("--", "train")}
    for column, (style, name) in names.items():
        axis.plot(
            rows["epoch"],
            rows[column],
            linestyle=style,
            color=colour,
            marker="." if len(rows) == 1 else None,
            label=f"{lane}, {name}" if lane else name,
        )
