"""Exact raw counts from values that are log1p of counts scaled cell by cell.

In such a cell ``expm1(values)`` are integer multiples of one unit, the scaled
value of one count (``target / depth``). scanpy's ``normalize_total`` and
``log1p``, Seurat's ``LogNormalize`` and scran's ``logNormCounts`` keep that;
smoothing, z-scoring, batch correction and division by gene length do not.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from annotary.data.counts import locate
from annotary.data.units import (
    LARGEST_LOG,
    SAME_TARGET,
    TOLERANCE,
    ScaledCells,
    fit_units,
    measure_misfit,
    refine_units,
    undo_log,
)
from annotary.errors import CountsError

_REMEDY = "Name the raw-count layer with --counts-layer."
_BASES = (np.e, 2.0, 10.0)
_SAME_UNIT = 1e-3
_FEWEST_CELLS_ALIKE = 8
_MOST_CELLS = 0.8
_CONSTANT_SUM = 1e-3


@dataclass(frozen=True)
class Log1pScale:
    """What the cells of a file share.

    Attributes
    ----------
    base
        Base of the logarithm.
    target
        Counts that each cell was scaled to; None where no depth is known.
    unit
        Scaled value of one count; None where it differs between cells.
    """

    base: float = np.e
    target: float | None = None
    unit: float | None = None


def find_scale(
    log_expr: csr_matrix, *, depth: np.ndarray | None, place: str, cell_ids: pd.Index, gene_ids: pd.Index
) -> Log1pScale:
    """Find what the cells of a file share, from some of them.

    Parameters
    ----------
    log_expr
        Log1p values, ``(n_cells, n_genes)``.
    depth
        Counts of each cell over all genes, ``(n_cells,)``, if known. One that does
        not go with the cells' scales (within 5 % in four cells of five) is not used.
    place, cell_ids, gene_ids
        As in `recover_counts`.

    Returns
    -------
    The first of the bases e, 2 and 10 in which every cell gives counts, with the
    target or unit.

    Raises
    ------
    CountsError
        If there is none; it tells what natural logarithms gave.
    """
    refusals = []
    for base in _BASES:
        scale = Log1pScale(base)
        try:
            _check_logs(log_expr, base, place=place, cell_ids=cell_ids, gene_ids=gene_ids)
            scaled = _undo_log(log_expr, base)
            scale = _find_shared(scaled, fit_units(scaled, None), depth, base)
            recover_counts(
                log_expr, depth=depth, place=place, cell_ids=cell_ids, gene_ids=gene_ids, scale=scale
            )
        except CountsError as error:
            refusals.append(error)
            continue
        return scale
    raise refusals[0]


def recover_counts(
    log_expr: csr_matrix,
    *,
    depth: np.ndarray | None,
    place: str,
    cell_ids: pd.Index,
    gene_ids: pd.Index,
    scale: Log1pScale | None = None,
) -> csr_matrix:
    """Recover the counts of log1p values exactly, or refuse.

    How a cell's unit is found is told at `fit_units`. Values placed by chance would
    pass one by one, with a probability of 0.002 to 0.2 by the rounding of the values, so
    a cell of hundreds of them cannot. A cell of one or two values cannot tell; like one
    whose counts have a common divisor, it gets the smallest counts that fit,
    unless the target or a shared unit settles it.

    Parameters
    ----------
    log_expr
        Log1p values, ``(n_cells, n_genes)``.
    depth
        Counts of each cell over all genes, ``(n_cells,)``, if known.
    place
        File and element, for the message.
    cell_ids, gene_ids
        Ids of the rows ``(n_cells,)`` and columns ``(n_genes,)``.
    scale
        From `find_scale` on the file's first cells, so that chunks of any size give
        the same; None finds it in these.

    Returns
    -------
    Counts, ``(n_cells, n_genes)``, float32, with the sparsity of ``log_expr``.

    Raises
    ------
    CountsError
        If a value is no log1p value, or a cell's values are no multiples of one unit.
    """
    if scale is None:
        scale = find_scale(log_expr, depth=depth, place=place, cell_ids=cell_ids, gene_ids=gene_ids)
    _check_logs(log_expr, scale.base, place=place, cell_ids=cell_ids, gene_ids=gene_ids)
    scaled = _undo_log(log_expr, scale.base)
    units = fit_units(scaled, _expect_units(scale, depth, scaled.n_cells))
    if np.isnan(units[scaled.rows]).any():
        raise CountsError(
            place,
            expected="log1p values of scaled counts",
            found=_describe_misfit(log_expr, scaled, units, cell_ids=cell_ids, gene_ids=gene_ids),
            remedy=_REMEDY
            + (" Or name the column with the cells' depth with --depth-key." if depth is None else ""),
        )
    counts = csr_matrix(log_expr, dtype=np.float32, copy=True)
    counts.data[log_expr.data > 0] = np.rint(scaled.y / units[scaled.rows])
    return counts


def _check_logs(
    log_expr: csr_matrix, base: float, *, place: str, cell_ids: pd.Index, gene_ids: pd.Index
) -> None:
    """Refuse values that no log1p gives: negative, not finite, or too large."""
    with np.errstate(invalid="ignore"):
        good = (log_expr.data >= 0) & (log_expr.data <= LARGEST_LOG / np.log(base))
    if good.all():
        return
    at = int(np.argmin(good))
    cell, gene = locate(log_expr, at, cell_ids=cell_ids, gene_ids=gene_ids)
    raise CountsError(
        place,
        expected=f"log1p values from 0 to {LARGEST_LOG / np.log(base):.0f}",
        found=f"{log_expr.data[at]:.6g} at cell {cell!r}, gene {gene!r}",
        remedy=_REMEDY,
    )


def _undo_log(log_expr: csr_matrix, base: float) -> ScaledCells:
    """Undo the logarithm of the positive values of a matrix."""
    positive = log_expr.data > 0
    rows = np.repeat(np.arange(log_expr.shape[0]), np.diff(log_expr.indptr))
    logs = log_expr.data[positive].astype(np.float64)
    return undo_log(logs, rows[positive], base=base, n_cells=log_expr.shape[0])


def _expect_units(scale: Log1pScale, depth: np.ndarray | None, n_cells: int) -> np.ndarray | None:
    """Work out each cell's unit, ``(n_cells,)``, from what the cells share."""
    if scale.target is not None and depth is not None:
        known = np.isfinite(depth) & (depth > 0)
        return np.divide(scale.target, depth, out=np.full(n_cells, np.nan), where=known)
    return None if scale.unit is None else np.full(n_cells, scale.unit)


