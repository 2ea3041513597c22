"""Doublets among the cells of preprocess: which are left out, which are kept and marked, and what to tell."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from annotary import keys
from annotary.config import PreprocessConfig
from annotary.data.source import Cells
from annotary.errors import list_some
from annotary.evaluation.doublet_figures import draw_doublet_training
from annotary.evaluation.figures import to_png
from annotary.evaluation.names import shorten
from annotary.evaluation.quality_figures import draw_doublets
from annotary.log import say, warn
from annotary.quality.doublet_limits import find_excess
from annotary.quality.doublets import N_TOP_GENES, DoubletCalls, call_doublets, judge_doublet_rate
from annotary.quality.variable_genes import find_variable_genes

_MOST_NAMED = 5


@dataclass(frozen=True)
class DoubletFindings:
    """What was found among the cells of all lanes.

    Attributes
    ----------
    obs
        The cells' obs with ``doublet_probability``, ``doublet`` (to be left out) and ``doublet_kept``
        (called, and kept because its label has too many), ``(n_cells, ...)``.
    tables, pictures, metrics, notes
        What there is to tell, by name; notes are for people.
    """

    obs: pd.DataFrame
    tables: dict[str, pd.DataFrame]
    pictures: dict[str, bytes]
    metrics: dict[str, float]
    notes: list[str]


def find_doublets(cells: Cells, config: PreprocessConfig, *, n_recovered: dict[str, int]) -> DoubletFindings:
    """Call doublets in each lane, no more than its loading explains, nor than its labels may lose.

    Parameters
    ----------
    cells
        Labelled, good cells.
    n_recovered
        Cells of each lane that were read, labelled or not.
    """
    if config.doublets == "none":
        raise ValueError("no doublet caller was asked for")
    lanes = cells.obs[keys.LANE].to_numpy(dtype=str)
    calls = call_doublets(
        lambda rows: _load_lane(cells.take(rows)),
        lanes,
        method=config.doublets,
        max_epochs=config.doublet_epochs,
        seed=config.seed,
        rate_per_1000=config.doublet_rate,
        n_recovered=n_recovered,
    )
    rates = calls.lanes.set_index("lane")["expected_rate"].loc[lanes].to_numpy(dtype=np.float64)
    is_kept = find_excess(
        calls.is_doublet,
        calls.probability,
        cells.obs[keys.LABEL],
        rates,
        multiple=config.doublet_label_limit,
    )
    called = cells.obs.assign(
        **{
            keys.DOUBLET_PROBABILITY: calls.probability,
            keys.DOUBLET: calls.is_doublet & ~is_kept,
            keys.DOUBLET_KEPT: is_kept,
        }
    )
    by_label = _count_by_label(called, rates)
    notes = judge_doublet_rate(calls.lanes, place=cells.place)
    notes += _judge_labels(by_label, place=cells.place, limit=config.doublet_label_limit)
    for note in notes:
        warn(note)
    _say_losses(by_label)
    return DoubletFindings(
        obs=called,
        tables=_make_tables(called, calls, by_label),
        pictures=_draw(called, calls),
        metrics=_measure(called, calls),
        notes=notes,
    )


def _load_lane(cells: Cells) -> csr_matrix:
    """Load a lane's counts of its most variable genes, ``(n_cells, at most 2000)``."""
    return cells.take_genes(find_variable_genes(cells, n_top_genes=N_TOP_GENES)).counts.load()


def _count_by_label(called: pd.DataFrame, rates: np.ndarray) -> pd.DataFrame:
    """Count each label's cells, doublets left out and kept, and their shares, ``(n_labels, 6)``."""
    grouped = called.assign(rate=rates).groupby(keys.LABEL, observed=True)
    return grouped.agg(
        cells=(keys.DOUBLET, "size"),
        doublets=(keys.DOUBLET, "sum"),
        doublets_kept=(keys.DOUBLET_KEPT, "sum"),
        doublet_rate=(keys.DOUBLET, "mean"),
        expected_rate=("rate", "mean"),
    ).reset_index()


def _judge_labels(by_label: pd.DataFrame, *, place: str, limit: float) -> list[str]:
    """Say of which labels more cells are called than the limit lets them lose; nothing of none."""
    over = by_label[by_label["doublets_kept"] > 0].sort_values(
        "doublets_kept", ascending=False, kind="stable"
    )
    if not len(over):
        return []
    named = [
        f"{shorten(str(row.label))} {row.doublets + row.doublets_kept} of {row.cells} cells called, "
        f"{row.doublets} left out"
        for row in over.itertuples(index=False)
    ]
    told = list_some(named, most=_MOST_NAMED, separator="; ", what=" labels")
    return [
        f"{place}: more of some labels are called doublets than {limit:g} times what is expected of their "
        f"cells ({told}); the other {over['doublets_kept'].sum()} are kept and marked "
        f"{keys.DOUBLET_KEPT} (--doublet-label-limit 0 leaves them out too)"
    ]


def _say_losses(by_label: pd.DataFrame) -> None:
    """Say how many doublets are left out of how many expected, and which labels lose the largest shares."""
    n_cells, n_doublets = int(by_label["cells"].sum()), int(by_label["doublets"].sum())
    expected = float(by_label["expected_rate"] @ by_label["cells"])
    said = (
        f"doublets: {n_doublets} of {n_cells} cells ({n_doublets / n_cells:.1%}) are left out, "
        f"{expected:.0f} expected ({expected / n_cells:.1%})"
    )
    losing = by_label[by_label["doublets"] > 0].sort_values("doublet_rate", ascending=False, kind="stable")
    shares = [
        f"{shorten(str(row.label))} {row.doublet_rate:.1%} ({row.doublets} of {row.cells})"
        for row in losing.head(_MOST_NAMED).itertuples(index=False)
    ]
    say(f"{said}; by label, largest shares first: {', '.join(shares)}" if shares else said)


def _make_tables(
    called: pd.DataFrame, calls: DoubletCalls, by_label: pd.DataFrame
) -> dict[str, pd.DataFrame]:
    """Make the tables: by cell, by lane, by label."""
    columns = [
        keys.LABEL, keys.SOURCE, keys.LANE, keys.DOUBLET_PROBABILITY, keys.DOUBLET, keys.DOUBLET_KEPT,
    ]  # fmt: skip
    return {
        "doublets": called[columns].rename_axis("cell_id").reset_index(),
        "doublets_by_lane": calls.lanes,
        "doublets_by_label": by_label,
    }


def _draw(called: pd.DataFrame, calls: DoubletCalls) -> dict[str, bytes]:
    """Draw scores, and losses where a network was trained."""
    thresholds = calls.lanes.set_index("lane")["threshold"].to_dict()
    pictures = {"doublets": to_png(draw_doublets(called, thresholds))}
    if len(calls.curves):
        pictures["doublet_training"] = to_png(draw_doublet_training(calls.curves))
    return pictures


def _measure(called: pd.DataFrame, calls: DoubletCalls) -> dict[str, float]:
    """Measure how many doublets are expected, called, left out and kept, and whether the caller converged."""
    lanes = calls.lanes
    return {
        "doublet_rate": float(called[keys.DOUBLET].mean()),
        "doublet_expected_rate": float(np.average(lanes["expected_rate"], weights=lanes["cells"])),
        "doublets_called": float(lanes["called"].sum()),
        "doublets_explained": float(lanes["explained"].sum()),
        "doublets_removed": float(called[keys.DOUBLET].sum()),
        "doublets_kept": float(called[keys.DOUBLET_KEPT].sum()),
        "doublet_lanes_converged": float(lanes["converged"].astype(bool).mean()),
    }
