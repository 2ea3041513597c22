"""Simulated cells laid out in folds, for tests of the search."""

import numpy as np
import pandas as pd
from models.conformance import make_cells
from scipy.sparse import csr_matrix

from annotary.data.dataset import LabelledCells
from annotary.models.baselines import BASELINES
from annotary.models.folds import FoldedCells
from annotary.models.panels import PanelChooser, Preparation, make_space
from annotary.models.tuning.search import Search

OWN = Preparation("seurat", 12, 1e4)


def label_cells(n_cells: int = 90, *, n_folds: int = 3, n_labels: int = 3, seed: int = 0) -> LabelledCells:
    cells, codes = make_cells(n_cells, seed=seed)
    return LabelledCells(
        counts=cells.counts,
        depth=cells.depth,
        codes=codes % n_labels,
        cell_ids=pd.Index([f"cell{cell}" for cell in range(n_cells)]),
        folds=np.random.default_rng(seed).permutation(np.arange(n_cells) % n_folds),
    )


def name_genes(cells: LabelledCells) -> pd.Index:
    """Name genes so that their order is not the alphabet's."""
    n_genes = cells.counts.shape[1]
    return pd.Index([f"G{gene:03d}" for gene in np.random.default_rng(1).permutation(n_genes)])


def make_search(
    kind: str = "logistic_regression", *, fixed=None, seed: int = 0, n_jobs: int = 1, **options
) -> Search:
    cells = label_cells(**options)
    folded = FoldedCells(cells, name_genes(cells))
    space = make_space(OWN, n_genes=cells.counts.shape[1], fixed=fixed is not None)
    panels = PanelChooser(folded, fixed=fixed)
    return Search(BASELINES[kind], folded, panels, space, seed=seed, n_jobs=n_jobs)


def shuffle_rows(matrix: csr_matrix, rows: np.ndarray) -> csr_matrix:
    """Replace rows of a matrix by random counts."""
    dense = matrix.toarray()
    dense[rows] = np.random.default_rng(0).poisson(9, size=(rows.sum(), dense.shape[1]))
    return csr_matrix(dense.astype(np.float32))
