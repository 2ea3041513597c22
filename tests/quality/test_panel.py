"""The panel: scanpy's highly variable genes, in any order of cells and genes."""

import anndata
import numpy as np
import pandas as pd
import scanpy
from scipy.sparse import csr_matrix
from simulate import simulate_cells

from annotary import keys
from annotary.quality.hvg import choose_panel


def choose(adata: anndata.AnnData, n_top_genes: int) -> pd.DataFrame:
    counts = csr_matrix(adata.X)
    depth = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
    return choose_panel(counts, adata.var_names, depth, n_top_genes=n_top_genes)


def names_of(table: pd.DataFrame) -> set[str]:
    return set(table.index[table[keys.IN_PANEL]])


def test_the_panel_is_scanpy_s():
    adata = simulate_cells()
    expected = adata.copy()
    scanpy.pp.normalize_total(expected, target_sum=1e4)
    scanpy.pp.log1p(expected)
    scanpy.pp.highly_variable_genes(expected, n_top_genes=50)
    found = names_of(choose(adata, 50))
    chosen = set(expected.var_names[expected.var["highly_variable"]])
    assert len(found & chosen) >= 49, "float32 rounding may swap the last gene"


def test_marker_genes_are_in_the_panel():
    markers = {f"GENE{gene:04d}" for gene in range(60)}
    assert len(names_of(choose(simulate_cells(), 80)) & markers) >= 40, "chance would give 16"


def test_order_of_cells_and_genes_does_not_change_the_panel():
    adata = simulate_cells()
    rng = np.random.default_rng(1)
    shuffled = adata[rng.permutation(adata.n_obs), rng.permutation(adata.n_vars)].copy()
    assert names_of(choose(adata, 50)) == names_of(choose(shuffled, 50))


def test_all_genes_are_taken_where_there_are_fewer():
    adata = simulate_cells(n_genes=90)
    dense = adata.X.toarray()
    dense[:, 70] = 0
    adata.X = csr_matrix(dense)
    assert len(names_of(choose(adata, 1200))) == 90
