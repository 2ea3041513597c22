"""Clusters for the split: copies and near duplicates together, whatever the order of the cells."""

import random

import anndata
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix, vstack
from simulate import simulate_cells

from annotary import keys
from annotary.data.splits import split_by_group, split_stratified
from annotary.quality.clusters import MIN_CLUSTERS, find_clusters
from annotary.quality.prepare import PreparedCells, log_normalize

SPLIT = {"val_fraction": 0.1, "test_fraction": 0.2}


def encode(adata: anndata.AnnData) -> np.ndarray:
    return adata.obs["cell_type"].astype("category").cat.codes.to_numpy()


def cluster(
    counts: csr_matrix, cell_ids: pd.Index, *, resolution: float = 20.0, seed: int = 0, codes=None
) -> np.ndarray:
    """Cluster, with the components learned from about 70 % of the cells, the same ones in any order."""
    depth = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
    log_expr = log_normalize(PreparedCells(counts=counts, depth=depth), target_sum=1e4)
    sides = split_stratified(
        cell_ids, np.zeros(len(cell_ids), dtype=int), rng=np.random.default_rng(0), **SPLIT
    )
    return find_clusters(
        log_expr, cell_ids, sides == keys.TRAIN, resolution=resolution, seed=seed, codes=codes
    )


def thin(counts: csr_matrix, share: float, *, seed: int = 0) -> csr_matrix:
    """Keep each count with the same probability, as if cells were sequenced less deeply."""
    kept = counts.copy()
    rng = np.random.default_rng(seed)
    kept.data = rng.binomial(counts.data.astype(int), share).astype(np.float32)
    kept.eliminate_zeros()
    return kept


@pytest.mark.full
@pytest.mark.parametrize("share", [1.0, 0.95, 0.9])
def test_a_cell_counted_twice_is_on_one_side(share):
    adata = simulate_cells(400, 300)
    picked = np.random.default_rng(1).choice(400, size=60, replace=False)
    counts = vstack([adata.X, thin(adata.X[picked], share)]).tocsr()
    cell_ids = adata.obs_names.append(pd.Index([f"again{cell}" for cell in picked]))
    codes = np.concatenate([encode(adata), encode(adata)[picked]])
    clusters = cluster(counts, cell_ids, codes=codes)
    np.testing.assert_array_equal(clusters[400:], clusters[picked])
    sides = split_by_group(codes, clusters, seed=0, place="x.h5ad", **SPLIT)
    np.testing.assert_array_equal(sides[400:], sides[picked])
    assert len(np.unique(clusters)) > 20, "not because everything is together"


def test_a_cell_with_more_copies_than_neighbours_is_in_one_cluster():
    adata = simulate_cells(200, 300)
    counts = vstack([adata.X, *[adata.X[7]] * 40]).tocsr()
    cell_ids = adata.obs_names.append(pd.Index([f"copy{copy}" for copy in range(40)]))
    assert set(cluster(counts, cell_ids)[200:]) == {cluster(counts, cell_ids)[7]}


def test_cells_of_one_type_are_not_taken_for_near_duplicates():
    adata = simulate_cells(400, 300)
    clusters = cluster(csr_matrix(adata.X), adata.obs_names)
    assert np.bincount(clusters).max() < 60


def test_a_cluster_is_of_one_type_where_types_differ():
    adata = simulate_cells(400, 300)
    clusters = cluster(csr_matrix(adata.X), adata.obs_names)
    assert pd.crosstab(clusters, adata.obs["cell_type"].to_numpy()).max(axis=1).sum() > 380


def test_a_higher_resolution_gives_smaller_clusters():
    adata = simulate_cells(400, 300)
    few, many = (
        len(np.unique(cluster(csr_matrix(adata.X), adata.obs_names, resolution=resolution)))
        for resolution in (1.0, 20.0)
    )
    assert 3 <= few < many / 3


