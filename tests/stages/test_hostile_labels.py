"""Labels, files, a model and an experiment of hostile names go through all stages and stay what they are."""

import io
import re
from collections.abc import Iterator
from pathlib import Path

import anndata
import mlflow
import pandas as pd
import pytest
from conftest import SMALL, leave_out_embedding
from hostile import LABELS
from html_page import Page
from markdown_it import MarkdownIt
from simulate import simulate_cells

from annotary import keys
from annotary.config import (
    CHALLENGER,
    LedgerConfig,
    MainConfig,
    ModelsConfig,
    PromoteConfig,
    RollbackConfig,
    ScoreConfig,
    VerifyConfig,
)
from annotary.data.csv_text import unguard_table
from annotary.evaluation.names import reveal
from annotary.registry import get_version, list_versions, set_alias
from annotary.scoring.records import read_record
from annotary.stages.listing import list_models, list_promotions
from annotary.stages.pipeline import Outcome, run_pipeline
from annotary.stages.promote import promote
from annotary.stages.rollback import rollback
from annotary.stages.score import score
from annotary.stages.verify import verify

MODEL = 'a "model" `of` <b>%20 & #1; --'
EXPERIMENT = 'it\'s "an" `experiment` <b>%s</b> \\ ;'
FILE = 'it\'s a <b>"file"; 100% `x`.h5ad'
MARKDOWN = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])

pytestmark = pytest.mark.full


@pytest.fixture(scope="module")
def config(module_store) -> MainConfig:
    source = module_store / FILE
    shares = tuple(1 / len(LABELS) for _ in LABELS)
    simulate_cells(360, labels=LABELS, shares=shares).write_h5ad(source)
    terms = module_store / "terms.csv"
    rows = {"label": LABELS, "cell_type_ontology_term_id": [f"CL:{row:07d}" for row in range(len(LABELS))]}
    pd.DataFrame(rows).to_csv(terms, index=False)
    values = SMALL | {"max_epochs": 2, "n_trials": 1, "kinds": "logistic_regression", "min_macro_f1": 0}
    return MainConfig(
        input=str(source),
        output=str(module_store / "out"),
        ontology=str(terms),
        model_name=MODEL,
        licence="<i>CC</i> | BY",
        label_source="=cmd()",
        **values,
    )


@pytest.fixture(scope="module")
def outcome(config) -> Outcome:
    mlflow.set_experiment(EXPERIMENT)
    with pytest.MonkeyPatch.context() as monkeypatch:
        leave_out_embedding(monkeypatch)
        return run_pipeline(config)


def list_artifacts(suffix: str) -> Iterator[tuple[str, str]]:
    """Path and text of every artifact of a kind, of all runs."""
    client = mlflow.MlflowClient()

    def walk(run_id: str, folder: str | None = None) -> Iterator[str]:
        for one in client.list_artifacts(run_id, folder):
            if one.is_dir:
                yield from walk(run_id, one.path)
            elif one.path.endswith(suffix):
                yield one.path

    for run in mlflow.search_runs(output_format="list"):
        for path in walk(run.info.run_id):
            yield path, Path(client.download_artifacts(run.info.run_id, path)).read_bytes().decode()


def test_annotated_files_hold_the_labels_as_they_were_given(outcome):
    [scored] = outcome.scored
    before, after = anndata.read_h5ad(scored.source), anndata.read_h5ad(scored.target)
    labels = after.obs[keys.PREDICTED_LABELS]
    assert sorted(read_record(scored.target)["probability_columns"]) == sorted(LABELS)
    assert set(labels.cat.categories) == set(LABELS)
    assert (labels.astype(str) == before.obs["cell_type"].astype(str)).mean() > 0.8
    found = after.obs[keys.ONTOLOGY_TERM].astype(str)
    assert (found == [f"CL:{LABELS.index(label):07d}" for label in labels]).all()


