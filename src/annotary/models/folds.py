"""Cross-validation folds as models take them, each with a panel of its own."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from annotary import keys
from annotary.data.dataset import LabelledCells
from annotary.quality.gene_tally import PanelMethod
from annotary.quality.panel import choose_panel
from annotary.quality.prepare import PreparedCells, log_normalize


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


def make_folds(
    cells: LabelledCells,
    gene_ids: pd.Index,
    *,
    method: PanelMethod,
    n_top_genes: int,
    target_sum: float,
    panel: pd.Index | None = None,
) -> list[Fold]:
    """Prepare each fold once, for all trials: its panel is chosen on the cells it fits.

    Parameters
    ----------
    cells
        Training and validation cells ``(n_cells, n_genes)`` with their folds.
    gene_ids
        Ids of the genes, ``(n_genes,)``.
    method, n_top_genes
        How a panel is chosen.
    target_sum
        Counts that each cell is scaled to before log1p.
    panel
        Panel of all folds, where it is not chosen anew.
    """
    order = np.argsort(gene_ids.to_numpy(dtype=str), kind="stable")
    folds = []
    for fold in np.unique(cells.folds):
        held_out = cells.folds == fold
        if panel is None:
            table = choose_panel(
                cells.counts[~held_out],
                gene_ids,
                depth=cells.depth[~held_out],
                codes=cells.codes[~held_out],
                method=method,
                n_top_genes=n_top_genes,
            )
            in_panel = table[keys.IN_PANEL].to_numpy()
        else:
            in_panel = gene_ids.isin(panel)
        prepared = PreparedCells(counts=cells.counts[:, order[in_panel[order]]], depth=cells.depth)
        log_expr = log_normalize(prepared, target_sum=target_sum)
        folds.append(split_fold(log_expr, cells.codes, held_out))
    return folds


def split_fold(log_expr: csr_matrix, codes: np.ndarray, held_out: np.ndarray) -> Fold:
    """Split cells ``(n_cells, n_panel)`` with codes ``(n_cells,)`` by a mask ``(n_cells,)``."""
    return Fold(
        fitted=log_expr[~held_out],
        fitted_codes=codes[~held_out],
        held_out=log_expr[held_out],
        held_out_codes=codes[held_out],
    )
