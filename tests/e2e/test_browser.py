"""MLflow's own pages in a real browser: a person promotes there and reads model cards, whatever the names."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import anndata
import mlflow
import pandas as pd
import pytest
from hostile import NAMES
from playwright.sync_api import Page, expect, sync_playwright
from registered import register_linear
from servers import BIN, serve_mlflow
from simulate import write_cells

from annotary import keys
from annotary.config import CHAMPION, PREVIOUS
from annotary.evaluation.card import Figure, LabelFigures, ModelCard, to_markdown
from annotary.ledger import OUTSIDE, PROMOTED, Decision
from annotary.promotions import append, catch_up, read_ledger, settle
from annotary.registry import describe_version, get_version, list_aliases

CHROMIUM = shutil.which("chromium")
NAME = "cell-annotator"
PATIENCE = 60_000
"""Milliseconds: MLflow's pages take seconds to draw."""

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(
        CHROMIUM is None, reason="no chromium on this machine: .ci/install-chromium installs Debian's"
    ),
]
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def address(module_store) -> str:
    with serve_mlflow(module_store, MLFLOW_DISABLE_TELEMETRY="true") as address:
        mlflow.set_tracking_uri(address)
        yield address


@pytest.fixture(scope="module")
def versions(address, module_store) -> list[str]:
    """Two versions; the gate made the first one champion."""
    experiment = mlflow.create_experiment("browser")
    mlflow.set_experiment(experiment_id=experiment)
    made = [register_linear(NAME, seed=seed) for seed in (1, 2)]
    assert append(
        catch_up(NAME), Decision(action=PROMOTED, before="", after="1", candidate="1", reason="a test")
    )
    settle(NAME)
    write_cells(module_store / "incoming.h5ad", n_cells=40)
    return [version.number for version in made]


@pytest.fixture(scope="module")
def chromium():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(chromium, tmp_path) -> Page:
    """A window of its own; what it showed last is in the test's folder, ``last.png``."""
    page = chromium.new_page(viewport={"width": 1600, "height": 1000})
    page.set_default_timeout(PATIENCE)
    yield page
    page.screenshot(path=tmp_path / "last.png", full_page=True)
    page.close()


def score(folder: Path, address: str) -> dict:
    """Type ``annotary score``; give what it prints, and what it warns of."""
    done = subprocess.run(
        [
            str(BIN / "annotary"),
            "score",
            "--input",
            "incoming.h5ad",
            "--output",
            "out",
            "--settle-seconds",
            "0",
        ],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
        | {"MLFLOW_TRACKING_URI": address},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout) | {"told": done.stderr}


def read_annotated(folder: Path) -> tuple[dict, list[str]]:
    """What an annotated file says of its model, and its labels."""
    annotated = anndata.read_h5ad(folder / "out" / "incoming.annotated.h5ad")
    return annotated.uns["annotary"], list(annotated.obs[keys.PREDICTED_LABELS])


def predict(folder: Path, number: str) -> list[str]:
    model = mlflow.pyfunc.load_model(f"models:/{NAME}/{number}")
    return list(model.predict(pd.DataFrame({"path": [str(folder / "incoming.h5ad")]}))["predicted_labels"])


def click_alias(page: Page, address: str, number: str, alias: str) -> None:
    """From the list of models to the version, and there put the alias, as a person does."""
    page.goto(f"{address}/#/models", wait_until="domcontentloaded")
    news = page.get_by_role("button", name="Try it now")
    expect(news.or_(page.get_by_role("link", name=NAME)).first).to_be_visible(timeout=PATIENCE)
    page.wait_for_timeout(1000)
    if news.is_visible():
        news.click()
    page.get_by_role("link", name=NAME, exact=True).click()
    page.get_by_role("link", name=re.compile(rf"^Version {number}$")).click()
    expect(page.get_by_role("heading", name=f"Version {number}")).to_be_visible(timeout=PATIENCE)
    page.get_by_role("button", name="Add", exact=True).first.click()
    dialog = page.get_by_role("dialog").filter(has_text=re.compile("alias", re.IGNORECASE))
    dialog.get_by_role("combobox").click()
    page.keyboard.type(alias, delay=50)
    page.keyboard.press("Enter")
    dialog.get_by_role("button", name="Save aliases").click()
    expect(dialog).to_be_hidden(timeout=PATIENCE)
    expect(page.get_by_text(f"@ {alias}").first).to_be_visible(timeout=PATIENCE)


def test_the_champion_that_a_person_clicks_is_used_by_the_next_score(address, versions, page, module_store):
    first, second = versions
    before = score(module_store, address)
    assert before["model"].endswith(f"/{first}")
    assert read_annotated(module_store)[1] == predict(module_store, first)

    click_alias(page, address, second, CHAMPION)
    assert list_aliases(NAME)[CHAMPION] == second

    after = score(module_store, address)
    facts, labels = read_annotated(module_store)
    assert str(facts["model_version"]) == second
    assert labels == predict(module_store, second)
    assert labels != predict(module_store, first), "else this would show nothing"
    assert f"champion is version {second}, moved outside the gate from version {first}" in after["told"]
    noted = read_ledger(NAME).entries[-1].decision
    assert (noted.action, noted.before, noted.after) == (OUTSIDE, first, second)
    assert list_aliases(NAME)[PREVIOUS] == first


def test_a_description_of_hostile_names_makes_nothing_in_the_page(address, versions, page):
    dialogs, asked = [], []
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda request: asked.append(request.url))
    card = ModelCard(
        title=NAMES[0],
        data={"Cells": NAMES[1], "Labels": NAMES[5]},
        figures=[Figure("Macro-F1", 0.9, 0.8, 1.0)],
        labels=[LabelFigures(name, 10, Figure("F1", 0.5, 0.4, 0.6), 0.5, 0.5) for name in NAMES],
        rivals=[],
        limits=[NAMES[12]],
        facts={},
        address="#/experiments/1/runs/a1/artifacts/cards/linear_svm_v1.html",
    )
    describe_version(get_version(NAME, versions[0]), to_markdown(card))
    page.goto(f"{address}/#/models/{NAME}/versions/1", wait_until="domcontentloaded")
    link = page.get_by_role("link", name="The whole card, with pictures")
    expect(link).to_be_visible(timeout=PATIENCE)
    assert link.get_attribute("href") == card.address
    text = link.locator("xpath=ancestor::div[.//table][1]")
    assert text.locator("a").count() == 1
    assert text.locator("img, iframe, script, code, del, input, h1").count() == 0
    rows = text.locator("table").last.locator("tbody tr")
    assert rows.count() == len(NAMES)
    for row in range(len(NAMES)):
        assert rows.nth(row).locator("td").count() == 5
    shown = rows.locator("td:first-child").all_inner_texts()
    assert [one.strip() for one in shown[:9]] == [" ".join(name.split()) for name in NAMES[:9]]
    assert dialogs == []
    assert not [url for url in asked if "example.org" in url]
