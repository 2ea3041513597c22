"""What is kept of cells that go by, whatever their number: which genes they express, and a sample of them."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from scipy.sparse import vstack

from annotary.data.counts import count_cells_per_gene
from annotary.quality.prepare import PreparedCells

SAMPLED_CELLS = 2_000


@dataclass(frozen=True)
class CellSample:
    """Some of the cells; each is as likely to be among them as any other.

    Attributes
    ----------
    cells
        Panel counts and depth, ``(n_cells, n_panel)`` and ``(n_cells,)``.
    codes, sources
        Code of each cell's label, and address of its file, ``(n_cells,)``.
    lots
        Random number of each cell, 0 to 1, ``(n_cells,)``: the cells with the smallest are kept.
    """

    cells: PreparedCells
    codes: np.ndarray
    sources: np.ndarray
    lots: np.ndarray

    def join(self, other: Self, *, most: int = SAMPLED_CELLS) -> Self:
        """Sample cells of two samples together."""
        joined = type(self)(
            cells=PreparedCells(
                counts=vstack([self.cells.counts, other.cells.counts], format="csr"),
                depth=np.concatenate([self.cells.depth, other.cells.depth]),
            ),
            codes=np.concatenate([self.codes, other.codes]),
            sources=np.concatenate([self.sources, other.sources]),
            lots=np.concatenate([self.lots, other.lots]),
        )
        kept = np.sort(np.argsort(joined.lots, kind="stable")[:most])
        return joined if len(kept) == len(joined.lots) else joined.take(kept)

    def take(self, rows: np.ndarray) -> Self:
        """Keep some of the cells, by their positions."""
        return type(self)(self.cells[rows], self.codes[rows], self.sources[rows], self.lots[rows])


@dataclass(frozen=True)
class Survey:
    """What is kept of cells.

    Attributes
    ----------
    n_expressing
        Cells that express each panel gene, ``(n_panel,)``.
    n_cells
        Cells of files that have the gene, ``(n_panel,)``.
    sample
        Some of the cells; None where none are wanted.
    """

    n_expressing: np.ndarray
    n_cells: np.ndarray
    sample: CellSample | None

    @classmethod
    def count(cls, cells: PreparedCells, has_gene: np.ndarray, sample: CellSample | None) -> Self:
        """Count some cells of a file that has the panel genes of a mask ``(n_panel,)``."""
        return cls(
            n_expressing=count_cells_per_gene(cells.counts), n_cells=len(cells) * has_gene, sample=sample
        )

    def join(self, other: Self) -> Self:
        """Put what is kept of other cells to it."""
        sample = self.sample.join(other.sample) if self.sample and other.sample else None
        return type(self)(
            n_expressing=self.n_expressing + other.n_expressing,
            n_cells=self.n_cells + other.n_cells,
            sample=sample,
        )

    @property
    def detection(self) -> np.ndarray:
        """Share of the cells that express each panel gene, ``(n_panel,)``; NaN where no file has it."""
        nowhere = np.full(len(self.n_cells), np.nan)
        return np.divide(self.n_expressing, self.n_cells, out=nowhere, where=self.n_cells > 0)
