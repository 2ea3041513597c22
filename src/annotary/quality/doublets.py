"""Doublets, lane by lane: which cells are called, and what to make of how many."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from annotary.data.counts import count_cells_per_gene, sum_depth
from annotary.errors import CountsError
from annotary.quality.doublet_limits import (
    MOST_CELLS,
    RATE_PER_1000_CELLS,
    count_explained,
    expect_rate,
    raise_threshold,
)

DoubletMethod = Literal["solo", "scrublet"]

N_TOP_GENES = 2000
"""Highly variable genes of a lane that doublets are looked for on."""
MIN_CELLS = 50
"""Below this many cells there is nothing to simulate doublets from."""
MIN_GENES = 30
"""Below this many genes there is nothing to tell doublets by."""

LANE_COLUMNS = (
    "lane", "method", "cells", "recovered", "expected_rate", "explained", "called", "doublets",
    "doublet_rate", "threshold", "epochs", "converged", "note",
)  # fmt: skip
CURVE_COLUMNS = ("lane", "network", "epoch", "train_loss", "validation_loss")

_NAMES = {"solo": "SOLO", "scrublet": "Scrublet"}
_LEAST_CELLS = 3
_RATE_WARNING = 0.2
_RATE_REFUSED = 0.5
_MANY_CELLS = 1000
"""A lane of this many cells has doublets: about 8."""


@dataclass(frozen=True)
class LaneCalls:
    """What a method says of one lane.

    Attributes
    ----------
    probability
        Probability or score of being a doublet, ``(n_cells,)``.
    is_doublet
        The call, ``(n_cells,)``.
    threshold
        Cells above it are called; NaN where the method found none.
    epochs
        Epochs that each network was trained; 0 for a method without.
    converged
        Whether the calls are fit for use, by the method's own measure.
    curves
        ``network``, ``epoch``, ``train_loss`` and ``validation_loss``, one row an epoch.
    note
        What a person should know of this lane; empty if nothing.
    """

    probability: np.ndarray
    is_doublet: np.ndarray
    threshold: float
    epochs: int
    converged: bool
    curves: pd.DataFrame
    note: str = ""


@dataclass(frozen=True)
class DoubletCalls:
    """What a method says of each cell of each lane.

    Attributes
    ----------
    probability
        SOLO's probability of being a doublet, or Scrublet's score; NaN for a cell that
        could not be called, ``(n_cells,)``.
    is_doublet
        The call, ``(n_cells,)``.
    lanes
        One row a lane: ``lane``, ``method``, ``cells``; ``recovered`` cells, ``expected_rate`` of doublets
        among so many, and how many are ``explained`` by it; ``called`` by the method's own threshold,
        ``doublets`` above the ``threshold`` that keeps to this number, ``doublet_rate``; ``epochs``,
        ``converged`` and ``note``. A lane that was not called has no threshold (NaN), is not converged,
        and the note says why.
    curves
        SOLO's losses: ``lane``, ``network`` (``scvi`` or ``solo``), ``epoch`` (from 1),
        ``train_loss`` and ``validation_loss``; empty for Scrublet.
    """

    probability: np.ndarray
    is_doublet: np.ndarray
    lanes: pd.DataFrame
    curves: pd.DataFrame


def call_doublets(
    load_lane: Callable[[np.ndarray], csr_matrix],
    lanes: np.ndarray,
    *,
    method: DoubletMethod,
    max_epochs: int,
    seed: int,
    rate_per_1000: float = RATE_PER_1000_CELLS,
    n_recovered: Mapping[str, int] | None = None,
) -> DoubletCalls:
    """Call doublets in each lane by itself; two cells of different lanes never shared a droplet.

    No more are called than the lane's loading explains: the method's threshold is raised until
    :func:`count_explained` cells lie above it.

    Parameters
    ----------
    load_lane
        Gives the raw counts of some cells, ``(n_rows, n_genes)``, on the genes chosen for
        their lane; called with the sorted rows of one lane at a time.
    lanes
        Lane of each cell, ``(n_cells,)``, str.
    method
        ``solo`` or ``scrublet``.
    max_epochs
        Epochs of each of SOLO's networks; 0 lets it choose.
    seed
        Seed of each lane, so that a lane's calls do not depend on which others there
        are; the process's own random states are left as they were.
    rate_per_1000
        Share of doublets per 1,000 cells recovered from a lane.
    n_recovered
        Cells recovered from each lane, where these are not all of them.
    """
    probability = np.full(len(lanes), np.nan)
    is_doublet = np.zeros(len(lanes), dtype=bool)
    report = []
    curves = []
    names = np.unique(lanes)
    for lane in names:
        rows = np.flatnonzero(lanes == lane)
        title = f" of lane {lane}" if len(names) > 1 else ""
        calls = _call_lane(load_lane(rows), method=method, max_epochs=max_epochs, seed=seed, title=title)
        recovered = max(len(rows), (n_recovered or {}).get(str(lane), 0))
        rate = expect_rate(recovered, rate_per_1000=rate_per_1000)
        explained = count_explained(int(np.isfinite(calls.probability).sum()), rate)
        bounded = _bound(calls, explained)
        probability[rows], is_doublet[rows] = bounded.probability, bounded.is_doublet
        report.append(
            _report(str(lane), method, bounded)
            | {"recovered": recovered, "expected_rate": rate, "explained": explained}
            | {"called": int(calls.is_doublet.sum())}
        )
        curves.append(calls.curves.assign(lane=str(lane)))
    return DoubletCalls(
        probability=probability,
        is_doublet=is_doublet,
        lanes=pd.DataFrame(report, columns=list(LANE_COLUMNS)),
        curves=_join_curves(curves),
    )


def judge_doublet_rate(lanes: pd.DataFrame, *, place: str) -> list[str]:
    """Say what is doubtful about each lane's doublets.

    Parameters
    ----------
    lanes
        :attr:`DoubletCalls.lanes`.
    place
        File that the cells came from.

    Returns
    -------
    Warnings for a person: of lanes that were not called, that did not converge, of which the method calls
    more than the loading explains, that have more than 20 % doublets, or none at all among at least 1000
    cells; and of lanes of more cells than one has.

    Raises
    ------
    CountsError
        If the method calls more than half of a lane's cells: that is no doublet rate but a failure.
    """
    warnings = []
    for row in lanes.itertuples(index=False):
        lane_place = f"{place}: lane {row.lane!r}" if len(lanes) > 1 else place
        if row.called > _RATE_REFUSED * row.cells:
            raise _refuse(lane_place, row.method, row.called / row.cells)
        warnings += [f"{lane_place}: {doubt}" for doubt in _list_doubts(row)]
    return warnings


def _list_doubts(row: Any) -> list[str]:
    """List what is doubtful about a lane, a row of :attr:`DoubletCalls.lanes`."""
    name = _NAMES[row.method]
    doubts = [row.note] if row.note else []
    if row.recovered > MOST_CELLS:
        doubts.append(
            f"{row.recovered} cells are more than one lane usually holds, and {row.expected_rate:.1%} "
            "doublets are expected as of a full one; name the lanes with --lane-key, so that doublets are "
            "looked for among cells that met"
        )
    if row.called > row.doublets:
        doubts.append(
            f"{name} calls {row.called} of {row.cells} cells doublets, where {row.expected_rate:.1%} are "
            f"expected of {row.recovered} cells; the {row.doublets} of the highest scores, above "
            f"{row.threshold:.4g}, are taken (--doublet-rate)"
        )
    if row.doublet_rate > _RATE_WARNING:
        doubts.append(
            f"{name} calls {row.doublet_rate:.0%} of the cells doublets; more than 20 % is seldom right"
        )
    elif row.converged and row.called == 0 and row.cells >= _MANY_CELLS:
        doubts.append(
            f"{name} calls none of {row.cells} cells a doublet, which is seldom right "
            "unless doublets were removed before"
        )
    return doubts


def _call_lane(
    counts: csr_matrix, *, method: DoubletMethod, max_epochs: int, seed: int, title: str
) -> LaneCalls:
    """Call the doublets of one lane, ``(n_cells, n_genes)``, among the cells that have any counts."""
    counts = csr_matrix(counts[:, count_cells_per_gene(counts) >= _LEAST_CELLS], dtype=np.float32)
    usable = sum_depth(counts) > 0  # a cell without counts has no logarithm of its depth
    n_cells, n_genes = int(usable.sum()), counts.shape[1]
    if n_cells < MIN_CELLS or n_genes < MIN_GENES:
        return _leave_uncalled(counts.shape[0], f"{n_cells} cells x {n_genes} genes")
    if method == "solo":
        from annotary.quality import solo

        calls = solo.call_lane(counts[usable], max_epochs=max_epochs, seed=seed, title=title)
    else:
        from annotary.quality import scrublet

        calls = scrublet.call_lane(counts[usable], seed=seed)
    probability = np.full(len(usable), np.nan)
    is_doublet = np.zeros(len(usable), dtype=bool)
    probability[usable], is_doublet[usable] = calls.probability, calls.is_doublet
    return replace(calls, probability=probability, is_doublet=is_doublet)


def _bound(calls: LaneCalls, explained: int) -> LaneCalls:
    """Call the highest-scoring cells of a lane, and no more than its loading explains."""
    tested = calls.probability[np.isfinite(calls.probability)]
    threshold = raise_threshold(tested, calls.threshold, most=explained)
    return replace(calls, threshold=threshold, is_doublet=calls.is_doublet & (calls.probability > threshold))


def _leave_uncalled(n_cells: int, size: str) -> LaneCalls:
    """Call none of a lane that is too small."""
    return LaneCalls(
        probability=np.full(n_cells, np.nan),
        is_doublet=np.zeros(n_cells, dtype=bool),
        threshold=np.nan,
        epochs=0,
        converged=False,
        curves=pd.DataFrame(),
        note=f"{size} with counts are too few to look for doublets "
        f"(at least {MIN_CELLS} x {MIN_GENES}); none is removed",
    )


def _report(lane: str, method: DoubletMethod, calls: LaneCalls) -> dict[str, object]:
    """Make a lane's row of the report."""
    was_called = not np.isnan(calls.probability).all()
    return {
        "lane": lane,
        "method": method,
        "cells": len(calls.is_doublet),
        "doublets": int(calls.is_doublet.sum()),
        "doublet_rate": float(calls.is_doublet.mean()) if was_called else np.nan,
        "threshold": calls.threshold,
        "epochs": calls.epochs,
        "converged": calls.converged,
        "note": calls.note,
    }


def _join_curves(curves: list[pd.DataFrame]) -> pd.DataFrame:
    """Join the lanes' losses; an empty table with all columns where there are none."""
    trained = [table for table in curves if "network" in table]
    if not trained:
        return pd.DataFrame(columns=list(CURVE_COLUMNS))
    return pd.concat(trained, ignore_index=True)[list(CURVE_COLUMNS)]


def _refuse(place: str, method: DoubletMethod, rate: float) -> CountsError:
    """Refuse a lane of which most cells are called."""
    is_solo = method == "solo"
    reason = "SOLO has not converged" if is_solo else "Scrublet does not tell doublets apart"
    return CountsError(
        place,
        expected=f"a doublet rate of at most {_RATE_REFUSED:.0%}",
        found=f"{rate:.0%}: {reason}",
        remedy="Raise --doublet-epochs, or pass --doublets none."
        if is_solo
        else "Pass --doublets solo or none.",
    )
