import json
import random
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from models.conformance import N_CLASSES, N_PANEL, make_cells
from sklearn.metrics import f1_score
from sklearn.utils.class_weight import compute_class_weight

from annotary.errors import ConfigError, GeneOverlapError
from annotary.models.transformer.classifier import TransformerAnnotator
from annotary.models.transformer.config import NetworkConfig, TrainingConfig
from annotary.models.transformer.device import choose_device
from annotary.models.transformer.epochs import EpochMetrics, best_epoch
from annotary.models.transformer.loop import TrainingLoop, average_weights, schedule
from annotary.models.transformer.losses import balance_classes, make_loss
from annotary.models.transformer.network import GeneTransformer
from annotary.models.transformer.optimizer import MatrixAdam, make_optimizers
from annotary.models.transformer.training import fit_transformer

NETWORK = NetworkConfig(
    n_genes=N_PANEL, n_classes=N_CLASSES, d_model=16, n_layers=1, n_heads=2, dropout=0.1, linear_path=False
)
TRAINING = TrainingConfig(
    learning_rate=1e-2, batch_size=16, max_epochs=4, patience=4, thinning=0.3, seed=3, device="cpu"
)


STILL = {"learning_rate": 1e-12, "gene_learning_rate": 1e-12, "linear_learning_rate": 1e-12}


def fit(*, network=NETWORK, on_epoch=lambda metrics: None, checkpoint=None, first=None, **changes):
    cells, codes = make_cells(120, seed=0)
    validation_cells, validation_codes = make_cells(40, seed=1)
    return fit_transformer(
        cells,
        codes,
        validation_cells,
        validation_codes,
        network=network,
        training=replace(TRAINING, **changes),
        on_epoch=on_epoch,
        checkpoint=checkpoint,
        first_weights=first,
    )


def numbers(history: list[EpochMetrics]) -> list[EpochMetrics]:
    """Take what does not depend on the clock."""
    return [replace(metrics, seconds=0, cells_per_second=0, loading_share=0) for metrics in history]


@pytest.fixture(scope="module")
def fitted():
    seen = []
    network, history = fit(on_epoch=seen.append)
    return network, history, seen


def test_training_lowers_both_losses(fitted):
    _, history, _ = fitted
    assert history[-1].train_loss < 0.8 * history[0].train_loss
    assert history[-1].validation_loss < history[0].validation_loss


def test_on_epoch_is_called_for_every_epoch_in_order(fitted):
    _, history, seen = fitted
    assert [metrics.epoch for metrics in seen] == [1, 2, 3, 4]
    assert seen == history


def test_epochs_are_timed(fitted):
    _, history, _ = fitted
    assert all(metrics.seconds > 0 for metrics in history)
    assert all(metrics.cells_per_second >= 120 / metrics.seconds for metrics in history)


def test_the_network_returned_is_that_of_the_best_epoch(monkeypatch):
    end_epoch = TrainingLoop._end_epoch

    def ruin_later_epochs(loop):
        if len(loop.progress.history) >= 2:
            loop.average.module.head.weight.data.zero_()
        return end_epoch(loop)

    monkeypatch.setattr(TrainingLoop, "_end_epoch", ruin_later_epochs)
    network, history = fit()
    best = best_epoch(history)
    assert best.epoch <= 2
    assert history[-1].validation_macro_f1 < best.validation_macro_f1
    cells, codes = make_cells(40, seed=1)
    predicted = TransformerAnnotator([network]).predict_proba(cells, device="cpu").argmax(axis=1)
    assert f1_score(codes, predicted, average="macro") == pytest.approx(best.validation_macro_f1)
    assert (predicted == codes).mean() == pytest.approx(best.validation_accuracy)


def test_the_best_epoch_is_the_one_of_highest_f1_then_lowest_loss_then_the_first():
    scores = [(0.5, 1.0), (0.8, 0.9), (0.8, 0.7), (0.8, 0.7), (0.6, 0.1)]
    history = [
        EpochMetrics(number, 1.0, loss, macro_f1, 0.5, 1e-3, 1.0, 1.0, 0.1)
        for number, (macro_f1, loss) in enumerate(scores, start=1)
    ]
    assert best_epoch(history).epoch == 3


def test_training_stops_when_f1_no_longer_rises():
    _, history = fit(max_epochs=30, patience=2, **STILL)
    assert len(history) == 3


def test_training_ends_at_max_epochs():
    assert len(fit(max_epochs=2, patience=50)[1]) == 2


def test_the_same_seed_gives_the_same_numbers(fitted):
    network, history, _ = fitted
    torch.rand(5)
    np.random.rand(5)
    again, history_again = fit()
    assert numbers(history_again) == numbers(history)
    for name, weight in again.state_dict().items():
        assert torch.equal(weight, network.state_dict()[name])


