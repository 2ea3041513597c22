"""Versions, aliases, and what MLflow stores of a model."""

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from models.bundles import make_bundle, make_provenance
from models.conformance import N_PANEL, make_spec
from simulate import LABELS, simulate_cells

from annotary import registry
from annotary.config import ModelsConfig, PromoteConfig
from annotary.errors import AnnotaryError, ConfigError, RegistryError
from annotary.ledger import PROMOTED, Decision
from annotary.promotions import append, read_ledger, settle
from annotary.scoring.annotate import CHUNK_SIZE
from annotary.tracking import stage_run

NAME = "annotator"


def log_model(seed: int = 0, dataset_hash: str = "d") -> registry.Candidate:
    with stage_run("baselines", PromoteConfig()) as run:
        provenance = make_provenance(dataset_hash, run_id=run.run_id)
        return registry.log_bundle(make_bundle(LABELS, make_spec(), provenance=provenance, seed=seed))


def register(candidate: registry.Candidate, **tags: str) -> registry.RegisteredVersion:
    return registry.register(candidate, NAME, tags=tags)


def test_a_model_becomes_one_version_however_often_it_is_registered(store):
    candidate = log_model()
    first, again = register(candidate, a="1"), register(candidate, a="2")
    assert (first.number, again.number) == ("1", "1")
    assert again.tags["a"] == "2"
    assert again.run_id == candidate.run_id


def test_models_are_found_by_their_dataset_oldest_first(store):
    mine = [log_model(seed).model_id for seed in (0, 1)]
    log_model(2, dataset_hash="other")
    assert [one.model_id for one in registry.find_candidates("d")] == mine


def test_a_model_that_several_workers_logged_is_one_candidate(store):
    first, other, _again = (log_model(seed) for seed in (0, 1, 0))
    assert registry.find_candidates("d") == [first, other]


def test_an_alias_moves_and_means_one_version(store):
    for seed in (0, 1):
        register(log_model(seed))
    for number in ("1", "2", "1"):
        registry.set_alias(registry.get_version(NAME, number), "champion")
        assert registry.resolve_alias(NAME, "champion").number == number


TAKEN = (
    'say "x"',
    "a `b` %20 %s",
    "\\ & = | # ; --",
    "<b>(T), [x] {y}",
    "β-Zellen 細胞",
    ".b",
    "x" * 200,
)
REFUSED = ("", " ", ".", "..", "a/b", "a:b", "a@b", "a?b", "it's", "two\nlines", "tab\t", "nul\0", "x" * 201)


def test_every_name_that_is_taken_is_found_again_by_searches_addresses_and_the_ledger(store):
    candidate = log_model()
    for name in TAKEN:
        assert ModelsConfig.from_options({"model_name": name}).model_name == name
        made = [registry.register(candidate, name, tags={}).number for _ in range(2)]
        assert made == ["1", "1"]
        assert [one.number for one in registry.list_versions(name)] == ["1"]
        ledger = read_ledger(name)
        assert append(ledger, Decision(action=PROMOTED, before="", after="1", candidate="1", reason=name))
        assert settle(name).entries[0].decision.reason == name
        assert len(read_ledger(name).entries) == 1
        champion = registry.resolve_alias(name, "champion")
        assert champion.name == name
        assert registry.fetch_bundle(champion.uri).is_dir()


@pytest.mark.parametrize("name", REFUSED)
def test_a_name_that_would_not_be_found_again_is_refused_before_any_work(name):
    with pytest.raises(
        ConfigError, match="--model-name needs to be a name of at most 200 printable"
    ) as caught:
        ModelsConfig.from_options({"model_name": name})
    assert f"found {' '.join(repr(name).split())}" in str(caught.value)


def test_missing_models_and_aliases_name_what_is_there(store):
    assert registry.find_alias(NAME, "champion") is None
    with pytest.raises(RegistryError, match="no registered model 'annotator'"):
        registry.resolve_alias(NAME, "champion")
    registry.set_alias(register(log_model()), "Champion")
    with pytest.raises(RegistryError, match=r"found the aliases Champion=1"):
        registry.resolve_alias(NAME, "champion")


def test_an_unknown_candidate_is_named(store):
    with pytest.raises(RegistryError, match="'m-nothing' needs to be the id of a logged model"):
        registry.get_candidate("m-nothing")


def test_a_model_whose_files_are_gone_is_an_error_for_people(store):
    version = register(log_model())
    for path in (store / "artifacts").rglob("bundle.json"):
        path.unlink()
    with pytest.raises(AnnotaryError, match=r"bundle\.json"):
        registry.load(version.uri)


def test_two_versions_in_one_process_answer_for_themselves(store):
    bundles = [registry.load(register(log_model(seed)).uri) for seed in (0, 1)]
    assert np.abs(bundles[0].model.coef - bundles[1].model.coef).max() > 0.1


CELL_COLUMNS = [
    "cell_id",
    "predicted_labels",
    "conf_score",
    "unassigned",
    "low_information",
    "ood",
    "ood_score",
    *(f"probability {name}" for name in LABELS),
    *(f"in_set {name}" for name in LABELS),
]


