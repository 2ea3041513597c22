"""The figures by which confidence is held to its promises."""

import numpy as np
import pytest

from annotary.evaluation.confidence import measure_confidence
from annotary.models.bundle import Annotation

CODES = np.array([0, 0, 0, 1, 1, 1])
ANNOTATION = Annotation(
    probabilities=np.array(
        [[0.9, 0.1, 0], [0.6, 0.4, 0], [0.4, 0.6, 0], [0.2, 0.8, 0], [0.7, 0.3, 0], [0, 1, 0]],
        dtype=np.float32,
    ),
    low_information=np.zeros(6, dtype=bool),
    unassigned=np.array([False, True, False, False, True, False]),
    prediction_sets=np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 1, 0], [1, 1, 0], [1, 1, 1]], dtype=bool),
    ood_score=np.array([0.5, 2.0, 0.1, 0.2, 0.3, 1.0], dtype=np.float32),
)


def test_figures_are_those_of_the_cells():
    figures = measure_confidence(CODES, ANNOTATION, ["B", "T", "none"])
    metrics = figures.metrics
    assert metrics["conformal_coverage"] == pytest.approx(5 / 6)
    assert metrics["worst_label_coverage"] == pytest.approx(2 / 3)
    assert metrics["mean_set_size"] == pytest.approx(10 / 6)
    assert metrics["unassigned_rate"] == pytest.approx(2 / 6)
    assert metrics["assigned_accuracy"] == pytest.approx(3 / 4)
    assert metrics["ood_rate"] == pytest.approx(1 / 6)
    assert 0 <= metrics["ece"] <= 1


def test_each_label_has_its_row():
    table = measure_confidence(CODES, ANNOTATION, ["B", "T", "none"]).per_class
    assert table.loc["B"].to_dict() == pytest.approx(
        {
            "coverage": 2 / 3,
            "mean_set_size": 4 / 3,
            "unassigned": 1 / 3,
            "ood": 1 / 3,
            "assigned_precision": 1.0,
            "support": 3,
        }
    )
    assert table.loc["T", "assigned_precision"] == pytest.approx(2 / 3)
    assert table.loc["none", "support"] == 0
    assert table.loc["none"].drop("support").isna().all()


def test_cells_that_are_all_unassigned_have_no_wrong_label():
    none = Annotation(**vars(ANNOTATION) | {"unassigned": np.ones(6, dtype=bool)})
    assert measure_confidence(CODES, none, ["B", "T", "none"]).metrics["assigned_accuracy"] == 1.0
