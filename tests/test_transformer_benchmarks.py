"""The transformer's benchmarks: its speed, its levers, its learning curve."""

import levers
import numpy as np
import pandas as pd
import pytest
import transformer_speed
from accuracy import read_data
from conftest import load_benchmark
from simulate import simulate_cells

import annotary.models.transformer.tokens as tokens_module

speed, curve = load_benchmark("transformer"), load_benchmark("learning_curve")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    found = tmp_path_factory.mktemp("data") / "cells.h5ad"
    simulate_cells(n_genes=200).write_h5ad(found)
    return found


def test_simulated_cells_express_as_many_genes_as_asked_for():
    cells = transformer_speed.simulate_cells(400, 1200, 63)
    expressed = cells.counts.getnnz(axis=1)
    assert expressed.mean() == pytest.approx(63, rel=0.05)
    assert cells.counts.has_canonical_format
    assert np.array_equal(cells.depth, cells.counts.sum(axis=1).A1)


def test_the_notebooks_network_and_ours_have_the_same_weights():
    dense, ours = (
        transformer_speed.make_network(transformer_speed.VARIANTS[name], 50).state_dict()
        for name in (transformer_speed.NOTEBOOK, transformer_speed.SAME_SIZE)
    )
    assert dense.keys() == ours.keys()
    # "No gene" is a token of ours alone.
    assert {name for name in dense if dense[name].shape != ours[name].shape} == {"embedding.gene.weight"}


def test_flops_are_those_of_the_matrix_products():
    variant = transformer_speed.VARIANTS[transformer_speed.NOTEBOOK]
    cells = transformer_speed.simulate_cells(3, 50, 12)
    found = transformer_speed.time_labelling(variant, cells, 1)
    width, n_tokens, n_layers = 128, 50, 4
    products = 2 * n_tokens * 12 * width**2 + 4 * n_tokens**2 * width
    assert found.flops == 3 * (n_layers * products + 2 * width * transformer_speed.N_CLASSES)
    assert found.padding == 0


@pytest.mark.full
def test_every_network_is_measured(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(speed, "measure_memory", lambda *arguments: 123.0)
    monkeypatch.setattr(transformer_speed, "_PEAK_SIZE", 64)
    out = tmp_path / "transformer.csv"
    sizes = ["--cells", "40", "--dense-cells", "4", "--repeats", "1", "--panels", "60:12", "80:20"]
    speed.main([*sizes, "--out", str(out)])
    table = pd.read_csv(out)
    assert set(table["model"]) == set(transformer_speed.VARIANTS)
    assert (table["cells_per_second"] > 0).all()
    assert table["peak_share"].gt(0).all()
    printed = capsys.readouterr().out
    assert speed.make_markdown(table) in printed
    assert all(f"| labelling | {name} | 60 | 12 " in printed for name in transformer_speed.VARIANTS)
    assert "| training | annotary, default | 80 | 20 " in printed
    assert f"{transformer_speed.SAME_SIZE}, training: " in printed


def test_a_broken_promise_of_speed_is_named():
    rows = [
        ("labelling", transformer_speed.NOTEBOOK, 10.0, None),
        ("labelling", transformer_speed.SAME_SIZE, 999.0, None),
        ("labelling", transformer_speed.SAME_SIZE_BF16, 1000.0, None),
        ("training", transformer_speed.NOTEBOOK, 2.0, 0.0),
        ("training", transformer_speed.SAME_SIZE, 80.0, 0.11),
    ]
    table = pd.DataFrame(rows, columns=["task", "model", "cells_per_second", "loading_share"])
    table[["panel_genes", "tokens", "threads"]] = 1200, 63, 2
    verdicts = [claim.rsplit(": ", 1)[1] for claim in speed.check_claims(table)]
    assert verdicts == ["NOT KEPT", "kept", "kept", "NOT KEPT"]


@pytest.mark.parametrize("task", ["labelling", "training"])
def test_a_thing_is_done_once_for_its_memory(task, monkeypatch):
    seen = []
    tokenize = tokens_module.tokenize
    monkeypatch.setattr(
        transformer_speed,
        "tokenize",
        lambda network, cells: seen.append(cells.counts.shape) or tokenize(network, cells),
    )
    speed.main(["--one", transformer_speed.NOTEBOOK, task, "--cells", "3", "--panels", "60:12"])
    assert seen == [(3, 60)]


@pytest.mark.full
def test_levers_are_compared_with_the_defaults_by_fold(path, tmp_path, capsys):
    out = tmp_path / "levers.csv"
    options = ["--data", str(path), "--folds", "2", "--out", str(out), "--resume", "--levers"]
    levers.main([*options, "defaults", "9 epochs"])
    found = out.read_text()
    assert len(found.splitlines()) == 1 + 4
    levers.main([*options, "9 epochs"])
    assert out.read_text() == found
    assert "| 9 epochs | 2 | " in capsys.readouterr().out


def test_a_lever_stands_beside_the_defaults_of_its_own_folds():
    table = pd.DataFrame(
        {
            "lever": ["defaults", "defaults", "some"],
            "fold": [0, 1, 1],
            "seed": 42,
            "macro_f1": [0.9, 0.5, 0.6],
            "seconds": 1.0,
        }
    )
    assert "| some | 1 | 0.600 | +0.100 | 1 |" in levers.make_markdown(table)


@pytest.mark.full
def test_the_curve_has_a_point_for_each_size_panel_and_model(path, tmp_path, capsys):
    out = tmp_path / "learning_curve.csv"
    curve.main(
        ["--data", str(path), "--sizes", "60", "0", "--folds", "1", "--genes", "50", "0", "--out", str(out)]
    )
    table = pd.read_csv(out)
    assert len(table) == 2 * 2 * 2
    assert table["macro_f1"].between(0.2, 1).all()
    assert out.with_suffix(".png").stat().st_size > 10_000
    assert curve.make_markdown(table) in capsys.readouterr().out


def test_a_part_of_the_cells_keeps_the_shares_of_labels(path):
    labels = read_data(str(path)).labels
    train = np.arange(len(labels))
    part = curve.draw_part(labels, train, len(labels) // 2)
    before, after = (pd.Series(labels[rows]).value_counts() for rows in (train, part))
    assert (after - before / 2).abs().max() <= 1
