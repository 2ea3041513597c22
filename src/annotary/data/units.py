"""The value of one count in cells whose counts were scaled: arrays only, no files."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

LARGEST_LOG = 20.0
"""No log1p value is larger: exp(20) is nearly 500 times counts per million."""
TOLERANCE = 0.1
"""Farthest that a scaled value may lie from an integer number of units."""
SAME_TARGET = 0.05
"""Largest relative difference between a unit and what a known depth says it is."""

_LARGEST_SMALLEST = 10  # tried as the smallest count of a cell
_TIGHTEST = 1e-3
_WIDEST_BOUND = 0.4  # beyond it, rounding may have moved a value to the next count
_FLOAT32_ERROR = 8 * float(np.finfo(np.float32).eps)  # of scaling, log1p and storage in float32
_LARGEST_RATIO = 1e6


@dataclass(frozen=True)
class ScaledCells:
    """Positive values of cells, back from the logarithm.

    Attributes
    ----------
    rows
        Cell of each value, ``(n_values,)``.
    y
        Scaled counts, ``(n_values,)``.
    errors
        The most that rounding and float32 may have changed each, ``(n_values,)``.
    n_cells
        Cells, with those that have no value.
    """

    rows: np.ndarray
    y: np.ndarray
    errors: np.ndarray
    n_cells: int

    def sum_by_cell(self, terms: np.ndarray) -> np.ndarray:
        """Sum one term a value, ``(n_cells,)``."""
        return np.bincount(self.rows, weights=terms, minlength=self.n_cells)

    def find_smallest(self) -> np.ndarray:
        """Find each cell's smallest value, ``(n_cells,)``; NaN for a cell without any."""
        smallest = np.full(self.n_cells, np.inf)
        np.minimum.at(smallest, self.rows, self.y)
        return np.where(np.isinf(smallest), np.nan, smallest)

    def take(self, chosen: np.ndarray) -> "ScaledCells":
        """Keep some values, by a mask ``(n_values,)``; cells keep their numbers."""
        return ScaledCells(self.rows[chosen], self.y[chosen], self.errors[chosen], self.n_cells)


def undo_log(logs: np.ndarray, rows: np.ndarray, *, base: float, n_cells: int) -> ScaledCells:
    """Undo the logarithm of positive log1p values.

    Parameters
    ----------
    logs
        Values, ``(n_values,)``, float64.
    rows
        Cell of each, ``(n_values,)``.
    base
        Base of the logarithm.
    n_cells
        Cells, with those that have no value.
    """
    log_errors = (_find_rounding(logs) + _FLOAT32_ERROR * logs) * np.log(base)
    y = np.expm1(logs * np.log(base))
    return ScaledCells(rows, y, errors=log_errors * (1 + y) + _FLOAT32_ERROR * y, n_cells=n_cells)


def fit_units(scaled: ScaledCells, expected: np.ndarray | None) -> np.ndarray:
    """Find the scaled value of one count in each cell.

    Tried in turn: the expected unit, then the cell's smallest value, its half, its
    third, up to its tenth; each is refined, and the first that makes all values of
    the cell integers is taken. What counts as an integer follows from the rounding
    of the values: 0.001 to 0.1 counts off.

    Parameters
    ----------
    scaled
        Scaled counts.
    expected
        Unit of each cell by what is known of its depth, ``(n_cells,)``; NaN for
        unknown. A fit that ends over 5 % away from it is not taken.

    Returns
    -------
    Units, ``(n_cells,)``; NaN where none fits, and for cells without values.
    """
    units = np.full(scaled.n_cells, np.nan)
    for first in _list_guesses(scaled.find_smallest(), expected):
        is_open = np.isnan(units[scaled.rows])
        if not is_open.any():
            break
        rest = scaled.take(is_open)
        refined = refine_units(rest, first)
        fits = _judge(rest, refined)
        if first is expected:
            fits &= np.abs(refined - first) <= SAME_TARGET * first
        units = np.where(np.isnan(units) & fits, refined, units)
    return units


def _list_guesses(smallest: np.ndarray, expected: np.ndarray | None) -> Iterator[np.ndarray]:
    if expected is not None:
        yield expected
    for count in range(1, _LARGEST_SMALLEST + 1):
        yield smallest / count


def refine_units(scaled: ScaledCells, units: np.ndarray) -> np.ndarray:
    """Fit units by weighted least squares, on ever larger counts.

    A small count is told from its neighbours by a rough unit; it then gives
    a unit good enough to tell counts four times as large.
    """
    ratios = scaled.y / scaled.find_smallest()[scaled.rows]
    largest = min(ratios.max(), _LARGEST_RATIO)
    limit = 1.5
    while True:
        near = scaled.take(ratios <= limit)
        relative = np.rint(near.y / units[near.rows]) / near.errors
        numerator = near.sum_by_cell(relative * near.y / near.errors)
        denominator = near.sum_by_cell(relative**2)
        units = np.divide(numerator, denominator, out=units.copy(), where=denominator > 0)
        if limit >= largest:
            return units
        limit *= 4


def measure_misfit(scaled: ScaledCells, units: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Measure how far each value lies from an integer, and how far rounding may have moved it.

    Returns
    -------
    Both in counts, ``(n_values,)``. The second is a bound: the value's own error, and
    the error of its unit if all errors of the cell were the largest and of one sign.
    """
    ratios = scaled.y / units[scaled.rows]
    counts = np.rint(ratios)
    relative = counts / scaled.errors
    with np.errstate(invalid="ignore", divide="ignore"):
        unit_errors = scaled.sum_by_cell(relative) / scaled.sum_by_cell(relative**2)
    bounds = (scaled.errors + counts * unit_errors[scaled.rows]) / units[scaled.rows]
    return np.abs(ratios - counts), bounds


def _judge(scaled: ScaledCells, units: np.ndarray) -> np.ndarray:
    """Tell the cells, ``(n_cells,)``, all of whose values are integer counts."""
    distances, bounds = measure_misfit(scaled, units)
    with np.errstate(invalid="ignore"):
        good = (distances <= np.clip(bounds, _TIGHTEST, TOLERANCE)) & (bounds <= _WIDEST_BOUND)
    return scaled.sum_by_cell(~good) == 0


def _find_rounding(logs: np.ndarray) -> np.ndarray | float:
    """Find the most that rounding to some decimals or significant digits changes, ``(n_values,)``."""
    few = logs[:1000]  # settles most cases at little cost
    for digits in range(2, 7):
        for to_step in (_step_decimals, _step_significant):
            if all(_is_multiple(part, to_step(part, digits)) for part in (few, logs)):
                return to_step(logs, digits) / 2
    return 0.0


def _step_decimals(logs: np.ndarray, digits: int) -> np.ndarray:
    return np.full(len(logs), 10.0**-digits)


def _step_significant(logs: np.ndarray, digits: int) -> np.ndarray:
    return 10.0 ** (np.floor(np.log10(logs)) + 1 - digits)


def _is_multiple(logs: np.ndarray, steps: np.ndarray) -> bool:
    """Tell whether all values are multiples of their step, as far as float32 can hold these."""
    return bool((np.abs(logs - np.rint(logs / steps) * steps) <= np.finfo(np.float32).eps * logs).all())
