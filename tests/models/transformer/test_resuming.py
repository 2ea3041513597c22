from dataclasses import replace

import numpy as np
import pytest
import torch
from models.conformance import make_cells
from models.transformer.small_training import NETWORK, fit, numbers

from annotary.models.transformer.classifier import TransformerAnnotator
from annotary.models.transformer.loop import TrainingLoop
from annotary.models.transformer.network import GeneTransformer


def is_same(network, other):
    state = other.state_dict()
    return all(torch.equal(weight, state[name]) for name, weight in network.state_dict().items())


class Killed(BaseException):
    """What a killed process would not have caught."""


@pytest.mark.parametrize("n_steps", [0, 5, 16, 21])
def test_a_killed_training_goes_on_at_the_same_step_with_the_same_numbers(
    n_steps, fitted, tmp_path, monkeypatch
):
    network, history, _ = fitted
    checkpoint = tmp_path / "training.ckpt"
    take_step, steps = TrainingLoop.take_step, []

    def die(loop, rows):
        steps.append(loop.progress.step)
        if loop.progress.step == n_steps:
            loop.save()
            raise Killed
        return take_step(loop, rows)

    monkeypatch.setattr(TrainingLoop, "take_step", die)
    with pytest.raises(Killed):
        fit(checkpoint=checkpoint)
    assert checkpoint.is_file()

    def count(loop, rows):
        steps.append(loop.progress.step)
        return take_step(loop, rows)

    monkeypatch.setattr(TrainingLoop, "take_step", count)
    resumed, history_again = fit(checkpoint=checkpoint)
    assert steps == [*range(n_steps + 1), *range(n_steps, 4 * 8)]
    assert numbers(history_again) == numbers(history)
    assert is_same(resumed, network)
    assert not checkpoint.exists()


def test_a_checkpoint_is_written_at_the_end_of_each_epoch(tmp_path):
    checkpoint, seen = tmp_path / "training.ckpt", []
    fit(max_epochs=2, checkpoint=checkpoint, on_epoch=lambda metrics: seen.append(checkpoint.is_file()))
    assert seen == [True, True]
    assert not list(tmp_path.iterdir())


def test_a_step_that_does_not_fit_is_taken_in_parts_with_the_same_gradients(monkeypatch):
    plain = {"gene_dropout": 0.0, "thinning": 0.0, "max_epochs": 1}
    network = replace(NETWORK, dropout=0.0)
    whole, history = fit(network=network, **plain)
    sizes, forward = [], GeneTransformer.forward

    def forward_or_fail(module, batch):
        sizes.append(len(batch.gene_ids))
        if torch.is_grad_enabled() and len(batch.gene_ids) > 6:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(module, batch)

    monkeypatch.setattr(GeneTransformer, "forward", forward_or_fail)
    parts, history_in_parts = fit(network=network, **plain)
    assert sizes[:6] == [16, 8, 4, 4, 4, 4]
    assert history_in_parts[0].train_loss == pytest.approx(history[0].train_loss, rel=0.01)
    np.testing.assert_allclose(predict(parts), predict(whole), atol=0.01)


def predict(network):
    cells, _ = make_cells(40, seed=1)
    return TransformerAnnotator([network]).predict_proba(cells, device="cpu")


def test_a_single_cell_that_does_not_fit_is_an_error(monkeypatch):
    def fail(module, batch):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(GeneTransformer, "forward", fail)
    with pytest.raises(torch.OutOfMemoryError):
        fit()


@pytest.mark.full
@pytest.mark.slow
def test_two_processes_train_as_one_does():
    plain = {"gene_dropout": 0.0, "thinning": 0.0, "max_epochs": 2}
    network = replace(NETWORK, dropout=0.0)
    (alone, history), (shared, history_shared) = (
        fit(network=network, n_processes=n_processes, **plain) for n_processes in (1, 2)
    )
    for one, other in zip(history, history_shared, strict=True):
        assert other.train_loss == pytest.approx(one.train_loss, rel=0.02)
    np.testing.assert_allclose(predict(shared), predict(alone), atol=0.01)
