"""Figures of a search for hyperparameters, drawn from its table of trials."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

_COLUMNS = 4
_DECADE = 10.0
_MOST_TICKS = 4
_LARGE = 1000


def draw_history(trials: pd.DataFrame, *, title: str, score: str) -> Figure:
    """Draw each trial's score and the best so far.

    Parameters
    ----------
    trials
        One row a trial with ``number``, ``state`` (``complete`` or ``pruned``) and ``value``.
    title
        Title of the figure.
    score
        What ``value`` is, for the axis.
    """
    figure = Figure(figsize=(6, 4), layout="constrained")
    axis = figure.subplots()
    complete = trials["state"] == "complete"
    axis.scatter(trials["number"][complete], trials["value"][complete], label="complete")
    if not complete.all():
        rest = trials[~complete]
        axis.scatter(rest["number"], rest["value"], marker="x", color="grey", label="pruned, so far")
    best = trials["value"].where(complete).cummax().ffill()
    axis.step(trials["number"], best, where="post", color="tab:orange", label="best so far")
    axis.set(xlabel="Trial", ylabel=score, title=title)
    axis.legend()
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def draw_importance(importance: pd.Series) -> Figure:
    """Draw how much each hyperparameter decides of the score, ``(n_params,)``."""
    figure = Figure(figsize=(6, 1.2 + 0.35 * len(importance)), layout="constrained")
    axis = figure.subplots()
    ordered = importance.iloc[::-1]
    axis.barh(np.arange(len(ordered)), ordered)
    axis.set_yticks(np.arange(len(ordered)), ordered.index, parse_math=False)
    axis.set(xlabel="Importance (PED-ANOVA)", title="Importance of hyperparameters")
    return figure


def draw_slices(trials: pd.DataFrame, params: list[str], *, score: str) -> Figure:
    """Draw the score against each hyperparameter; the colour is the trial's number, a cross was pruned.

    Parameters
    ----------
    trials
        One row a trial with ``number``, ``state``, ``value`` and its hyperparameters.
    params
        Columns that are hyperparameters.
    score
        What ``value`` is, for the axis.
    """
    n_rows = -(-len(params) // _COLUMNS)
    n_columns = min(len(params), _COLUMNS)
    figure = Figure(figsize=(1 + 2.6 * n_columns, 0.6 + 2.6 * n_rows), layout="constrained")
    axes = figure.subplots(n_rows, n_columns, squeeze=False, sharey=True).ravel()
    for axis, name in zip(axes, params, strict=False):
        places, pruned = _place(axis, trials[name]), (trials["state"] != "complete").to_numpy()
        axis.scatter(places[pruned], trials["value"][pruned], marker="x", color="lightgrey", s=18)
        rest = trials[~pruned]
        points = axis.scatter(places[~pruned], rest["value"], c=rest["number"], s=18)
        axis.set_xlabel(name, parse_math=False)
    for axis in axes[len(params) :]:
        axis.set_visible(False)
    figure.supylabel(score)
    figure.colorbar(points, ax=list(axes), label="Trial", ticks=MaxNLocator(integer=True))
    return figure


def draw_parallel_coordinates(trials: pd.DataFrame, params: list[str], *, score: str) -> Figure:
    """Draw each complete trial as a line through its hyperparameters; the darker, the better its score.

    Parameters
    ----------
    trials, params, score
        As :func:`draw_slices` takes them.
    """
    trials = trials[trials["state"] == "complete"]
    figure = Figure(figsize=(2 + 1.6 * len(params), 4), layout="constrained")
    axis = figure.subplots()
    heights = np.column_stack([_scale(trials[name]) for name in params])
    colours = axis.scatter(
        np.zeros(len(trials)), heights[:, 0], c=trials["value"], cmap="viridis_r", s=12, zorder=3
    )
    for line, colour in zip(heights, colours.to_rgba(trials["value"]), strict=True):
        axis.plot(np.arange(len(params)), line, color=colour, linewidth=1.2)
    for position, name in enumerate(params):
        ends = _name_ends(trials[name])
        for height, text in ends.items():
            axis.annotate(
                text,
                (position, height),
                xytext=(3, 0),
                textcoords="offset points",
                fontsize=7,
                parse_math=False,
                bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1},
            )
        axis.axvline(position, color="lightgrey", zorder=0)
    axis.set_xticks(np.arange(len(params)), params, rotation=20, ha="right", parse_math=False)
    axis.set_yticks([])
    axis.margins(x=0.08)
    figure.colorbar(colours, ax=axis, label=score)
    return figure


def _place(axis: Axes, values: pd.Series) -> np.ndarray:
    """Put values on an axis: numbers as they are, logarithmic over decades, others by name."""
    if _is_number(values):
        if _is_logarithmic(values):
            axis.set_xscale("log")
            axis.xaxis.set_minor_formatter(NullFormatter())
        elif pd.api.types.is_integer_dtype(values):
            axis.xaxis.set_major_locator(MaxNLocator(_MOST_TICKS, integer=True))
        return values.to_numpy(dtype=float)
    codes, names = pd.factorize(values.map(str), sort=True)
    axis.set_xticks(np.arange(len(names)), names, rotation=30, ha="right", parse_math=False)
    return codes


def _scale(values: pd.Series) -> np.ndarray:
    """Scale values to 0 to 1, ``(n_trials,)``."""
    if _is_number(values):
        numbers = values.to_numpy(dtype=float)
        numbers = np.log(numbers) if _is_logarithmic(values) else numbers
    else:
        numbers = pd.factorize(values.map(str), sort=True)[0].astype(float)
    spread = np.ptp(numbers)
    return (numbers - numbers.min()) / spread if spread else np.full(len(numbers), 0.5)


def _name_ends(values: pd.Series) -> dict[float, str]:
    """Name the values of a scale by their height: all of a category, the ends of a number's."""
    heights = _scale(values)
    if _is_number(values):
        shown = [int(heights.argmin()), int(heights.argmax())]
        return {float(heights[row]): _tell(float(values.iloc[row])) for row in shown}
    return dict(zip(heights.tolist(), values.map(str), strict=True))


def _tell(value: float) -> str:
    """Write a number in few digits, and not as a power of ten where it is large."""
    return f"{value:,.0f}" if abs(value) >= _LARGE else f"{value:.3g}"


def _is_number(values: pd.Series) -> bool:
    """Tell numbers from categories."""
    return pd.api.types.is_numeric_dtype(values)


def _is_logarithmic(values: pd.Series) -> bool:
    """Tell whether positive numbers spread over decades."""
    return bool(values.min() > 0 and values.max() > _DECADE * values.min())
