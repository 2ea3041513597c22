"""Each alteration of an annotated file, and what notices it: the same table as docs/verification.md."""

import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anndata
import mlflow
import numpy as np
import pytest
from models.bundles import make_provenance
from registered import register_linear
from simulate import simulate_cells, write_cells

from annotary.config import ScoreConfig, VerifyConfig
from annotary.data.hashing import hash_strings
from annotary.errors import InputFileError, OutputError
from annotary.registry import set_alias
from annotary.scoring.written import hash_record
from annotary.stages import written_log
from annotary.stages.score import score
from annotary.stages.verify import UncheckedError, refuse_altered, verify
from annotary.tracking import DATASET_HASH_TAG, SPLIT_HASH_TAG

DOCS = Path(__file__).parents[2] / "docs" / "verification.md"
MODEL = "annotator"
N_CELLS = 40


@dataclass
class Scored:
    """An input and its annotated file."""

    source: Path
    target: Path


def annotate(source: Path, output: str, **options: object) -> Path:
    """Score a file in this process; give the annotated one."""
    config = ScoreConfig(
        input=str(source), output=output, model_name=MODEL, read_timeout=0, device="cpu", **options
    )
    return score(config).files[0].target


@pytest.fixture(scope="module")
def scored(module_store) -> Scored:
    """A file that was annotated without a prefix, then with one."""
    version = register_linear(MODEL, seed=0)
    provenance = make_provenance()
    tags = {DATASET_HASH_TAG: provenance.dataset_hash, SPLIT_HASH_TAG: provenance.split_hash}
    for name, value in tags.items():
        mlflow.MlflowClient().set_model_version_tag(MODEL, version.number, name, value)
    set_alias(version, "champion")
    source = write_cells(module_store / "cells.h5ad", n_cells=N_CELLS, seed=1)
    data = anndata.read_h5ad(source)
    data.obs["donor"] = ["d1", "d2"] * (N_CELLS // 2)
    data.layers["half"] = data.X / 2
    data.write_h5ad(source)
    return Scored(source, annotate(source, "out"))


@pytest.fixture(scope="module")
def twice(scored) -> Path:
    """The annotated file, annotated again with a prefix."""
    return annotate(scored.target, "twice", prefix="my_")


def reseal(data: anndata.AnnData, **fields: object) -> None:
    """Change fields of the record, and make its hash anew, as a forger does who has the code."""
    record = data.uns["annotary"]
    record |= fields
    record["record_hash"] = hash_record(record)


def change_labels(data):
    data.obs["predicted_labels"] = data.obs["predicted_labels"].astype(str)[::-1].to_numpy()


def forge(data):
    names = list(data.uns["annotary"]["probability_columns"])
    rolled = np.roll(np.asarray(data.obsm["annotary_probabilities"]), 1, axis=1)
    data.obsm["annotary_probabilities"] = rolled
    data.obs["predicted_labels"] = [names[best] for best in rolled.argmax(axis=1)]
    reseal(data, labels_hash=hash_strings(data.obs["predicted_labels"]))


def set_column(data, *, name, value):
    data.obs[name] = value


def turn(data, *, name):
    data.obs[name] = ~data.obs[name].to_numpy(dtype=bool)


def flatten(data):
    mixed = data.obsm["annotary_probabilities"] + 0.01
    data.obsm["annotary_probabilities"] = mixed / mixed.sum(axis=1, keepdims=True)


def widen_sets(data):
    data.obsm["annotary_prediction_sets"] = data.obsm["annotary_prediction_sets"] | True


def drop_column(data):
    del data.obs["annotary_ood"]


def give_ids_away(data):
    data.obs_names = list(data.obs_names[::-1])


def rename_cell(data):
    data.obs_names = ["another", *data.obs_names[1:]]


def double_cells(data):
    return anndata.concat([data, data[:5]], merge="first", uns_merge="first")


def double_counts(data):
    data.X = data.X * 2


def drop_layer(data):
    del data.layers["half"]


def rename_gene(data):
    data.var_names = ["another", *data.var_names[1:]]


def name_other_run(data):
    reseal(data, scoring_run_id="0" * 32)


ALTERATIONS = {
    "predicted labels": (change_labels, "do not fit their probabilities"),
    "labels with their probabilities, and the record sealed anew": (forge, "labels_hash is"),
    "confidence": (
        partial(set_column, name="conf_score", value=0.999),
        "do not have their largest probability",
    ),
    "unassigned flags": (
        partial(turn, name="annotary_unassigned"),
        "obs['annotary_unassigned']: was changed",
    ),
    "out-of-distribution flags": (partial(turn, name="annotary_ood"), "obs['annotary_ood']: was changed"),
    "out-of-distribution score": (
        partial(set_column, name="annotary_ood_score", value=0.5),
        "obs['annotary_ood_score']: was changed",
    ),
    "low-information flags": (
        partial(turn, name="annotary_low_information"),
        "obs['annotary_low_information']: was changed",
    ),
    "probabilities": (flatten, "obsm['annotary_probabilities']: was changed"),
    "prediction sets": (widen_sets, "obsm['annotary_prediction_sets']: was changed"),
    "a column removed": (drop_column, "obs['annotary_ood']: is gone"),
    "cells reordered": (lambda data: data[::-1].copy(), "the cells were reordered"),
    "ids given to other cells": (give_ids_away, "ids were given to other cells"),
    "a cell renamed": (rename_cell, "ids were changed"),
    "cells removed": (lambda data: data[3:].copy(), "37 cells, 40 were written: cells were removed"),
    "cells doubled": (double_cells, "45 cells, 40 were written: cells were added"),
    "the record's time, resealed": (partial(reseal, time="1999-01-01T00:00:00+00:00"), "time is '1999"),
    "the record names no scoring run, resealed": (name_other_run, "not checked against the registry"),
    "the record names another version": (partial(reseal, model_version="99"), "models:/annotator/99"),
    "counts doubled": (double_counts, "input's X: was changed"),
    "a column of the input": (
        partial(set_column, name="donor", value="d9"),
        "input's obs['donor']: was changed",
    ),
    "an element of the input dropped": (drop_layer, "input's layers['half']: is gone"),
    "names of genes": (rename_gene, "input's names of var: were changed"),
}
ELSEWHERE = {
    "the record names a run that scored nothing, resealed",
    "a column under a prefix",
    "another input",
}
"""Alterations with a test of their own below."""


def ask(path: Path, source: Path | None = None) -> list:
    return verify(VerifyConfig(file=str(path), input=str(source or "")))


def alter(path: Path, change, target: Path) -> Path:
    data = anndata.read_h5ad(path)
    altered = change(data)
    (data if altered is None else altered).write_h5ad(target)
    return target


def test_an_untouched_file_is_whole_also_when_anndata_wrote_it_again(scored, tmp_path):
    again = alter(scored.target, partial(set_column, name="mine", value="note"), tmp_path / "again.h5ad")
    for path in (scored.target, again):
        findings = ask(path, scored.source)
        assert {one.holds for one in findings} == {True}
        refuse_altered(findings, str(path))


def test_compressed_and_transposed_storage_is_no_alteration(scored, tmp_path):
    data = anndata.read_h5ad(scored.target)
    data.X = data.X.tocsc()
    data.layers["half"] = data.layers["half"].toarray()
    data.obs["predicted_labels"] = data.obs["predicted_labels"].astype(str)
    data.write_h5ad(tmp_path / "stored.h5ad", compression="gzip")
    assert {one.holds for one in ask(tmp_path / "stored.h5ad", scored.source)} == {True}


@pytest.mark.parametrize("name", ALTERATIONS)
def test_each_alteration_is_named(scored, tmp_path, name):
    change, says = ALTERATIONS[name]
    altered = alter(scored.target, change, tmp_path / "altered.h5ad")
    error = UncheckedError if name == "the record names no scoring run, resealed" else OutputError
    with pytest.raises(error, match=re.escape(says)) as raised:
        refuse_altered(ask(altered, scored.source), str(altered))
    assert raised.value.exit_code == (3 if error is UncheckedError else 1)


def test_a_run_that_scored_nothing_is_not_believed(scored, tmp_path):
    other = register_linear("other", seed=3).run_id
    altered = alter(scored.target, partial(reseal, scoring_run_id=other), tmp_path / "altered.h5ad")
    with pytest.raises(OutputError, match=r"a run of baselines .* no score run of models:/annotator/1"):
        refuse_altered(ask(altered), str(altered))


def test_another_input_is_named(scored, tmp_path):
    other = write_cells(tmp_path / "other.h5ad", n_cells=N_CELLS, seed=2)
    with pytest.raises(OutputError, match=r"annotated was .*input's X: was changed"):
        refuse_altered(ask(scored.target, other), "file")


def test_the_documented_table_is_the_tested_one():
    text = DOCS.read_text().split("## Alterations")[1].split("Of the version")[0]
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", text, flags=re.MULTILINE)[1:]
    assert {row[0] for row in rows} == set(ALTERATIONS) | ELSEWHERE


def test_each_prefix_is_checked_and_a_second_one_leaves_the_first(scored, twice, tmp_path):
    assert {one.holds for one in ask(twice, scored.target)} == {True}
    data = anndata.read_h5ad(twice)
    assert {"annotary", "my_annotary"} <= set(data.uns)
    for name in ("my_predicted_labels", "predicted_labels"):
        data = anndata.read_h5ad(twice)
        data.obs[name] = data.obs[name].astype(str)[::-1].to_numpy()
        data.write_h5ad(tmp_path / "altered.h5ad")
        with pytest.raises(OutputError, match=re.escape(f"obs['{name}']")):
            refuse_altered(ask(tmp_path / "altered.h5ad"), "file")


def test_what_was_moved_aside_counts_as_kept(scored, tmp_path):
    data = simulate_cells(20)
    data.obs["conf_score"], data.uns["annotary"] = 0.25, "somebody's own"
    data.obsm["annotary_probabilities"] = np.ones((20, 2))
    data.write_h5ad(tmp_path / "own.h5ad")
    target = annotate(tmp_path / "own.h5ad", str(tmp_path / "out"))
    assert {one.holds for one in ask(target, tmp_path / "own.h5ad")} == {True}
    kept = anndata.read_h5ad(target)
    assert set(kept.obs["conf_score_before_annotary"]) == {0.25}
    assert kept.uns["annotary_before_annotary"] == "somebody's own"
    again = annotate(target, str(tmp_path / "again"), majority_voting=True)
    assert {one.holds for one in ask(again, target)} == {True}
    assert {one.holds for one in ask(again, tmp_path / "own.h5ad") if one.what != "input"} == {True}


def test_what_the_registry_does_not_hold_is_not_called_whole(scored, monkeypatch):
    monkeypatch.setattr(written_log, "FOLDER", "nothing")
    findings = ask(scored.target, scored.source)
    assert not [one for one in findings if one.holds is False]
    with pytest.raises(UncheckedError, match="not checked against the registry: it holds nothing"):
        refuse_altered(findings, "file")


@pytest.mark.parametrize("address", ["sqlite:///{}/another.db", "sqlite:///{}/a folder", "foo://nowhere"])
def test_without_its_store_a_file_is_not_called_whole_and_alterations_are_named(scored, tmp_path, address):
    def relabel(data):
        data.obs["conf_score"] = 0.5

    (tmp_path / "a folder").mkdir()
    altered = alter(scored.target, relabel, tmp_path / "altered.h5ad")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(address.format(tmp_path))
    try:
        findings, worse = ask(scored.target), ask(altered)
    finally:
        mlflow.set_tracking_uri(before)
    assert not [one for one in findings if one.holds is False]
    open_ones = [one.what for one in findings if one.holds is None and "against the registry" in one.says]
    assert [what.split()[0].split("/")[0] for what in open_ones] == ["scoring", "models:"]
    with pytest.raises(UncheckedError, match=r"not checked against the registry.*Set MLFLOW_TRACKING_URI"):
        refuse_altered(findings, "file")
    with pytest.raises(OutputError, match="conf_score"):
        refuse_altered(worse, "file")


def test_a_file_of_an_older_annotary_is_not_called_whole(scored, tmp_path):
    def age(data):
        del data.uns["annotary"]["written"], data.uns["annotary"]["record_hash"]

    aged = alter(scored.target, age, tmp_path / "aged.h5ad")
    with pytest.raises(UncheckedError, match="an older annotary wrote the file"):
        refuse_altered(ask(aged), "file")


def test_hashes_are_sent_in_pieces(scored, monkeypatch, tmp_path):
    monkeypatch.setattr(written_log, "_MOST_WAITING", 1)
    (tmp_path / "in").mkdir()
    for seed in (5, 6):
        write_cells(tmp_path / "in" / f"{seed}.h5ad", n_cells=10, seed=seed)
    config = ScoreConfig(input=str(tmp_path / "in"), output=str(tmp_path / "out"), model_name=MODEL,
                         read_timeout=0, device="cpu", settle_seconds=0)  # fmt: skip
    for one in score(config).files:
        assert {found.holds for found in ask(one.target, Path(one.source))} == {True}


def test_a_table_is_refused_with_the_remedy(tmp_path):
    table = tmp_path / "cells.annotated.csv"
    table.write_text("cell_id\n")
    with pytest.raises(InputFileError, match=r"a table, which verify does not check.*--form both"):
        ask(table)
