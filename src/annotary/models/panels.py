"""The gene panel as a hyperparameter: genes ranked once a fold and method, a panel of any size from that."""

from dataclasses import dataclass
from typing import get_args

import numpy as np

from annotary.models.folds import FoldedCells, iter_blocks, view_rows
from annotary.quality.gene_tally import GeneTally, PanelMethod
from annotary.quality.panel import SCORE, rank_genes

ALL_GENES = 0
"""Size that stands for all genes."""

_METHODS: tuple[PanelMethod, ...] = ("seurat", "f_test")
_SIZES = (300, 600, 1200, 2500)
_TARGET_SUMS = (100.0, 300.0, 1000.0, 3000.0, 1e4)


@dataclass(frozen=True)
class Preparation:
    """How cells are prepared for a baseline.

    Attributes
    ----------
    panel_method, n_top_genes
        How its panel is chosen; ``ALL_GENES`` for no choice.
    target_sum
        Counts that each cell is scaled to before log1p.
    """

    panel_method: str
    n_top_genes: int
    target_sum: float


@dataclass(frozen=True)
class PreparationSpace:
    """Ways to prepare cells that a search may take.

    Attributes
    ----------
    panel_methods, n_top_genes, target_sums
        What there is to choose from.
    first
        The dataset's own way.
    """

    panel_methods: tuple[str, ...]
    n_top_genes: tuple[int, ...]
    target_sums: tuple[float, ...]
    first: Preparation


def make_space(own: Preparation, *, n_genes: int, fixed: bool) -> PreparationSpace:
    """List the ways to prepare cells.

    Parameters
    ----------
    own
        The dataset's way, which becomes one of them.
    n_genes
        Genes of the dataset; a panel as large as that is ``ALL_GENES``.
    fixed
        Whether the panel stays the dataset's.
    """
    if own.n_top_genes >= n_genes and not fixed:
        own = Preparation(own.panel_method, ALL_GENES, own.target_sum)
    methods: tuple[str, ...] = (own.panel_method,)
    sizes: tuple[int, ...] = (own.n_top_genes,)
    if not fixed:
        methods = tuple(sorted({*_METHODS, own.panel_method}))
        smaller = {size for size in (*_SIZES, own.n_top_genes) if 0 < size < n_genes}
        sizes = (*sorted(smaller), ALL_GENES)
    return PreparationSpace(
        panel_methods=methods,
        n_top_genes=sizes,
        target_sums=tuple(sorted({*_TARGET_SUMS, own.target_sum})),
        first=own,
    )


class PanelChooser:
    """Chooses panels on the cells that a fold fits to, from one ranking for each fold and method.

    Parameters
    ----------
    cells
        The cells.
    fixed
        Ascending positions of a panel that is taken whatever is asked for, ``(n_panel,)``.
    """

    def __init__(self, cells: FoldedCells, *, fixed: np.ndarray | None = None) -> None:
        self._cells = cells
        self._fixed = fixed
        self._rankings: dict[tuple[int | None, str], np.ndarray] = {}
        self._tallies: dict[tuple[int, str], GeneTally] = {}

    def choose(self, preparation: Preparation, fold: int | None) -> np.ndarray | None:
        """Choose a panel for a fold, or for all cells.

        Returns
        -------
        Ascending positions of its genes, ``(n_panel,)``; None for all genes.
        """
        if self._fixed is not None:
            return self._fixed
        if preparation.n_top_genes == ALL_GENES:
            return None
        ranking = self._rank(preparation.panel_method, fold)
        return np.sort(ranking[: preparation.n_top_genes])

    def _rank(self, method: str, fold: int | None) -> np.ndarray:
        """Rank genes, best first, ``(n_genes,)``."""
        key = (fold, method)
        if key not in self._rankings:
            table = rank_genes(self._tally(method, fold), self._cells.gene_ids, n_top_genes=ALL_GENES)
            score = table[SCORE].to_numpy()
            known = np.where(np.isnan(score), -np.inf, score)
            self._rankings[key] = np.argsort(-known, kind="stable")  # genes are in alphabetical order
        return self._rankings[key]

    def _tally(self, method: str, fold: int | None) -> GeneTally:
        """Add up what genes are ranked by, over the cells that a fold fits to."""
        tally = self._make_tally(method)
        for other in range(self._cells.n_folds):
            if other != fold:
                tally.merge(self._tally_held_out(method, other))
        return tally

    def _tally_held_out(self, method: str, fold: int) -> GeneTally:
        """Add up the same over the cells that a fold holds out, once."""
        cells, key = self._cells, (fold, method)
        if key not in self._tallies:
            tally = self._make_tally(method)
            for rows in iter_blocks(cells.list_held_out(fold)):
                tally.add(view_rows(cells.counts, rows), depth=cells.depth[rows], codes=cells.codes[rows])
            self._tallies[key] = tally
        return self._tallies[key]

    def _make_tally(self, method: str) -> GeneTally:
        """Make a tally of no cells."""
        return GeneTally(len(self._cells.gene_ids), self._cells.n_classes, _check_method(method))


def _check_method(method: str) -> PanelMethod:
    """Find a method by its name."""
    known: tuple[PanelMethod, ...] = get_args(PanelMethod)
    return next(one for one in known if one == method)
