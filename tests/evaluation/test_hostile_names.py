"""Pages, descriptions and figures show hostile names as text, and nothing is made of them."""

import re
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hostile import HARMLESS, LONG, NAMES, RIGHT_TO_LEFT
from html_page import Page
from markdown_it import MarkdownIt

from annotary.evaluation.baseline_figures import draw_top_genes
from annotary.evaluation.card import (
    LONGEST_DESCRIPTION,
    Figure,
    LabelFigures,
    ModelCard,
    Rival,
    list_limits,
    to_html,
    to_markdown,
)
from annotary.evaluation.dataset_report import make_report
from annotary.evaluation.embedding_figure import draw_embedding
from annotary.evaluation.figures import draw_class_counts, draw_confusion, to_png
from annotary.evaluation.gate import Comparison
from annotary.evaluation.names import shorten
from annotary.evaluation.pages import escape_markdown
from annotary.evaluation.scoring_report import FileRow, FlagRow, LabelRow, make_scoring_report
from annotary.scoring.drift import DriftFigure

MARKDOWN = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
PICTURE = b"png"
ADDRESS = "#/experiments/1/runs/a1/artifacts/cards/linear_svm_v1.html"


def make_card(name: str, *, n_labels: int = 3, n_rivals: int = 1) -> ModelCard:
    comparison = Comparison(0.9, 0.8, low=0.05, high=0.15, p_value=0.01, per_class=pd.DataFrame(), n_cells=30)
    return ModelCard(
        title=f"{name} version 1: linear svm",
        data={"Cells": f"30 of {name}", "Labels": name, "Licence of the data": name},
        figures=[
            Figure("Macro-F1", 0.9, 0.8, 1.0),
            Figure("Accuracy", 0.91, 0.8, 1.0),
            Figure("Size, MB", 70.0),
        ],
        labels=[LabelFigures(name, 10, Figure("F1", 0.9, 0.8, 1.0), 0.9, 0.9)] * n_labels,
        rivals=[Rival(name, comparison)] * n_rivals,
        limits=list_limits(
            pd.DataFrame({"support": [5] * n_labels}, index=[name] * n_labels),
            split=name,
            min_overlap=0.5,
            leaky=True,
        ),
        facts={"Settings": name, "Split hash": name},
        address=ADDRESS,
    )


def make_dataset_page(name: str) -> str:
    return make_report(
        f"Dataset {name}",
        {"Source": name, "Settings": f"input = {name}"},
        {"cells_read": 20, "cells_kept": 10},
        pd.DataFrame({"reason": [name], "cells": [10]}),
        pd.DataFrame({"train": [7, 1], "test": [1, 1]}, index=[name, "other"]),
        {f"Picture of {name}": PICTURE},
        [f"Careful: {name}"],
    )


def make_scoring_page(name: str) -> str:
    return make_scoring_report(
        f"Annotated with {name}",
        {"Model": name},
        labels=[LabelRow(name, 3, 0.5, None), LabelRow("other", 3, 0.5, 0.25)],
        flags=[FlagRow(name, 1, 0.2)],
        confidence=[0, 1, 5],
        drift=[DriftFigure(name, None, 0.1, 0.2)],
        files=[FileRow(name, "annotated", 3, 0.5, 1.0, name)],
        notes=[name],
    )


PAGES = {
    "dataset": make_dataset_page,
    "scoring": make_scoring_page,
    "card": lambda name: to_html(make_card(name), PICTURE),
}


def list_tags(html: str) -> list[tuple[str, list[str]]]:
    """Tags and the names of their attributes, in order; but for the fold around a long text."""
    page = Page(html)
    assert page.open_tags == [], "all are closed in order"
    tags = [(tag, sorted(attributes)) for tag, attributes in page.tags]
    return [one for one in tags if one[0] not in ("details", "summary")]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("page", PAGES)
def test_no_element_or_attribute_of_a_page_is_made_of_a_name(page, name):
    html = PAGES[page](name)
    assert list_tags(html) == list_tags(PAGES[page]("harmless"))
    assert html.encode("utf-8"), "a file can hold it"
    assert not re.search("[\x00-\x08\x0b-\x1f\u202e\u2066]", html)


@pytest.mark.parametrize("page", PAGES)
def test_a_page_shows_a_name_as_it_is(page):
    for name in (*NAMES[:7], HARMLESS):
        assert name in Page(PAGES[page](name)).cells
    assert "T⟨U+202E⟩llec⟨U+2066⟩ B" in Page(PAGES[page](RIGHT_TO_LEFT)).cells


