import warnings

import numpy as np
import pytest
import scanpy

from annotary.data.counts import find_non_count
from annotary.data.embedded import DEPTH_KEY, LABEL_KEY, N_GENES_KEY, load_embedded


@pytest.fixture(scope="module")
def embedded():
    return load_embedded()


@pytest.fixture(scope="module")
def original():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return scanpy.datasets.pbmc68k_reduced()


def test_counts_are_counts_with_their_labels(embedded):
    assert embedded.shape == (700, 765)
    assert find_non_count(embedded.X.data) is None
    assert embedded.X.data.min() == 1
    assert embedded.obs[LABEL_KEY].nunique() == 10


def test_counts_give_the_original_values_back(embedded, original):
    scale = 1e4 / embedded.obs[DEPTH_KEY].to_numpy(dtype=np.float64)
    expected = np.log1p(embedded.X.toarray() * scale[:, None])
    # The file keeps three decimals.
    np.testing.assert_allclose(expected, original.raw.X.toarray(), atol=5.1e-4, rtol=0)


def test_first_counts_are_the_recomputed_ones(embedded, original):
    values = np.array([float(value) for value in original.raw.X[0].data[:8]])
    recomputed = np.expm1(values) * 2557 / 1e4
    np.testing.assert_allclose(recomputed, [2, 2, 3, 3, 1, 1, 1, 1], atol=2e-3)
    assert embedded.obs[DEPTH_KEY].iloc[0] == 2557
    first = embedded.X[0].toarray().ravel()
    np.testing.assert_array_equal(first[original.raw.X[0].indices[:8]], [2, 2, 3, 3, 1, 1, 1, 1])


def test_every_value_is_near_one_integer_only(embedded, original):
    scale = original.obs[DEPTH_KEY].to_numpy(dtype=np.float64) / 1e4
    unrounded = np.expm1(original.raw.X.toarray().astype(np.float64)) * scale[:, None]
    assert np.abs(unrounded - embedded.X.toarray()).max() < 0.1


def test_ids_are_those_of_the_original(embedded, original):
    assert list(embedded.var_names) == list(original.raw.var_names)
    assert list(embedded.obs_names) == list(original.obs_names)


def test_totals_stay_below_the_depth_over_all_genes(embedded):
    totals = np.asarray(embedded.X.sum(axis=1)).ravel()
    assert (totals > 0).all()
    assert (totals < embedded.obs[DEPTH_KEY]).all()
    assert (np.diff(embedded.X.indptr) <= embedded.obs[N_GENES_KEY]).all()
