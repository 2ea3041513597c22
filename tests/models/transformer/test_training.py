import json
import math
import random
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from models.conformance import N_PANEL, make_cells
from models.transformer.small_training import NETWORK, STILL, TRAINING, fit, numbers
from sklearn.metrics import f1_score

from annotary.errors import GeneOverlapError
from annotary.models.transformer.classifier import TransformerAnnotator
from annotary.models.transformer.epochs import EpochMetrics, best_epoch
from annotary.models.transformer.loop import TrainingLoop
from annotary.models.transformer.training import fit_transformer


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


@pytest.mark.full
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


def test_another_number_of_genes_is_refused():
    with pytest.raises(GeneOverlapError, match=f"needs the 99 genes .*; found {N_PANEL} genes"):
        fit(network=replace(NETWORK, n_genes=99))


def test_training_begins_with_the_weights_that_it_is_given(fitted):
    network, _, _ = fitted
    first = {name: weight for name, weight in network.state_dict().items() if not name.startswith("head")}
    begun, _ = fit(first=first, max_epochs=1, ema_decay=0.0, **STILL)
    for name, weight in begun.state_dict().items():
        if name.startswith("head"):
            assert not torch.equal(weight, network.state_dict()[name])
        else:
            torch.testing.assert_close(weight, network.state_dict()[name], atol=1e-6, rtol=1e-6)


def test_without_validation_cells_every_epoch_is_trained_and_the_last_is_kept():
    cells, codes = make_cells(120, seed=0)
    kept = {}
    for patience in (1, 4):
        network, history = fit_transformer(
            cells, codes, None, None, network=NETWORK, training=replace(TRAINING, patience=patience)
        )
        assert [epoch.epoch for epoch in history] == [1, 2, 3, 4]
        assert all(math.isnan(epoch.validation_macro_f1) for epoch in history)
        kept[patience] = network.state_dict()
    assert all(torch.equal(kept[1][name], kept[4][name]) for name in kept[1])
    shorter, _ = fit_transformer(
        cells, codes, None, None, network=NETWORK, training=replace(TRAINING, max_epochs=1)
    )
    assert not torch.equal(shorter.head.weight, kept[1]["head.weight"])
