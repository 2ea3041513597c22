"""Each rule of the gate, alone: what keeps it, what breaks it, and how that is told."""

import pandas as pd
import pytest

from annotary.config import PromoteConfig
from annotary.evaluation.gate import Comparison, Figures, judge

GOOD = {"macro_f1": 0.9, "ece": 0.02, "cells_per_second": 1000.0, "bundle_mb": 5.0}
BETTER = {"challenger": 0.9, "champion": 0.85, "low": 0.01, "high": 0.09, "p_value": 0.01}


def make_comparison(**changes) -> Comparison:
    table = pd.DataFrame(
        {"support": [100, 40, 5], "challenger_f1": [0.9, 0.9, 0.1], "champion_f1": [0.9, 0.8, 0.9]},
        index=["B cell", "NK cell", "T cell"],
    )
    return Comparison(**{"per_class": table, "n_cells": 145} | BETTER | changes)


def rule(verdict, name: str):
    return next(rule for rule in verdict.rules if rule.name == name)


def test_a_good_challenger_keeps_every_rule():
    verdict = judge(Figures(**GOOD), make_comparison(), PromoteConfig())
    assert verdict.promote
    assert {rule.name for rule in verdict.rules} == {
        "min_macro_f1",
        "min_cells_per_second",
        "max_ece",
        "max_bundle_mb",
        "min_gain",
        "non_inferiority_margin",
        "max_class_drop",
    }
    assert "0.9000 is higher than the champion's 0.8500 on the same 145 test cells" in verdict.reason
    assert "95% interval +0.0100 to +0.0900, p = 0.0100" in verdict.reason
    assert len(verdict.table) == 7


@pytest.mark.parametrize(
    ("figure", "value", "name", "says"),
    [
        ("macro_f1", 0.49, "min_macro_f1", "macro-F1 0.4900 is below 0.5"),
        ("ece", 0.21, "max_ece", "calibration error 0.2100 is above 0.2"),
        ("cells_per_second", 9.0, "min_cells_per_second", "9 cells a second are fewer than 10"),
        ("bundle_mb", 501.0, "max_bundle_mb", "bundle of 501.0 MB is larger than 500"),
    ],
)
def test_a_figure_beyond_its_limit_keeps_the_champion_even_where_there_is_none(figure, value, name, says):
    for comparison in (None, make_comparison()):
        verdict = judge(Figures(**GOOD | {figure: value}), comparison, PromoteConfig())
        assert not verdict.promote
        assert [rule.name for rule in verdict.rules if not rule.passed] == [name]
        assert says in verdict.reason


@pytest.mark.parametrize(
    ("changes", "name", "says"),
    [
        ({"challenger": 0.85}, "min_gain", "0.8500 is not higher than the champion's 0.8500"),
        ({"low": -0.06}, "non_inferiority_margin", "could be worse by 0.0600, where 0.05 is allowed"),
    ],
)
def test_a_challenger_that_may_be_worse_is_not_promoted(changes, name, says):
    verdict = judge(Figures(**GOOD), make_comparison(**changes), PromoteConfig())
    assert [rule.name for rule in verdict.rules if not rule.passed] == [name]
    assert says in verdict.reason


def test_no_label_with_enough_test_cells_may_lose_much():
    table = make_comparison().per_class.assign(challenger_f1=[0.9, 0.65, 0.1])
    verdict = judge(Figures(**GOOD), make_comparison(per_class=table), PromoteConfig())
    assert not verdict.promote
    assert rule(verdict, "max_class_drop").value == pytest.approx(0.15)
    assert "F1 of 'NK cell' drops by 0.1500, where 0.1 is allowed" in verdict.reason
    lax = judge(Figures(**GOOD), make_comparison(per_class=table), PromoteConfig(min_support=50))
    assert lax.promote, "NK cells have 40 test cells, T cells 5"


def test_a_negative_gain_takes_a_challenger_that_is_no_worse_than_the_margin():
    close = make_comparison(challenger=0.845, low=-0.02)
    assert not judge(Figures(**GOOD), close, PromoteConfig()).promote
    assert judge(Figures(**GOOD), close, PromoteConfig(min_gain=-0.01)).promote
