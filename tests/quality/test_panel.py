"""The panel: scanpy's measures or the F test, in any order of cells and genes, sparse from end to end."""

import anndata
import numpy as np
import pandas as pd
import pytest
import scanpy
from scipy.sparse import csr_matrix
from simulate import simulate_cells
from sklearn.feature_selection import f_classif

from annotary import keys
from annotary.quality import panel
from annotary.quality.panel import choose_panel

METHODS = ("seurat", "seurat_v3", "cell_ranger", "f_test")


def choose(adata: anndata.AnnData, n_top_genes: int, method: str = "seurat") -> pd.DataFrame:
    counts = csr_matrix(adata.X)
    return choose_panel(
        counts,
        adata.var_names,
        depth=np.asarray(counts.sum(axis=1), dtype=np.float64).ravel(),
        codes=adata.obs["cell_type"].astype("category").cat.codes.to_numpy(),
        method=method,
        n_top_genes=n_top_genes,
    )


def names_of(table: pd.DataFrame) -> set[str]:
    return set(table.index[table[keys.IN_PANEL]])


def log_normalize(adata: anndata.AnnData) -> anndata.AnnData:
    normal = adata.copy()
    scanpy.pp.normalize_total(normal, target_sum=1e4)
    scanpy.pp.log1p(normal)
    return normal


@pytest.mark.parametrize("method", ["seurat", "seurat_v3", "cell_ranger"])
def test_the_panel_is_scanpy_s(method):
    adata = simulate_cells()
    expected = adata.copy() if method == "seurat_v3" else log_normalize(adata)
    scanpy.pp.highly_variable_genes(expected, n_top_genes=50, flavor=method)
    chosen = set(expected.var_names[expected.var["highly_variable"]])
    assert len(names_of(choose(adata, 50, method)) & chosen) >= 49, "float32 rounding may swap the last gene"


def test_the_f_test_is_scikit_learn_s_on_dense_values():
    adata = simulate_cells()
    dense = log_normalize(adata).X.toarray().astype(np.float64)
    found = choose(adata, 50, "f_test")[panel.SCORE]
    np.testing.assert_allclose(found, f_classif(dense, adata.obs["cell_type"])[0], rtol=1e-4)


def test_the_f_test_finds_the_genes_that_tell_labels_apart():
    markers = {f"GENE{gene:04d}" for gene in range(60)}
    assert names_of(choose(simulate_cells(), 50, "f_test")) <= markers


@pytest.mark.parametrize("method", METHODS)
def test_order_of_cells_and_genes_does_not_change_the_panel(method):
    adata = simulate_cells()
    rng = np.random.default_rng(1)
    shuffled = adata[rng.permutation(adata.n_obs), rng.permutation(adata.n_vars)].copy()
    assert names_of(choose(adata, 50, method)) == names_of(choose(shuffled, 50, method))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("n_top_genes", [0, 90, 1200])
def test_all_genes_are_taken_where_asked_even_those_that_no_cell_expresses(method, n_top_genes):
    adata = simulate_cells(n_genes=90)
    dense = adata.X.toarray()
    dense[:, 70] = 0
    adata.X = csr_matrix(dense)
    assert len(names_of(choose(adata, n_top_genes, method))) == 90
    assert "GENE0070" not in names_of(choose(adata, 89, method))