def read_guarded(source: Path | io.StringIO) -> pd.DataFrame:
    """Read a csv table without the apostrophes that keep a spreadsheet from running its texts."""
    return unguard_table(pd.read_csv(source, dtype=str, keep_default_na=False))


def test_tables_of_all_stages_hold_the_labels_as_they_are_but_run_nothing(outcome):
    tables = {}
    for path, text in list_artifacts(".csv"):
        tables[path.split("/")[-1]] = read_guarded(io.StringIO(text))
        assert not re.search(r'(^|[,"\n])=cmd', text), path
    models = [one.candidate.kind + f"_v{one.version.number}" for one in outcome.evaluated]
    by_row = [
        "class_counts",
        "labels",
        *(f"{what}_{one}" for what in ("per_class", "confusion") for one in models),
    ]
    for name in by_row:
        assert sorted(tables[f"{name}.csv"].iloc[:, 0]) == sorted(LABELS), name
    by_column = ["logistic_regression_gene_weights", "transformer_gene_contributions"]
    by_column += [f"confusion_{one}" for one in models]
    for name in by_column:
        assert sorted(tables[f"{name}.csv"].columns[1:]) == sorted(LABELS), name
    told = tables["predictions.csv"]
    assert set(told[models].to_numpy().ravel()) <= set(LABELS)
    assert {"T cell", "t cell"} <= set(told[models[0]])


def test_pages_show_every_label_and_make_nothing_of_it(outcome):
    pages = dict(list_artifacts(".html"))
    assert {path.split("/")[0] for path in pages} == {"dataset.html", "cards", "scoring.html"}
    for path, html in pages.items():
        page = Page(html)
        assert page.open_tags == []
        assert page.find("script") == page.find("b") == page.find("i") == page.find("a") == [], path
        assert {reveal(label) for label in LABELS} <= set(page.cells), path


def test_descriptions_make_nothing_of_a_label(outcome):
    for one in outcome.evaluated:
        text = mlflow.MlflowClient().get_model_version(MODEL, one.version.number).description
        page = Page(MARKDOWN.render(text))
        assert len(page.find("a")) == 1
        assert page.find("script") == page.find("b") == page.find("i") == page.find("code") == []
        assert len(page.find("table")) == 3


def test_a_table_beside_the_file_keeps_labels_apart_that_differ_in_case(outcome, config, tmp_path):
    for kind, read in (("csv", read_guarded), ("parquet", pd.read_parquet)):
        [scored] = score(
            ScoreConfig(
                input=config.input,
                output=str(tmp_path),
                form="table",
                table_format=kind,
                model_name=MODEL,
                shadow=CHALLENGER,
                settle_seconds=0,
            )
        ).files
        table = read(scored.target)
        assert {f"probability {label}" for label in LABELS} <= set(table.columns)
        assert {"T cell", "t cell"} <= set(table[keys.PREDICTED_LABELS]) <= set(LABELS)


def test_the_registry_finds_versions_moves_and_files_by_such_names(outcome, config):
    assert len(list_versions(MODEL)) == len(outcome.evaluated)
    assert MODEL in str(outcome.promotion.champion.uri)
    findings = verify(VerifyConfig(file=str(outcome.scored[0].target), input=config.input))
    assert {one.holds for one in findings} == {True}
    other = next(
        one.version for one in outcome.evaluated if one.version.number != outcome.promotion.champion.number
    )
    set_alias(get_version(MODEL, other.number), CHALLENGER)
    moved = promote(PromoteConfig(model_name=MODEL, min_macro_f1=0, min_gain=-1, non_inferiority_margin=1,
                                  max_class_drop=1, device="cpu"))  # fmt: skip
    assert moved.champion.number == other.number
    rollback(RollbackConfig(model_name=MODEL, reason="<script>'; DROP TABLE runs; --"))
    assert "3 entries, every link holds" in list_promotions(LedgerConfig(model_name=MODEL))
    [line] = [line for line in list_models(ModelsConfig(model_name=MODEL)).splitlines() if "champion" in line]
    assert outcome.promotion.champion.number in line.split()