def count_columns(markdown: str) -> list[list[int]]:
    """Cells in each row of each table."""
    tables: list[list[int]] = []
    for token in MARKDOWN.parse(markdown):
        if token.type == "table_open":
            tables.append([])
        elif token.type == "tr_open":
            tables[-1].append(0)
        elif token.type in ("td_open", "th_open"):
            tables[-1][-1] += 1
    return tables


def list_kinds(markdown: str) -> Counter:
    """What a renderer finds in a text: how many of each element."""
    kinds: Counter = Counter()
    for token in MARKDOWN.parse(markdown):
        kinds.update([token.type] + [child.type for child in token.children or []])
    for unstable in ("text", "text_special"):
        kinds.pop(unstable, None)
    return kinds


@pytest.mark.parametrize("name", NAMES)
def test_no_element_of_a_description_is_made_of_a_name(name):
    text = to_markdown(make_card(name))
    harmless = to_markdown(make_card("harmless"))
    assert list_kinds(text) == list_kinds(harmless)
    assert count_columns(text) == count_columns(harmless)
    page, expected = Page(MARKDOWN.render(text)), Page(MARKDOWN.render(harmless))
    shown = shorten(name, longest=60)
    assert page.cells == [shown if cell == "harmless" else cell for cell in expected.cells]
    assert page.find("a") == [{"href": ADDRESS}]
    assert len(text) <= LONGEST_DESCRIPTION
    assert text.encode("utf-8")


@pytest.mark.parametrize("name", [*NAMES[:12], HARMLESS])
def test_a_description_shows_a_name_on_one_line(name):
    shown = Page(f"<table><td>{MARKDOWN.renderInline(escape_markdown(name))}</td></table>")
    assert shown.cells == [" ".join(name.split())]


def test_a_plain_name_stays_legible_in_the_text_itself():
    assert escape_markdown("CD4+/CD45RA+ Naive T (2-3 %)") == "CD4+/CD45RA+ Naive T (2-3 %)"


def test_a_renderer_that_links_bare_addresses_finds_none():
    escaped = escape_markdown("https://example.org www.example.org WWW.example.org a@b.org @someone :tada:")
    assert not re.search(r"://|www\.|@|:", escaped, re.IGNORECASE)


@pytest.mark.parametrize("name", [LONG, "<&>" * 170, "harmless"])
def test_a_long_card_is_cut_between_rows_and_says_where_the_whole_is(name):
    text = to_markdown(make_card(name, n_labels=120, n_rivals=40))
    assert 0.8 * LONGEST_DESCRIPTION < len(text) <= LONGEST_DESCRIPTION
    assert ADDRESS in text
    assert re.search(r"^\d+ more labels are in the whole card\.$", text, re.MULTILINE)
    for rows in count_columns(text):
        assert set(rows) == {rows[0]}
    n_shown = len(count_columns(text)[-1]) - 1
    assert re.search(r"^(\d+) more labels", text, re.MULTILINE)[1] == str(120 - n_shown)


def test_a_card_whose_data_alone_are_too_long_ends_after_a_line():
    card = make_card("<&>" * 170)
    data = {f"Sample {number}": "<&>" * 40 for number in range(30)}
    text = to_markdown(ModelCard(**{**card.__dict__, "data": data}))
    assert len(text) <= LONGEST_DESCRIPTION
    assert text.endswith("&#62;\n\nCut here: the rest is in the whole card.\n")
    assert ADDRESS in text


@pytest.mark.filterwarnings("error:.*constrained_layout not applied")
def test_figures_show_any_name_and_keep_their_place():
    names = [*NAMES[:-1], HARMLESS]
    table = pd.DataFrame(np.eye(len(names)), index=names, columns=names)
    figures = [
        draw_confusion({"linear svm": table}),
        draw_class_counts(pd.DataFrame({"train": range(len(names))}, index=names)),
        draw_top_genes(table),
        draw_embedding(
            np.random.default_rng(0).normal(size=(len(names), 2)), {LONG: np.array(names, dtype=object)}
        ),
    ]
    for figure in figures:
        assert to_png(figure).startswith(b"\x89PNG")
        for axis in figure.axes:
            assert axis.get_position().width > 0.01
