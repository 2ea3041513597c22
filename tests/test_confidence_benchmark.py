"""The benchmark of held-out labels, on cells whose answer is known."""

import confidence as benchmark
import pandas as pd
import pytest
from simulate import LABELS, simulate_cells


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> pd.DataFrame:
    path = tmp_path_factory.mktemp("cells") / "cells.h5ad"
    simulate_cells(400).write_h5ad(path)
    log_expr, labels = benchmark.read_cells(path)
    assert log_expr.shape[0] == len(labels) == 400
    return pd.DataFrame([benchmark.hold_out(log_expr, labels, label) for label in LABELS])


def test_every_held_out_label_has_its_figures(table):
    assert list(table["label"]) == list(LABELS)
    assert table["cells"].sum() == 400
    assert table.drop(columns=["label", "cells"]).apply(lambda column: column.between(0, 1)).all(axis=None)


def test_labels_with_markers_of_their_own_are_found(table):
    assert table["ood_score"].min() > 0.9
    assert table["distance"].min() > 0.9
    assert table["coverage"].min() > 0.8


def test_the_table_has_a_row_for_each_label_and_the_mean(table):
    lines = benchmark.make_markdown(table).splitlines()
    assert len(lines) == 2 + len(LABELS) + 1
    assert lines[-1].startswith("| mean |  | ")
    columns = {line.count("|") for line in lines}
    assert len(columns) == 1
