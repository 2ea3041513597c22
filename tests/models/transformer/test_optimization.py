from dataclasses import replace

import numpy as np
import pytest
import torch
from models.transformer.small_training import NETWORK, TRAINING
from sklearn.utils.class_weight import compute_class_weight

from annotary.models.transformer.loop import average_weights, schedule
from annotary.models.transformer.losses import balance_classes, make_loss
from annotary.models.transformer.network import GeneTransformer
from annotary.models.transformer.optimizer import MatrixAdam, make_optimizers


def test_class_weights_are_scikit_learns_balanced_ones():
    codes = np.array([0, 0, 0, 1, 2, 2])
    expected = compute_class_weight("balanced", classes=np.arange(3), y=codes)
    np.testing.assert_allclose(balance_classes(codes, 3), expected, rtol=1e-6)


def test_a_class_without_training_cells_keeps_weights_finite():
    assert np.isfinite(balance_classes(np.array([0, 0, 2]), 4)).all()


@pytest.mark.parametrize("mode", ["balanced", "logit_adjusted", "plain"])
def test_the_loss_of_parts_adds_up_to_that_of_the_batch(mode):
    rng = torch.Generator().manual_seed(0)
    logits, codes = torch.randn(9, 3, generator=rng), torch.tensor([0, 0, 0, 0, 0, 1, 1, 2, 2])
    loss = make_loss(codes.numpy(), 3, mode=mode, label_smoothing=0.1)
    total = loss.weights[codes].sum().item()
    whole = loss(logits, codes, total_weight=total)
    parts = sum(loss(logits[cut], codes[cut], total_weight=total) for cut in (slice(0, 4), slice(4, 9)))
    torch.testing.assert_close(parts, whole)
    if mode != "logit_adjusted":
        weights = loss.weights if mode == "balanced" else None
        expected = torch.nn.functional.cross_entropy(logits, codes, weight=weights, label_smoothing=0.1)
        torch.testing.assert_close(whole, expected)


def test_logit_adjustment_makes_classes_of_equal_logits_as_likely_as_they_are():
    codes = np.array([0] * 90 + [1] * 10)
    loss = make_loss(codes, 2, mode="logit_adjusted", label_smoothing=0.0)
    torch.testing.assert_close(torch.softmax(loss.offsets, dim=0), torch.tensor([0.9, 0.1]))


def test_the_learning_rate_rises_then_falls_to_zero():
    training = replace(TRAINING, warmup=0.25, max_epochs=10)
    shares = [schedule(step, 8, training) for step in range(80)]
    assert np.all(np.diff(shares[:20]) > 0)
    assert np.all(np.diff(shares[20:]) < 0)
    assert max(shares) == pytest.approx(1, abs=0.05)
    assert 0 < shares[-1] < 0.01


def test_the_running_mean_forgets_the_first_weights_soon():
    update = average_weights(0.9)
    averaged = [torch.zeros(1)]
    for step in range(200):
        update(averaged, [torch.ones(1)], torch.tensor(step))
    assert averaged[0].item() == pytest.approx(1, abs=1e-3)
    update(averaged, [torch.zeros(1)], torch.tensor(500))
    assert averaged[0].item() == pytest.approx(0.9, abs=1e-3)


def test_a_rare_gene_learns_in_proportion_to_its_gradients():
    weight = torch.nn.Parameter(torch.zeros(3, 2))
    optimizer = MatrixAdam([weight], lr=0.1)
    gradient = torch.tensor([[1.0, -1.0], [0.1, 0.0], [0.0, 0.0]])
    for _ in range(3):
        weight.grad = gradient.clone()
        optimizer.step()
    torch.testing.assert_close(weight.detach(), -0.3 * gradient / gradient.square().mean().sqrt())


def test_gene_weights_have_their_own_optimizer_and_every_weight_has_one():
    network = GeneTransformer(replace(NETWORK, linear_path=True))
    adam, matrix_adam = make_optimizers(network, TRAINING)
    own = [id(one) for group in matrix_adam.param_groups for one in group["params"]]
    assert own == [id(network.embedding.gene.weight), id(network.linear_path.weight.weight)]
    shared = [id(one) for group in adam.param_groups for one in group["params"]]
    assert sorted(own + shared) == sorted(id(one) for one in network.parameters())
    decayed = {
        group["weight_decay"] for group in adam.param_groups for one in group["params"] if one.ndim == 1
    }
    assert decayed == {0.0}
