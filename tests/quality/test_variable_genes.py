"""The genes that doublets are called on: seurat_v3's, by the same numbers as scanpy."""

import numpy as np
import pandas as pd
import pytest
import scanpy
from scipy.sparse import csr_matrix
from simulate import simulate_cells

from annotary import keys
from annotary.data.scratch import open_store
from annotary.data.source import Cells
from annotary.quality import panel
from annotary.quality.variable_genes import find_variable_genes


@pytest.fixture
def cells(tmp_path):
    adata = simulate_cells(200, 500)
    with open_store(tmp_path, adata.n_vars) as store:
        counts = csr_matrix(adata.X)
        store.append(counts[:70])
        store.append(counts[70:])
        obs = pd.DataFrame(
            {keys.DEPTH: np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()}, index=adata.obs_names
        )
        yield Cells(counts=store.view(), obs=obs, gene_ids=adata.var_names, place="cells.h5ad: X")


def test_the_genes_are_scanpy_s(cells):
    adata = simulate_cells(200, 500)
    common = np.flatnonzero(np.diff(adata.X.tocsc().indptr) >= 3)
    kept = adata[:, common].copy()
    scanpy.pp.highly_variable_genes(kept, n_top_genes=100, flavor="seurat_v3")
    expected = common[kept.var["highly_variable"].to_numpy()]
    np.testing.assert_array_equal(find_variable_genes(cells, n_top_genes=100), expected)


def test_all_common_genes_are_taken_where_there_are_few(cells):
    common = np.flatnonzero(np.diff(simulate_cells(200, 500).X.tocsc().indptr) >= 3)
    np.testing.assert_array_equal(find_variable_genes(cells, n_top_genes=2000), common)


def test_few_cells_on_which_loess_breaks_down_are_ranked_all_the_same(cells, monkeypatch):
    def break_down(*args, **options):
        raise ValueError("There are other near singularities as well.")

    monkeypatch.setattr(panel, "_score_by_variance", break_down)
    found = find_variable_genes(cells, n_top_genes=100)
    assert len(found) == 100
    assert (np.diff(found) > 0).all()
