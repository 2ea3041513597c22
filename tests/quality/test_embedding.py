"""Positions of cells in the plane: like beside like, repeatable, and never an error."""

import random

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from simulate import simulate_cells
from sklearn.neighbors import NearestNeighbors

from annotary.quality.embedding import embed_cells


def make_log_expr(n_cells: int, n_genes: int = 300) -> tuple[csr_matrix, np.ndarray]:
    cells = simulate_cells(n_cells, n_genes)
    return csr_matrix(cells.X).log1p(), cells.obs["cell_type"].to_numpy()


def test_cells_of_a_type_lie_together():
    log_expr, labels = make_log_expr(240)
    positions = embed_cells(log_expr, seed=0)
    assert positions.shape == (240, 2)
    neighbours = NearestNeighbors(n_neighbors=6).fit(positions).kneighbors(return_distance=False)
    assert (labels[neighbours] == labels[:, None]).mean() > 0.95


def test_the_seed_decides_and_the_random_states_and_the_input_stay():
    log_expr, _ = make_log_expr(60)
    before = log_expr.copy()
    numpy_state, python_state = np.random.get_state()[1].copy(), random.getstate()
    one = embed_cells(log_expr, seed=3)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)
    assert random.getstate() == python_state
    assert (log_expr != before).nnz == 0
    np.testing.assert_array_equal(embed_cells(log_expr, seed=3), one)
    assert not np.array_equal(embed_cells(log_expr, seed=4), one)


@pytest.mark.parametrize("n_cells", [1, 2, 3, 14, 15, 16, 17, 30, 31, 32])
def test_few_cells_have_positions(n_cells):
    positions = embed_cells(make_log_expr(n_cells)[0], seed=0)
    assert positions.shape == (n_cells, 2)
    assert np.isfinite(positions).all()
    assert len(np.unique(positions, axis=0)) == n_cells


@pytest.mark.parametrize("n_genes", [1, 2, 30, 31])
@pytest.mark.parametrize("n_cells", [3, 40])
def test_few_genes_have_positions(n_cells, n_genes):
    rng = np.random.default_rng(0)
    positions = embed_cells(csr_matrix(rng.gamma(1.0, size=(n_cells, n_genes))), seed=0)
    assert positions.shape == (n_cells, 2)
    assert np.isfinite(positions).all()


def test_one_gene_places_cells_on_a_line():
    positions = embed_cells(csr_matrix([[0.0], [1.0], [3.0]] * 10), seed=0)
    assert abs(positions[2, 0] - positions[0, 0]) == pytest.approx(3)
    assert (positions[:, 1] == 0).all()


@pytest.mark.parametrize("n_cells", [1, 5, 50])
@pytest.mark.parametrize("value", [0.0, 2.0])
def test_equal_cells_lie_at_the_origin(n_cells, value):
    assert not embed_cells(csr_matrix(np.full((n_cells, 40), value)), seed=0).any()


def test_repeated_cells_do_not_fail():
    log_expr, _ = make_log_expr(5)
    positions = embed_cells(csr_matrix(np.repeat(log_expr.toarray(), 30, axis=0)), seed=0)
    assert np.isfinite(positions).all()