def test_another_seed_gives_other_numbers(fitted):
    _, history, _ = fitted
    assert numbers(fit(seed=4, max_epochs=1)[1]) != numbers(history[:1])


def test_the_callers_random_generators_are_left_alone():
    torch_state = torch.get_rng_state()
    numpy_state = np.random.get_state()[1].copy()
    python_state = random.getstate()
    fit(max_epochs=1)
    assert torch.equal(torch.get_rng_state(), torch_state)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)
    assert random.getstate() == python_state


def test_an_error_in_on_epoch_comes_through():
    def fail(metrics):
        raise RuntimeError(f"stop at {metrics.epoch}")

    with pytest.raises(RuntimeError, match="stop at 1"):
        fit(on_epoch=fail)


def test_training_says_nothing_but_its_progress_and_writes_no_file(tmp_path):
    script = (
        "import warnings; warnings.simplefilter('ignore', DeprecationWarning)\n"
        "from models.conformance import make_cells, N_CLASSES, N_PANEL\n"
        "from annotary.models.transformer.config import NetworkConfig, TrainingConfig\n"
        "from annotary.models.transformer.training import fit_transformer\n"
        "fit_transformer(*make_cells(30), *make_cells(9), network=NetworkConfig(N_PANEL, N_CLASSES),\n"
        "    training=TrainingConfig(max_epochs=1, device='cpu'))\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", "import sys, json; sys.path[:0] = json.loads(sys.argv[1])\n" + script,
         json.dumps(sys.path)],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    lines = [line for line in run.stderr.replace("\r", "\n").splitlines() if line.strip()]
    assert run.stdout == ""
    assert lines
    assert all(line.startswith("transformer: ") for line in lines)
    assert not list(tmp_path.iterdir())


def test_progress_shows_loss_and_f1(capsys):
    fit(max_epochs=1)
    shown = capsys.readouterr().err
    assert "1/1" in shown
    assert "loss=" in shown
    assert "F1=" in shown


def test_a_class_may_be_absent_from_validation():
    cells, codes = make_cells(60, seed=0)
    present = codes != 2
    _, history = fit_transformer(
        cells, codes, cells[present], codes[present], network=NETWORK, training=TRAINING, on_epoch=print
    )
    assert all(0 <= metrics.validation_macro_f1 <= 1 for metrics in history)


def test_cells_without_counts_can_be_trained_on():
    cells, codes = make_cells(40, seed=0)
    cells.counts.data[: cells.counts.indptr[5]] = 0
    _, history = fit_transformer(
        cells, codes, cells, codes, network=NETWORK, training=replace(TRAINING, max_epochs=1), on_epoch=print
    )
    assert np.isfinite(history[0].train_loss)


def test_all_mode_trains():
    _, history = fit(network=replace(NETWORK, tokens="all", values="bins", norm="post"), max_epochs=2)
    assert history[1].train_loss < history[0].train_loss


def test_class_weights_are_scikit_learns_balanced_ones():
    codes = np.array([0, 0, 0, 1, 2, 2])
    expected = compute_class_weight("balanced", classes=np.arange(3), y=codes)
    np.testing.assert_allclose(balance_classes(codes, 3), expected, rtol=1e-6)


def test_a_class_without_training_cells_keeps_weights_finite():
    assert np.isfinite(balance_classes(np.array([0, 0, 2]), 4)).all()


def test_another_number_of_genes_is_refused():
    with pytest.raises(GeneOverlapError, match=f"needs the 99 genes .*; found {N_PANEL} genes"):
        fit(network=replace(NETWORK, n_genes=99))


def test_cuda_is_refused_where_there_is_none(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"--device needs a CUDA device .*; found none\. Use --device auto"):
        fit(device="cuda")


def test_auto_takes_cuda_only_where_it_is(monkeypatch):
    for available, expected in [(True, "cuda"), (False, "cpu")]:
        monkeypatch.setattr(torch.cuda, "is_available", lambda available=available: available)
        assert choose_device("auto").type == expected
        assert choose_device("cpu").type == "cpu"


def test_an_unknown_device_is_refused():
    with pytest.raises(ConfigError, match="--device needs auto, cpu, cuda or mps; found 'tpu'"):
        choose_device("tpu")


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


def test_training_begins_with_the_weights_that_it_is_given(fitted):
    network, _, _ = fitted
    first = {name: weight for name, weight in network.state_dict().items() if not name.startswith("head")}
    begun, _ = fit(first=first, max_epochs=1, ema_decay=0.0, **STILL)
    for name, weight in begun.state_dict().items():
        if name.startswith("head"):
            assert not torch.equal(weight, network.state_dict()[name])
        else:
            torch.testing.assert_close(weight, network.state_dict()[name], atol=1e-6, rtol=1e-6)


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
