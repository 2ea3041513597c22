"""Drift: distances that are known by hand, limits, and a page that escapes what it shows."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from html_page import Page
from scipy.spatial.distance import jensenshannon
from scipy.stats import ks_2samp

from annotary.evaluation.scoring_report import FileRow, FlagRow, GeneRow, LabelRow, make_scoring_report
from annotary.models.profile import N_BINS
from annotary.scoring.batch import ScoredFile
from annotary.scoring.detection import compare_detection
from annotary.scoring.drift import (
    CONFIDENCE_KS,
    GENES_SHIFTED,
    LABELS_JS,
    LABELS_PSI,
    LIMITS,
    OOD_CELLS,
    Drift,
    DriftFigure,
    Reference,
    compute_js_distance,
    compute_ks,
    compute_ks_of_chance,
    compute_psi,
    measure_drift,
)
from annotary.scoring.outcome import Outcome
from annotary.scoring.survey import Survey
from annotary.scoring.tally import Tally

TALLY = Tally(
    label_names=("a", "b"),
    label_counts=(80, 20),
    confidence=(0,) * (N_BINS - 1) + (100,),
    n_low_information=0,
    n_unassigned=3,
    n_ood=2,
)
SURVEY = Survey(n_expressing=np.array([50, 50, 50, 0]), n_cells=np.array([100, 100, 100, 0]), sample=None)
"""Half of the cells express each gene; the last is in no file."""


def test_the_jensen_shannon_distance_is_scipy_s():
    rng = np.random.default_rng(0)
    one, other = rng.dirichlet(np.ones(6)), rng.dirichlet(np.ones(6))
    other[2] = 0
    other /= other.sum()
    assert compute_js_distance(one, other) == pytest.approx(jensenshannon(one, other, base=2))
    assert compute_js_distance(np.array([1.0, 0]), np.array([0, 1.0])) == pytest.approx(1)


def test_psi_is_zero_for_the_same_and_grows_by_its_definition():
    same = np.array([0.3, 0.7])
    assert compute_psi(same, same) == 0
    found = compute_psi(np.array([0.5, 0.5]), same)
    assert found == pytest.approx(0.2 * np.log(0.5 / 0.3) - 0.2 * np.log(0.5 / 0.7))
    assert np.isfinite(compute_psi(np.array([1.0, 0.0]), same))


def test_ks_of_histograms_is_that_of_their_cells():
    rng = np.random.default_rng(0)
    one, other = rng.integers(0, N_BINS, 500), rng.integers(10, N_BINS, 400)
    shares = [np.bincount(bins, minlength=N_BINS) / len(bins) for bins in (one, other)]
    assert compute_ks(*shares) == pytest.approx(ks_2samp(one, other).statistic)


@pytest.mark.parametrize(("n_cells", "n_reference"), [(20, 2000), (300, 200)])
def test_chance_rarely_makes_a_larger_distance_of_confidence(n_cells, n_reference):
    rng = np.random.default_rng(0)
    shares = rng.dirichlet(np.ones(N_BINS))
    draws = (rng.multinomial(n, shares, size=3000) / n for n in (n_cells, n_reference))
    found = [compute_ks(one, other) for one, other in zip(*draws, strict=True)]
    assert np.mean(np.array(found) > compute_ks_of_chance(n_cells, n_reference)) <= 0.002


def test_a_model_that_tells_nothing_of_its_training_cells_is_said_to():
    drift = measure_drift(TALLY, SURVEY, Reference(), overlap=1.0)
    levels = {figure.name: figure.level for figure in drift.figures}
    unknown = (LABELS_JS, LABELS_PSI, CONFIDENCE_KS, GENES_SHIFTED)
    assert [levels[name] for name in unknown] == ["unknown"] * 4
    assert drift.level == "ok", "what can be compared is compared"
    assert drift.genes is None
    assert Drift().level == "unknown"


@pytest.mark.parametrize(
    ("training", "overlap", "expected"),
    [((80, 20), 1.0, "ok"), ((50, 50), 1.0, "warn"), ((1, 99), 1.0, "alert"), ((80, 20), 0.6, "alert")],
)
def test_levels(training, overlap, expected):
    reference = Reference(label_shares=np.array(training) / 100)
    assert measure_drift(TALLY, SURVEY, reference, overlap=overlap).level == expected


def test_cells_out_of_distribution_raise_an_alert():
    reference = Reference(label_shares=np.array([0.8, 0.2]))
    levels = {}
    for n_ood in (2, 15, 40):
        drift = measure_drift(replace(TALLY, n_ood=n_ood), SURVEY, reference, overlap=1.0)
        [found] = [figure for figure in drift.figures if figure.name == OOD_CELLS]
        levels[found.value] = drift.level
    assert levels == {0.02: "ok", 0.15: "warn", 0.4: "alert"}


def test_every_figure_has_a_title_and_its_limits_have_three_digits():
    figures = [DriftFigure(name, 0.3, warn / 7, alert / 7) for name, (warn, alert) in LIMITS.items()]
    assert all(figure.title != figure.name for figure in figures)
    page = make_scoring_report(
        "t",
        {},
        labels=[LabelRow("B", 3, 1.0, 1.0)],
        flags=[],
        confidence=[3],
        drift=figures,
        files=[],
        notes=[],
    )
    limits = [cell for cell in Page(page).cells if re.fullmatch(r"\d\.\d+", cell)]
    assert len(limits) == 3 * len(LIMITS)
    assert all(len(cell) == len("0.300") for cell in limits)


def test_confidence_and_genes_that_shift_raise_an_alert_and_the_same_ones_none():
    sure = np.bincount([N_BINS - 1], minlength=N_BINS) * 500
    for bins, detection, level in ((sure, 0.5, "ok"), (sure[::-1], 0.5, "alert"), (sure, 0.9, "alert")):
        reference = Reference(
            confidence=bins, detection=np.full(4, detection, dtype=np.float32), panel=("a", "b", "c", "d")
        )
        drift = measure_drift(TALLY, SURVEY, reference, overlap=1.0)
        assert drift.level == level
        outcome = Outcome(model="m", run_id="r", files=[], drift=drift)
        assert outcome.measure()["genes_shifted"] == (3 if detection == 0.9 else 0)
        assert json.loads(outcome.to_json())["genes_shifted"] == (["a", "b", "c"] if detection == 0.9 else [])


def test_a_gene_is_shifted_beyond_a_little_and_beyond_chance():
    expected = np.array([0.5, 0.5, 0.5, 0.5], dtype=np.float32)
    many = Survey(np.array([500, 650, 720, 0]), np.array([1000, 1000, 1000, 0]), sample=None)
    found = compare_detection(many, expected, ("same", "near", "far", "lacking"))
    assert list(found.table.index) == ["far", "near", "same"], "a gene that no file has is another figure"
    assert found.list_shifted(5) == ["far"]
    assert (found.n_shifted, found.share_shifted) == (1, pytest.approx(1 / 3))
    few = Survey(np.array([5, 7, 8, 0]), np.array([10, 10, 10, 0]), sample=None)
    assert compare_detection(few, expected, ("same", "near", "far", "lacking")).n_shifted == 0


def test_limits_are_ordered():
    assert all(0 < warn < alert for warn, alert in LIMITS.values())


def test_tallies_add_up_and_survive_the_ledger():
    total = Tally.add([TALLY, TALLY])
    assert (total.n_cells, total.label_counts) == (200, (160, 40))
    assert Tally.from_details(json.loads(json.dumps(total.to_details()))) == total
    assert Tally.from_details({"n_cells": 3}) is None
    assert Tally.add([]) is None


@pytest.mark.parametrize(("fails", "code"), [(True, 4), (False, 0)])
def test_drift_decides_the_exit_code_where_it_is_asked_for(fails, code):
    known = ScoredFile("a.h5ad", "known", outputs=(Path("a"),))
    drift = Drift(figures=(DriftFigure(LABELS_PSI, 2.0, 0.2, 0.5),))
    outcome = Outcome(model="m", run_id="r", files=[known], drift=drift, fails_on_drift=fails)
    assert outcome.exit_code == code
    failed = replace(outcome, files=[known, ScoredFile("b.h5ad", "failed")])
    assert failed.exit_code == 3, "a file that failed comes first"
    assert json.loads(outcome.to_json())["drift"] == "alert"


def test_the_page_escapes_every_text_and_loads_nothing():
    evil = "<script>alert(1)</script>&\"'"
    page = make_scoring_report(
        evil,
        {evil: evil},
        labels=[LabelRow(evil, 3, 0.5, None), LabelRow("B", 3, 0.5, 0.25)],
        flags=[FlagRow(evil, 2, 0.4)],
        confidence=[0, 1, 5],
        drift=[DriftFigure(evil, None, 0.1, 0.2), DriftFigure("psi", 0.3, 0.1, 0.2)],
        files=[
            FileRow(evil, "annotated", 3, 0.5, 1.0, evil),
            FileRow("bad.h5ad", "failed", 0, None, 0.0, "bad"),
        ],
        notes=[],
        held_out=[0, 2, 1],
        genes=[GeneRow(evil, 0.25, 0.75)],
        umap=b"picture",
    )
    assert "<script" not in page
    assert re.findall(r"""(?:src|href)=["'](.{0,22})""", page) == ["data:image/png;base64,"]
    assert "75.0 %" in page
    assert "default-src 'none'" in page
    assert page.count("not known") == 2
    assert page.index("bad.h5ad") < page.index("annotated</td>"), "failures come first"


def test_a_page_without_cells_shows_the_files():
    page = make_scoring_report(
        "t",
        {},
        labels=[],
        flags=[],
        confidence=[],
        drift=[],
        files=[FileRow("x", "failed", 0, None, 0.0, "why")],
        notes=["careful"],
    )
    assert "why" in page
    assert "careful" in page
    assert "Confidence" not in page
