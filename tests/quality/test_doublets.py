"""SOLO finds doublets that were mixed in, on any number of cells."""

import numpy as np
import pytest
import scanpy
import torch
from scipy.sparse import csr_matrix, vstack
from simulate import simulate_cells
from sklearn.metrics import roc_auc_score

from annotary.data.embedded import load_embedded
from annotary.errors import CountsError
from annotary.quality import panel
from annotary.quality.doublets import call_doublets, choose_epochs


@pytest.mark.slow
def test_mixed_in_doublets_are_found_and_few_cells_are_called():
    counts = csr_matrix(load_embedded().X)
    rng = np.random.default_rng(0)
    one, other = rng.integers(counts.shape[0], size=(2, 50))
    calls = call_doublets(vstack([counts, counts[one] + counts[other]], format="csr"), max_epochs=0, seed=42)
    is_mixed = np.arange(750) >= 700
    assert roc_auc_score(is_mixed, calls.probability) > 0.95
    assert calls.is_doublet[is_mixed].mean() > 0.8
    assert calls.is_doublet[~is_mixed].mean() < 0.2


@pytest.mark.parametrize("n_cells", [129, 143, 257])
def test_a_last_batch_of_one_cell_does_no_harm(n_cells):
    assert 1 in {n_cells % 128, int(np.ceil(0.9 * n_cells)) % 128}
    calls = call_doublets(csr_matrix(simulate_cells(n_cells).X), max_epochs=1, seed=0)
    assert calls.probability.shape == (n_cells,)
    assert np.isfinite(calls.probability).all()


def test_same_seed_gives_the_same_calls_and_leaves_the_caller_s_random_state():
    counts = csr_matrix(simulate_cells(100).X)
    np.random.seed(3)
    torch.manual_seed(3)
    before = np.random.get_state()[1].copy(), torch.random.get_rng_state()
    first, second = (call_doublets(counts, max_epochs=2, seed=1).probability for _ in range(2))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(np.random.get_state()[1], before[0])
    assert torch.equal(torch.random.get_rng_state(), before[1])


def test_few_cells_on_which_loess_breaks_down_are_ranked_all_the_same(monkeypatch):
    original = scanpy.pp.highly_variable_genes

    def break_down(*args, flavor, **options):
        if flavor == "seurat_v3":
            raise ValueError("There are other near singularities as well.")
        return original(*args, flavor=flavor, **options)

    monkeypatch.setattr(scanpy.pp, "highly_variable_genes", break_down)
    counts = csr_matrix(simulate_cells(60, 500).X)
    assert panel.rank_by_variability(counts, np.full(60, 500.0)).shape == (500,)
    with pytest.raises(CountsError, match="--panel-method seurat_v3 needs more cells"):
        panel._score_by_variability(counts, counts, "seurat_v3")


def test_small_data_get_more_epochs_for_the_same_number_of_steps():
    assert choose_epochs(700) == 72
    assert choose_epochs(50) == 360
    assert choose_epochs(1_000_000) == 20