def test_a_rare_label_has_clusters_enough_for_every_side():
    adata = simulate_cells(400, 300)
    codes = encode(adata)
    rare = np.flatnonzero(codes == 2)
    adata = adata[np.concatenate([np.flatnonzero(codes != 2), rare[:12]])]
    codes = encode(adata)
    counts = csr_matrix(adata.X)
    assert len(np.unique(cluster(counts, adata.obs_names, resolution=2.0)[codes == 2])) < 3
    clusters = cluster(counts, adata.obs_names, resolution=2.0, codes=codes)
    for code in range(3):
        assert len(np.unique(clusters[codes == code])) >= MIN_CLUSTERS
    sides = split_by_group(codes, clusters, seed=0, place="x.h5ad", **SPLIT)
    for code in range(3):
        assert set(sides[codes == code]) == set(keys.SIDES)
    assert np.mean(sides == keys.TEST) == pytest.approx(0.2, abs=0.04)
    assert np.mean(sides == keys.VALIDATION) == pytest.approx(0.1, abs=0.04)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_order_of_cells_does_not_change_the_clusters(seed):
    adata = simulate_cells(200, 200)
    order = np.random.default_rng(seed).permutation(200)
    counts, codes = csr_matrix(adata.X), encode(adata)
    clusters = cluster(counts, adata.obs_names, seed=seed, codes=codes)
    moved = cluster(counts[order], adata.obs_names[order], seed=seed, codes=codes[order])
    np.testing.assert_array_equal(moved, clusters[order])


def test_the_way_values_are_stored_does_not_change_the_clusters():
    adata = simulate_cells(200, 200)
    clusters = cluster(csr_matrix(adata.X), adata.obs_names)
    stored = csr_matrix(adata.X)
    for row in range(200):
        span = slice(stored.indptr[row], stored.indptr[row + 1])
        stored.indices[span], stored.data[span] = stored.indices[span][::-1], stored.data[span][::-1]
    stored.has_sorted_indices = False
    np.testing.assert_array_equal(cluster(stored, adata.obs_names), clusters)


def test_the_seed_decides_and_random_states_are_left_alone():
    adata = simulate_cells(300, 300)
    counts = csr_matrix(adata.X)
    random.seed(1)
    np.random.seed(1)
    before = random.getstate(), np.random.get_state()[1].copy()
    clusters = cluster(counts, adata.obs_names, seed=3)
    assert random.getstate() == before[0]
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])
    random.seed(2)
    np.random.seed(2)
    np.testing.assert_array_equal(cluster(counts, adata.obs_names, seed=3), clusters)
    assert (cluster(counts, adata.obs_names, seed=4) != clusters).any()


def test_input_is_left_as_it_was():
    adata = simulate_cells(100, 100)
    log_expr = log_normalize(PreparedCells(adata.X, np.asarray(adata.X.sum(1)).ravel()), target_sum=1e4)
    before = log_expr.copy()
    find_clusters(log_expr, adata.obs_names, np.ones(100, dtype=bool), resolution=5.0, seed=0)
    np.testing.assert_array_equal(log_expr.data, before.data)
    np.testing.assert_array_equal(log_expr.indices, before.indices)


@pytest.mark.parametrize("n_cells", [1, 2, 3, 10])
@pytest.mark.parametrize("n_genes", [1, 2, 60])
def test_few_cells_and_genes_are_clustered_too(n_cells, n_genes):
    adata = simulate_cells(n_cells, 100)[:, :n_genes]
    log_expr = csr_matrix(np.log1p(adata.X))
    is_training = np.arange(n_cells) % 2 == 0
    clusters = find_clusters(log_expr, adata.obs_names, is_training, resolution=5.0, seed=0)
    assert set(clusters) == set(range(clusters.max() + 1))
    assert len(clusters) == n_cells


def test_cells_without_a_count_on_the_panel_are_together():
    adata = simulate_cells(100, 100)
    counts = vstack([adata.X, csr_matrix((30, 100), dtype=np.float32)]).tocsr()
    cell_ids = adata.obs_names.append(pd.Index([f"empty{cell}" for cell in range(30)]))
    assert len(set(cluster(counts, cell_ids)[100:])) == 1
