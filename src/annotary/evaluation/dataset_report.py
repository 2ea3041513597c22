"""A dataset on one page: where it comes from, what was removed, how it was split, how it looks."""

from dataclasses import dataclass

import pandas as pd

from annotary.evaluation.pages import render_page

_TEMPLATE = "dataset.html"
_UNITS = ("cells", "genes")


@dataclass(frozen=True)
class Step:
    """What one step of preprocessing left.

    Attributes
    ----------
    name
        What was done.
    size
        How many cells or genes are left.
    removed
        How many the step removed; None for the first one.
    pct_left
        Percent of the first step's that are left.
    """

    name: str
    size: int
    removed: int | None
    pct_left: float


def make_report(
    title: str,
    facts: dict[str, str],
    steps: dict[str, int],
    removed: pd.DataFrame,
    labels: pd.DataFrame,
    pictures: dict[str, bytes],
    notes: list[str],
    doublets: pd.DataFrame | None = None,
) -> str:
    """Write a dataset's report as one HTML page that needs no other file.

    Parameters
    ----------
    title
        Heading of the page.
    facts
        Provenance: sources, hashes, version, settings; a value may have several lines.
    steps
        Cells and genes left after each step, in order; names begin with ``cells_`` or ``genes_``.
    removed
        ``reason`` and ``cells``, ``(n_reasons, 2)``.
    labels
        Cells by label (rows) and side (columns), ``(n_labels, n_sides)``.
    pictures
        Caption and PNG.
    notes
        Warnings; empty if there is nothing to warn of.
    doublets
        ``label``, ``cells``, ``doublets`` that were left out, ``doublets_kept``, ``doublet_rate`` and
        ``expected_rate`` of each label; None where none were looked for.

    Returns
    -------
    HTML; every text is escaped, and the page runs no script and loads nothing.
    """
    return render_page(
        _TEMPLATE,
        title=title,
        facts=facts,
        funnels={unit: funnel for unit in _UNITS if (funnel := _follow_steps(steps, unit))},
        removed=[(str(row.reason), int(row.cells)) for row in removed.itertuples()],
        sides=[str(side) for side in labels.columns],
        labels=[(str(name), [int(size) for size in sizes]) for name, *sizes in labels.itertuples()],
        side_totals=[int(size) for size in labels.sum()],
        pictures=pictures,
        notes=notes,
        doublets=[] if doublets is None else doublets.to_dict(orient="records"),
        doublet_totals={} if doublets is None else _sum_doublets(doublets),
    )


def _sum_doublets(doublets: pd.DataFrame) -> dict[str, float]:
    """Sum the doublets of all labels; shares are those of all cells."""
    totals = doublets[["cells", "doublets", "doublets_kept"]].sum().to_dict()
    shares = doublets[["doublet_rate", "expected_rate"]].mul(doublets["cells"], axis=0).sum()
    return totals | (shares / totals["cells"]).to_dict()


def _follow_steps(steps: dict[str, int], unit: str) -> list[Step]:
    """Follow the cells or the genes from step to step."""
    sizes = {
        name.removeprefix(f"{unit}_").replace("_", " ").replace("qc", "QC"): size
        for name, size in steps.items()
        if name.startswith(f"{unit}_")
    }
    first = next(iter(sizes.values()), 0)
    before = [None, *sizes.values()]
    return [
        Step(
            name=name,
            size=size,
            removed=None if last is None else last - size,
            pct_left=100 * size / first if first else 0.0,
        )
        for (name, size), last in zip(sizes.items(), before, strict=False)
    ]
