"""Cross-validation folds for every trial, laid out once so that no trial copies the cells."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from annotary.data.dataset import LabelledCells
from annotary.quality.prepare import PreparedCells, log_normalize

BLOCK_CELLS = 2048
"""Cells that are log-normalised at a time."""


@dataclass(frozen=True)
class Fold:
    """Log-normalised cells to fit, and cells to score.

    Attributes
    ----------
    fitted, held_out
        ``(n_fitted, n_panel)`` and ``(n_held_out, n_panel)``, float32.
    fitted_codes, held_out_codes
        Encoded labels, ``(n_fitted,)`` and ``(n_held_out,)``.
    """

    fitted: csr_matrix
    fitted_codes: np.ndarray
    held_out: csr_matrix
    held_out_codes: np.ndarray


class FoldedCells:
    """Cells sorted by fold, with all but the last two folds repeated behind them.

    What any fold fits to, the other folds, are neighbouring rows then: a view of this matrix, not a
    copy. It takes ``(2 k - 2) / k`` times the memory of the cells for ``k`` folds, once.

    Attributes
    ----------
    counts
        Raw counts, genes in alphabetical order, ``(n_laid_out, n_genes)``, float32.
    depth, codes
        Counts over all genes and encoded label, ``(n_laid_out,)``.
    gene_ids
        Ids of the columns, ``(n_genes,)``.
    n_folds, n_cells, n_classes
        Folds, different cells, and labels.
    rows
        Position of each cell in what was laid out, ``(n_cells,)``.
    fold_of_cell
        Fold of each of the first ``n_cells`` rows, 0 to ``n_folds - 1``, ``(n_cells,)``.
    """

    def __init__(self, cells: LabelledCells, gene_ids: pd.Index) -> None:
        """Lay out training and validation cells ``(n_cells, n_genes)`` with their folds."""
        numbers, fold_of_cell = np.unique(cells.folds, return_inverse=True)
        order = np.argsort(gene_ids.to_numpy(dtype=str), kind="stable")
        members = [np.flatnonzero(fold_of_cell == fold) for fold in range(len(numbers))]
        laid_out = np.concatenate([*members, *members[:-2]])
        sizes = [len(rows) for rows in (*members, *members[:-2])]
        self.counts = _take(cells.counts, laid_out, order)
        self.depth = cells.depth[laid_out]
        self.codes = cells.codes[laid_out]
        self.gene_ids = gene_ids[order]
        self.n_folds = len(numbers)
        self.n_cells = len(cells.codes)
        self.n_classes = int(cells.codes.max()) + 1
        self.rows = laid_out[: self.n_cells]
        self.fold_of_cell = fold_of_cell[self.rows]
        self._bounds = np.concatenate([[0], np.cumsum(sizes)])
        self._log_expr = self.counts.data.copy()
        self._target_sum: float | None = None

    def get_fold(self, fold: int, columns: np.ndarray | None, *, target_sum: float) -> Fold:
        """Get the cells of a fold.

        Parameters
        ----------
        fold
            Its number, 0 to ``n_folds - 1``.
        columns
            Ascending positions of the panel, ``(n_panel,)``; None takes all genes without a copy.
        target_sum
            Counts that each cell is scaled to before log1p. All folds share their values: those of
            another target sum are overwritten.
        """
        fitted, held_out = self.list_fitted(fold), self.list_held_out(fold)
        return Fold(
            fitted=self._get_log_expr(fitted, columns, target_sum),
            fitted_codes=self.codes[fitted],
            held_out=self._get_log_expr(held_out, columns, target_sum),
            held_out_codes=self.codes[held_out],
        )

    def get_all(self, columns: np.ndarray | None, *, target_sum: float) -> csr_matrix:
        """Get every cell once, ``(n_cells, n_panel)``; its codes are the first ``n_cells``."""
        return self._get_log_expr(slice(0, self.n_cells), columns, target_sum)

    def list_fitted(self, fold: int | None) -> slice:
        """List the rows that a fold fits to; None for all cells, each once."""
        if fold is None:
            return slice(0, self.n_cells)
        start = (fold + 1) % self.n_folds
        return slice(int(self._bounds[start]), int(self._bounds[start + self.n_folds - 1]))

    def list_held_out(self, fold: int) -> slice:
        """List the rows that a fold holds out."""
        return slice(int(self._bounds[fold]), int(self._bounds[fold + 1]))

    def count_expressed(self, columns: np.ndarray | None) -> np.ndarray:
        """Count the panel genes that each cell expresses, ``(n_cells,)``."""
        in_panel = np.zeros(len(self.gene_ids), dtype=bool)
        in_panel[slice(None) if columns is None else columns] = True
        counted = np.empty(self.n_cells, dtype=np.int64)
        for rows in iter_blocks(slice(0, self.n_cells)):
            block = view_rows(self.counts, rows)
            counted[rows] = (block > 0).astype(np.int32) @ in_panel.astype(np.int32)
        return counted

    def _get_log_expr(self, rows: slice, columns: np.ndarray | None, target_sum: float) -> csr_matrix:
        """View rows of the log-normalised cells; copy the panel's columns if there is one."""
        self._normalize(target_sum)
        counts = self.counts
        whole = _share(self._log_expr, counts.indices, counts.indptr, counts.shape[1])
        view = view_rows(whole, rows)
        return view if columns is None else view[:, columns]

    def _normalize(self, target_sum: float) -> None:
        """Overwrite the shared values with those of a target sum."""
        if target_sum == self._target_sum:
            return
        for rows in iter_blocks(slice(0, len(self.depth))):
            block = PreparedCells(counts=view_rows(self.counts, rows), depth=self.depth[rows])
            start, stop = self.counts.indptr[[rows.start, rows.stop]]
            self._log_expr[start:stop] = log_normalize(block, target_sum=target_sum).data
        self._target_sum = target_sum


def iter_blocks(rows: slice) -> list[slice]:
    """Cut a range of rows into blocks of ``BLOCK_CELLS``."""
    return [
        slice(start, min(start + BLOCK_CELLS, rows.stop))
        for start in range(rows.start, rows.stop, BLOCK_CELLS)
    ]


def view_rows(matrix: csr_matrix, rows: slice) -> csr_matrix:
    """View neighbouring rows: values and columns are shared with the matrix."""
    start, stop = matrix.indptr[rows.start], matrix.indptr[rows.stop]
    indptr = matrix.indptr[rows.start : rows.stop + 1] - start
    return _share(matrix.data[start:stop], matrix.indices[start:stop], indptr, matrix.shape[1])


def _share(data: np.ndarray, indices: np.ndarray, indptr: np.ndarray, n_columns: int) -> csr_matrix:
    """Make a matrix of arrays with sorted columns; SciPy's constructor copies views of much larger ones."""
    shared = csr_matrix((len(indptr) - 1, n_columns), dtype=data.dtype)
    shared.data, shared.indices, shared.indptr = data, indices, indptr
    shared.has_sorted_indices = True
    return shared


def _take(counts: csr_matrix, rows: np.ndarray, columns: np.ndarray) -> csr_matrix:
    """Take rows in any order, and all columns in another order, as float32 with sorted columns."""
    taken = counts[rows]
    place = np.empty(len(columns), dtype=taken.indices.dtype)
    place[columns] = np.arange(len(columns))
    taken.indices = place[taken.indices]
    taken.has_sorted_indices = False
    taken.sort_indices()
    taken.data = taken.data.astype(np.float32, copy=False)
    return taken
