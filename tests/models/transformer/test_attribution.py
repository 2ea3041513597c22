from dataclasses import replace

import numpy as np
import pytest
import torch
from models.conformance import N_CLASSES, N_PANEL, make_cells
from models.transformer.small_training import NETWORK, fit

from annotary.models.transformer import attribution
from annotary.models.transformer.attribution import contribute, draw_cells, weigh_genes
from annotary.models.transformer.batches import make_batch
from annotary.models.transformer.config import NetworkConfig
from annotary.models.transformer.network import GeneTransformer
from annotary.models.transformer.tokens import tokenize

SHAPES = [
    {},
    {"linear_path": True},
    {"linear_path": True, "attention_genes": 12},
    {"values": "bins", "pooling": "cls"},
    {"tokens": "all", "values": "bins", "norm": "post"},
]


def weigh(network, *, seed=0, n_cells=60):
    cells, codes = make_cells(n_cells, seed=5)
    return weigh_genes([network], cells, codes, seed=seed, device="cpu")


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_genes_that_speak_for_a_class_are_its_simulated_markers(shape):
    network, _ = fit(network=replace(NETWORK, dropout=0.0, **shape), max_epochs=8, patience=8)
    weights = weigh(network)
    assert weights.shape == (N_PANEL, N_CLASSES)
    groups = weights.reshape(-1, 8, N_CLASSES).mean(axis=1)  # eight markers of each class, then others
    np.testing.assert_array_equal(groups.argmax(axis=0), np.arange(N_CLASSES))
    if network.config.values == "continuous":
        for code in range(N_CLASSES):
            markers = set(range(code * 8, code * 8 + 8))
            assert len(markers & set(np.argsort(-weights[:, code])[:8])) >= 6, (code, weights[:, code])


@pytest.fixture
def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = GeneTransformer(NetworkConfig(N_PANEL, N_CLASSES, d_model=16)).eval()
        torch.nn.init.normal_(made.linear_path.weight.weight)
        return made


def stand_out(logits, codes):
    return logits[torch.arange(len(codes)), codes] - logits.mean(dim=1)


def test_of_one_step_near_the_cell_a_contribution_is_its_value_times_the_gradient(network, monkeypatch):
    cells, codes = make_cells(6, seed=2)
    batch = make_batch(tokenize(network.config, cells), np.arange(6), network.config)
    codes, half = torch.from_numpy(codes), (batch.values / 2).requires_grad_()
    (gradient,) = torch.autograd.grad(stand_out(network(batch._replace(values=half)), codes).sum(), half)
    monkeypatch.setattr(attribution, "N_STEPS", 1)
    found = contribute(network, batch, codes)
    expected = (batch.values * gradient).detach()
    torch.testing.assert_close(found[batch.is_token], expected[batch.is_token], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("shape", [{"n_layers": 0}, {"tokens": "all", "values": "bins"}], ids=str)
def test_contributions_add_up_to_what_expression_changes(shape, monkeypatch):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = GeneTransformer(NetworkConfig(N_PANEL, N_CLASSES, d_model=16, **shape)).eval()
    cells, codes = make_cells(6, seed=2)
    batch = make_batch(tokenize(network.config, cells), np.arange(6), network.config)
    codes = torch.from_numpy(codes)
    silent = batch._replace(values=torch.zeros_like(batch.values), bin_ids=torch.zeros_like(batch.bin_ids))
    with torch.no_grad():
        changed = stand_out(network(batch), codes) - stand_out(network(silent), codes)
    monkeypatch.setattr(attribution, "N_STEPS", 256)
    found = contribute(network, batch, codes)
    torch.testing.assert_close((found * batch.is_token).sum(dim=1), changed, atol=0.02, rtol=0.05)


def test_what_raises_all_logits_alike_is_no_contribution(network):
    before = weigh(network)
    network.linear_path.weight.weight.data[3] += 5.0
    np.testing.assert_allclose(weigh(network), before, atol=1e-4)


def test_a_gene_that_no_cell_expresses_says_nothing(network):
    cells, codes = make_cells(30, seed=1)
    counts = cells.counts.toarray()
    counts[:, 7] = 0
    silent = replace(cells, counts=type(cells.counts)(counts))
    weights = weigh_genes([network], silent, codes, seed=0, device="cpu")
    assert (weights[7] == 0).all()
    assert (weights[8] != 0).any()


def test_networks_are_averaged_and_a_class_without_cells_is_unknown(network):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        other = GeneTransformer(network.config).eval()
    cells, codes = make_cells(30, seed=1)
    some = np.flatnonzero(codes != 2)
    one, two, both = (
        weigh_genes(networks, cells[some], codes[some], seed=0, device="cpu")
        for networks in ([network], [other], [network, other])
    )
    assert np.isnan(both[:, 2]).all()
    np.testing.assert_allclose(both[:, :2], (one[:, :2] + two[:, :2]) / 2, atol=1e-6)


def test_batches_do_not_change_what_genes_say(network, monkeypatch):
    before = weigh(network)
    monkeypatch.setattr(attribution, "_TOKEN_BUDGET", 1)
    np.testing.assert_allclose(weigh(network), before, atol=1e-6)


def test_few_cells_of_each_class_are_looked_at_and_all_of_a_rare_one(monkeypatch):
    monkeypatch.setattr(attribution, "CELLS_PER_LABEL", 5)
    codes = np.array([0] * 50 + [1] * 3 + [2] * 5)
    rows = draw_cells(codes, seed=1)
    assert np.bincount(codes[rows]).tolist() == [5, 3, 5]
    assert len(set(rows)) == len(rows)
    np.testing.assert_array_equal(rows, draw_cells(codes, seed=1))
    assert set(rows) != set(draw_cells(codes, seed=2))


def test_a_gene_that_does_not_attend_contributes_by_the_linear_path_alone():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = GeneTransformer(NetworkConfig(N_PANEL, N_CLASSES, d_model=16, attention_genes=10)).eval()
    far, near = np.split(weigh(network), [10])[::-1]
    assert (far == 0).all()
    assert (near != 0).any()