def _find_shared(scaled: ScaledCells, units: np.ndarray, depth: np.ndarray | None, base: float) -> Log1pScale:
    """Find the target or unit that the cells with most values share."""
    n_values = np.bincount(scaled.rows, minlength=scaled.n_cells)
    fitted = np.isfinite(units)
    if not fitted.any():
        return Log1pScale(base)
    rich = fitted & (n_values >= np.median(n_values[fitted]))
    if depth is not None:
        targets = (units * depth)[rich]
        target = float(np.median(targets))
        if np.mean(np.abs(targets - target) <= SAME_TARGET * target) >= _MOST_CELLS:
            return Log1pScale(base, target=target)
    unit = float(np.median(units[rich]))
    alike = np.abs(units[rich] - unit) <= _SAME_UNIT * unit
    if rich.sum() >= _FEWEST_CELLS_ALIKE and alike.mean() >= _MOST_CELLS:
        return Log1pScale(base, unit=unit)
    return Log1pScale(base)


def _describe_misfit(
    log_expr: csr_matrix, scaled: ScaledCells, units: np.ndarray, *, cell_ids: pd.Index, gene_ids: pd.Index
) -> str:
    """Describe values that are no counts: their largest, their sum by cell, and the worst in a cell."""
    positions = np.flatnonzero(log_expr.data > 0)
    misfits = np.isnan(units[scaled.rows])
    rest, positions = scaled.take(misfits), positions[misfits]
    distances, bounds = measure_misfit(rest, refine_units(rest, rest.find_smallest()))
    is_exact = bounds <= TOLERANCE
    worst = int(np.argmax(np.where(is_exact, distances, -1.0)))
    cell, gene = locate(log_expr, int(positions[worst]), cell_ids=cell_ids, gene_ids=gene_ids)
    sums = scaled.sum_by_cell(scaled.y)
    sums = sums[sums > 0]
    parts = [f"values up to {log_expr.data.max():.3g}"]
    if np.ptp(sums) <= _CONSTANT_SUM * sums.mean():
        parts.append(f"cells that add up to {sums.mean():,.0f} after expm1")
    if is_exact.any() and distances[worst] > bounds[worst]:
        parts.append(f"one {distances[worst]:.2g} counts off an integer at cell {cell!r}, gene {gene!r}")
    else:
        parts.append(f"too few digits to tell the large counts of cell {cell!r}")
    return ", ".join(parts)