@pytest.fixture(scope="module")
def served(module_store):
    """A registered model, and cells that lie in a file."""
    query = simulate_cells(9, N_PANEL + 20)
    query.var_names = [*make_spec().gene_ids, *(f"OTHER{gene}" for gene in range(20))]
    query.write_h5ad(module_store / "query.h5ad")
    return mlflow.pyfunc.load_model(register(log_model()).uri), query


def test_predict_takes_paths_and_gives_a_row_a_cell(served):
    model, _ = served
    table = model.predict(pd.DataFrame({"path": ["query.h5ad", "query.h5ad"]}), params={"device": "cpu"})
    assert len(table) == 18
    assert list(table.columns) == ["path", *CELL_COLUMNS]
    probabilities = table[[f"probability {name}" for name in LABELS]].to_numpy()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    assert (np.array(LABELS)[probabilities.argmax(axis=1)] == table["predicted_labels"]).all()
    for name in LABELS:
        assert table.loc[table["predicted_labels"] == name, f"in_set {name}"].all()
    assert (table["ood"] == (table["ood_score"] > 1)).all()


@pytest.mark.parametrize("batch_size", [1, 4, 4096])
def test_files_tables_and_objects_give_the_same_whatever_the_batch(served, batch_size):
    model, query = served
    params = {"batch_size": batch_size}
    of_file = model.predict(pd.DataFrame({"path": ["query.h5ad"]}))
    of_table = model.predict(query.to_df(), params=params)
    of_object = model.unwrap_python_model().annotate(query, params)
    assert list(of_table.columns) == list(of_object.columns) == CELL_COLUMNS
    assert list(of_table["cell_id"]) == list(query.obs_names)
    for table in (of_table, of_object):
        pd.testing.assert_frame_equal(table, of_file.drop(columns="path"), rtol=1e-5)


def test_a_matrix_in_process_gives_the_same(served):
    model, query = served
    found = model.unwrap_python_model().bundle.annotate(query.X, query.var_names)
    expected = model.predict(query.to_df())
    np.testing.assert_allclose(found.confidence, expected["conf_score"], rtol=1e-5)
    np.testing.assert_allclose(found.ood_score, expected["ood_score"], rtol=1e-5)


def test_genes_outside_the_panel_count_for_the_depth_of_a_table_s_cells(served):
    model, query = served
    whole = model.predict(query.to_df())
    cut = query.to_df().iloc[:, :N_PANEL]
    assert np.abs(model.predict(cut)["conf_score"] - whole["conf_score"]).max() > 1e-3
    cut = cut.assign(depth=np.asarray(query.X.sum(axis=1)).ravel())
    pd.testing.assert_frame_equal(model.predict(cut, params={"depth_key": "depth"}), whole, rtol=1e-5)


def test_the_signature_has_params_and_outputs_and_keeps_every_gene(served):
    model, _ = served
    assert model.metadata.get_input_schema() is None
    outputs = model.metadata.get_output_schema()
    assert outputs.input_names() == ["path", *CELL_COLUMNS]
    assert {spec.name: spec.default for spec in model.metadata.get_params_schema().params} == {
        "batch_size": CHUNK_SIZE,
        "device": "auto",
        "counts_layer": "",
        "depth_key": "",
    }


@pytest.mark.parametrize(
    ("change", "params", "message"),
    [
        (lambda table: table.assign(donor="d1"), {}, "other values in the column 'donor'"),
        (lambda table: table * 0.5, {}, "needs non-negative integers"),
        (lambda table: table.replace(0, np.nan), {}, "found nan at cell 'cell0000'"),
        (lambda table: table.iloc[:, N_PANEL:], {}, "at least 50% of the model's 40 genes"),
        (lambda table: table, {"depth_key": "depth"}, "found no such column"),
        (lambda table: table, {"batch_size": 0}, "batch_size of at least 1"),
        (lambda table: pd.DataFrame({"path": []}), {}, "at least one h5ad file in the column 'path'"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_with_the_reason(served, change, params, message):
    model, query = served
    with pytest.raises(AnnotaryError, match=message):
        model.predict(change(query.to_df()), params=params)


def test_an_object_s_errors_name_the_object(served):
    model, query = served
    other = query.copy()
    other.X = other.X * 0.3
    with pytest.raises(AnnotaryError, match=r"^AnnData object: X needs non-negative integers"):
        model.unwrap_python_model().annotate(other)


def test_params_of_a_wrong_type_are_refused(served):
    model, query = served
    with pytest.raises(MlflowException, match="batch_size"):
        model.predict(query.to_df(), params={"batch_size": "many"})


def test_a_version_lists_its_requirements_and_asks_for_no_pickle(store):
    version = register(log_model())
    folder = mlflow.artifacts.download_artifacts(version.uri)
    with open(f"{folder}/requirements.txt") as file:
        requirements = file.read()
    assert "mlflow==" in requirements
    assert "torch" not in requirements, "a linear model needs no network library"
    with open(f"{folder}/MLmodel") as file:
        description = file.read()
    assert "model_code_path: " in description
    assert ".pkl" not in description
