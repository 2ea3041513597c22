"""Statistics of genes: the same in any chunks, and the same numbers as scanpy on all cells."""

import numpy as np
import pandas as pd
import pytest
import scanpy
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix
from simulate import simulate_cells

from annotary.quality.gene_tally import GeneTally
from annotary.quality.panel import SCORE, rank_genes

CELLS = simulate_cells(300, 400, seed=5)
COUNTS = csr_matrix(CELLS.X)
DEPTH = np.asarray(COUNTS.sum(axis=1), dtype=np.float64).ravel()
CODES = CELLS.obs["cell_type"].astype("category").cat.codes.to_numpy(dtype=np.int64)
METHODS = ("seurat", "seurat_v3", "cell_ranger", "f_test")


def tally(method: str, bounds: list[int]) -> GeneTally:
    made = GeneTally(COUNTS.shape[1], 3, method)
    for start, stop in zip([0, *bounds], [*bounds, COUNTS.shape[0]], strict=True):
        made.count(COUNTS[start:stop])
        made.add(COUNTS[start:stop], depth=DEPTH[start:stop], codes=CODES[start:stop])
    return made


@settings(max_examples=12, deadline=None)
@given(
    method=st.sampled_from(METHODS), bounds=st.lists(st.integers(1, 299), max_size=6, unique=True).map(sorted)
)
def test_chunks_do_not_change_a_score(method, bounds):
    whole, parts = (rank_genes(tally(method, cuts), CELLS.var_names, n_top_genes=50) for cuts in ([], bounds))
    np.testing.assert_allclose(parts[SCORE], whole[SCORE], rtol=1e-9, equal_nan=True)
    pd.testing.assert_series_equal(parts["in_panel"], whole["in_panel"])


@pytest.mark.parametrize("method", METHODS)
def test_merged_tallies_are_the_tally_of_all_cells(method):
    merged = GeneTally(COUNTS.shape[1], 3, method)
    for rows in (slice(200, 300), slice(0, 200)):
        part = GeneTally(COUNTS.shape[1], 3, method)
        part.count(COUNTS[rows])
        part.add(COUNTS[rows], depth=DEPTH[rows], codes=CODES[rows])
        merged.merge(part)
    found, whole = (rank_genes(one, CELLS.var_names, n_top_genes=50) for one in (merged, tally(method, [])))
    np.testing.assert_allclose(found[SCORE], whole[SCORE], rtol=1e-9, equal_nan=True)
    pd.testing.assert_frame_equal(found.drop(columns=SCORE), whole.drop(columns=SCORE))


@pytest.mark.parametrize(
    ("method", "column"),
    [("seurat", "dispersions_norm"), ("cell_ranger", "dispersions_norm"), ("seurat_v3", "variances_norm")],
)
def test_every_score_is_scanpy_s(method, column):
    adata = CELLS.copy()
    if method != "seurat_v3":
        adata.X = adata.X.astype(np.float64)
        scanpy.pp.normalize_total(adata, target_sum=1e4)
        scanpy.pp.log1p(adata)
    table = scanpy.pp.highly_variable_genes(adata, n_top_genes=50, flavor=method, inplace=False)
    found = rank_genes(tally(method, [100, 130]), CELLS.var_names, n_top_genes=50)
    expected = table[column].to_numpy(dtype=np.float64)
    np.testing.assert_allclose(found[SCORE], expected, rtol=2e-3, atol=1e-4, equal_nan=True)


def test_clipped_sums_are_those_of_clipped_counts():
    limits = np.random.default_rng(0).uniform(0.3, 6, size=COUNTS.shape[1])
    clipped = np.minimum(COUNTS.toarray().astype(np.float64), limits)
    found = tally("seurat_v3", [7, 200]).clip(limits)
    np.testing.assert_allclose(found.total, clipped.sum(axis=0))
    np.testing.assert_allclose(found.squares, (clipped**2).sum(axis=0))


def test_only_the_genes_that_may_be_chosen_are_ranked():
    among = np.zeros(COUNTS.shape[1], dtype=bool)
    among[10:90] = True
    table = rank_genes(tally("f_test", []), CELLS.var_names, n_top_genes=30, among=among)
    assert list(table.index) == list(CELLS.var_names[10:90])
    assert table["in_panel"].sum() == 30
