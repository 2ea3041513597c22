"""Statistics of genes, added up over row chunks: all that the ways to choose a panel need, in one pass."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from scipy.sparse import csr_matrix

from annotary import keys
from annotary.data.source import Cells
from annotary.quality.prepare import TARGET_SUM, PreparedCells, log_normalize

PanelMethod = Literal["seurat", "seurat_v3", "cell_ranger", "f_test"]


@dataclass(frozen=True)
class Moments:
    """Sums over cells.

    Attributes
    ----------
    n
        Cells.
    total, squares
        Sum of each gene's values and of their squares, ``(n_genes,)``.
    """

    n: int
    total: np.ndarray
    squares: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        """Mean of each gene, ``(n_genes,)``."""
        return self.total / max(self.n, 1)

    @property
    def variance(self) -> np.ndarray:
        """Unbiased variance of each gene, ``(n_genes,)``."""
        centred = self.squares - self.n * self.mean**2
        return np.maximum(centred, 0) / max(self.n - 1, 1)


@dataclass
class GeneTally:
    """Adds up what a panel is chosen by.

    Parameters
    ----------
    n_genes
        Columns of the counts.
    n_labels
        Number of labels; 1 where labels do not matter.
    method
        How genes will be ranked.
    """

    n_genes: int
    n_labels: int
    method: PanelMethod
    n_expressing: np.ndarray = field(init=False)
    cells_per_label: np.ndarray = field(init=False)
    label_totals: np.ndarray = field(init=False)
    _log_squares: np.ndarray = field(init=False)
    _scaled: np.ndarray = field(init=False)
    _raw: np.ndarray = field(init=False)
    _values: list[tuple[np.ndarray, np.ndarray]] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.n_expressing = np.zeros(self.n_genes, dtype=np.int64)
        self.cells_per_label = np.zeros(self.n_labels, dtype=np.int64)
        self.label_totals = np.zeros((self.n_labels, self.n_genes))
        self._log_squares = np.zeros(self.n_genes)
        self._scaled = np.zeros((2, self.n_genes))
        self._raw = np.zeros((2, self.n_genes))

    def count(self, counts: csr_matrix) -> None:
        """Count in how many of these cells ``(n_cells, n_genes)`` each gene is expressed."""
        self.n_expressing += np.bincount(counts.indices[counts.data > 0], minlength=self.n_genes)

    def add(self, counts: csr_matrix, *, depth: np.ndarray, codes: np.ndarray) -> None:
        """Add cells that the panel is chosen on.

        Parameters
        ----------
        counts
            Raw counts, ``(n_cells, n_genes)``.
        depth, codes
            Counts over all genes and encoded label of each cell, ``(n_cells,)``.
        """
        log_expr = log_normalize(PreparedCells(counts=counts, depth=depth), target_sum=TARGET_SUM)
        values = log_expr.data.astype(np.float64)
        self.cells_per_label += np.bincount(codes, minlength=self.n_labels)
        places = np.repeat(codes, np.diff(counts.indptr)).astype(np.int64) * self.n_genes + counts.indices
        totals = np.bincount(places, weights=values, minlength=self.n_labels * self.n_genes)
        self.label_totals += totals.reshape(self.n_labels, self.n_genes)
        if self.method == "seurat":
            scaled = np.expm1(values)
            self._scaled += [self._sum(counts, scaled), self._sum(counts, scaled**2)]
        elif self.method == "seurat_v3":
            raw = counts.data.astype(np.float64)
            self._raw += [self._sum(counts, raw), self._sum(counts, raw**2)]
            self._keep_values(counts)
        else:
            self._log_squares += self._sum(counts, values**2)

    def merge(self, other: "GeneTally") -> None:
        """Add the cells of another tally of the same genes, labels and method."""
        self.n_expressing += other.n_expressing
        self.cells_per_label += other.cells_per_label
        self.label_totals += other.label_totals
        self._log_squares += other._log_squares
        self._scaled += other._scaled
        self._raw += other._raw
        self._values += other._values

    @property
    def n_cells(self) -> int:
        """Cells that were added."""
        return int(self.cells_per_label.sum())

    @property
    def log_expr(self) -> Moments:
        """Sums of log-normalised expression; squares only for ``f_test`` and ``cell_ranger``."""
        return Moments(self.n_cells, self.label_totals.sum(axis=0), self._log_squares)

    @property
    def scaled(self) -> Moments:
        """Sums of counts scaled to the target sum."""
        return Moments(self.n_cells, *self._scaled)

    @property
    def raw(self) -> Moments:
        """Sums of raw counts."""
        return Moments(self.n_cells, *self._raw)

    def clip(self, limits: np.ndarray) -> Moments:
        """Sum raw counts again, none of them taken for more than a gene's limit, ``(n_genes,)``.

        Exact without another pass: counts are few different numbers, so each gene's
        values are kept with how often they occur.
        """
        total, squares = self.raw.total.copy(), self.raw.squares.copy()
        for genes, values, times in self._iter_values():
            clipped = np.minimum(values, limits[genes])
            total += np.bincount(genes, weights=times * (clipped - values), minlength=self.n_genes)
            squares += np.bincount(genes, weights=times * (clipped**2 - values**2), minlength=self.n_genes)
        return Moments(self.n_cells, total, squares)

    def _sum(self, counts: csr_matrix, values: np.ndarray) -> np.ndarray:
        """Sum stored values by gene, ``(n_genes,)``."""
        return np.bincount(counts.indices, weights=values, minlength=self.n_genes)

    def _keep_values(self, counts: csr_matrix) -> None:
        """Keep how often each gene has each count above 1; ones are what remains."""
        large = counts.data > 1
        keys = counts.indices[large].astype(np.int64) << 32 | counts.data[large].astype(np.int64)
        self._values.append(np.unique(keys, return_counts=True))

    def _iter_values(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """List gene, count and number of cells, for each gene and count that occur."""
        n_ones = self.raw.total.copy()
        for found, times in self._values:
            genes, values = found >> 32, (found & 0xFFFFFFFF).astype(np.float64)
            n_ones -= np.bincount(genes, weights=times * values, minlength=self.n_genes)
            yield genes, values, times
        genes = np.flatnonzero(n_ones)
        yield genes, np.ones(len(genes)), n_ones[genes]


def tally_genes(
    cells: Cells, codes: np.ndarray, is_training: np.ndarray, *, method: PanelMethod
) -> GeneTally:
    """Add up, in one pass, which genes are common, and what the panel is chosen by.

    Parameters
    ----------
    cells, codes
        Cells ``(n_cells, n_genes)`` and their encoded labels ``(n_cells,)``.
    is_training
        Cells that the panel is chosen on, ``(n_cells,)``.
    method
        How genes will be ranked.
    """
    tally = GeneTally(len(cells.gene_ids), int(codes.max()) + 1, method)
    depth = cells.obs[keys.DEPTH].to_numpy(dtype=np.float64)
    for rows, chunk in cells.iter_chunks():
        tally.count(chunk)
        chosen = is_training[rows]
        tally.add(chunk[chosen], depth=depth[rows][chosen], codes=codes[rows][chosen])
    return tally
