"""The report of a dataset: whole, escaped, and one page that loads nothing."""

import re

import pandas as pd
from conftest import PROJECT
from html_page import Page
from matplotlib.figure import Figure

from annotary.evaluation.dataset_report import make_report
from annotary.evaluation.figures import to_png

EVIL = '<script>alert(1)</script> & "x"'
QUOTED = """it's "a" source's <name>.h5ad"""


def make_example(**changes) -> str:
    labels = pd.DataFrame(
        {"train": [1200, 7], "validation": [150, 1], "test": [300, 2]}, index=[EVIL, "T cell"]
    )
    arguments = {
        "title": "Dataset of cells",
        "facts": {"Source": QUOTED, "SHA-256": "ab" * 32, "Settings": "seed: 42\nsplit: stratified"},
        "steps": {"cells_read": 2000, "cells_after_qc": 1660, "genes_read": 32738, "genes_in_panel": 1200},
        "removed": pd.DataFrame({"reason": ["doublet (SOLO)", EVIL], "cells": [1300, 40]}),
        "labels": labels,
        "pictures": {f"Picture of {EVIL}": to_png(Figure(figsize=(1, 1)))},
        "notes": [f"Careful: {EVIL}"],
    }
    return make_report(**arguments | changes)


def test_every_text_is_escaped():
    html = make_example(title=EVIL, facts={EVIL: EVIL, "Source": QUOTED})
    page = Page(html)
    assert not page.find("script")
    assert not page.find("name")
    assert "alert(1)" in html
    assert EVIL in page.cells
    assert QUOTED in page.cells
    assert page.find("img")[0]["alt"] == f"Picture of {EVIL}"


def test_the_page_loads_nothing_and_runs_nothing():
    html = make_example()
    page = Page(html)
    assert page.open_tags == []
    assert [image["src"].split(",")[0] for image in page.find("img")] == ["data:image/png;base64"]
    assert not page.find("link")
    assert not re.search(r"https?:|url\(|@import|\son\w+=", html)
    policy = [meta["content"] for meta in page.find("meta") if "http-equiv" in meta]
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


def test_steps_show_what_is_left_and_what_was_removed():
    page = Page(make_example())
    assert page.row_after("read", 3) == ["2,000", "", "100.0 %"]
    assert page.row_after("after QC", 3) == ["1,660", "340", "83.0 %"]
    assert page.row_after("in panel", 3) == ["1,200", "31,538", "3.7 %"]


def test_tables_have_totals_with_separators_on_the_right():
    html = make_example()
    page = Page(html)
    assert page.row_after("T cell", 4) == ["7", "1", "2", "10"]
    assert page.row_after("doublet (SOLO)", 1) == ["1,300"]
    totals = [page.cells[index + 1 :] for index, cell in enumerate(page.cells) if cell == "All"]
    assert totals[0][0] == "1,340"
    assert totals[1][:4] == ["1,207", "151", "302", "1,660"]
    assert "text-align: right" in re.search(r"td\.number \{[^}]*\}", html).group()


def test_an_empty_dataset_s_page_is_whole():
    html = make_example(
        facts={},
        steps={"cells_read": 0, "cells_kept": 0},
        removed=pd.DataFrame({"reason": [], "cells": []}),
        labels=pd.DataFrame({"train": [], "test": []}),
        pictures={},
        notes=[],
    )
    page = Page(html)
    assert page.open_tags == []
    assert "No cell was removed." in html
    assert not page.find("img")


def test_the_same_contents_give_the_same_page():
    assert make_example() == make_example()


def test_long_facts_are_folded_away_and_short_ones_are_not():
    page = Page(make_example(facts={"Settings": "a: 1\n" * 100, "Seed": "42"}))
    assert len(page.find("details")) == 1


def test_the_template_lies_inside_the_package():
    assert (PROJECT / "src/annotary/evaluation/templates/dataset.html").is_file()


def test_doublets_are_shown_by_label_with_what_was_expected():
    doublets = pd.DataFrame(
        {
            "label": [EVIL, "T cell"],
            "cells": [1700, 10],
            "doublets": [34, 1],
            "doublets_kept": [0, 4],
            "doublet_rate": [0.02, 0.1],
            "expected_rate": [0.021, 0.021],
        }
    )
    page = Page(make_example(doublets=doublets))
    start = page.cells.index("Called but kept")
    assert page.cells[start - 5 : start] == ["Label", "Cells", "Left out", "Share left out", "Share expected"]
    assert page.cells[start + 1 : start + 19] == [
        EVIL, "1,700", "34", "2.0 %", "2.1 %", "0",
        "T cell", "10", "1", "10.0 %", "2.1 %", "4",
        "All", "1,710", "35", "2.0 %", "2.1 %", "4",
    ]  # fmt: skip
    assert "Called but kept" not in Page(make_example()).cells
