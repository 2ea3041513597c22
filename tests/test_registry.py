"""Versions, aliases, and what MLflow stores of a model."""

import mlflow
import numpy as np
import pandas as pd
import pytest
from models.conformance import N_CLASSES, N_PANEL, make_spec
from simulate import LABELS, simulate_cells

from annotary import registry
from annotary.config import PromoteConfig
from annotary.errors import AnnotaryError, RegistryError
from annotary.models.baselines import LogisticRegressionAnnotator
from annotary.models.bundle import Bundle, Provenance
from annotary.tracking import stage_run

NAME = "annotator"


def log_model(seed: int = 0, dataset_hash: str = "d") -> registry.Candidate:
    rng = np.random.default_rng(seed)
    model = LogisticRegressionAnnotator(
        coef=rng.normal(size=(N_CLASSES, N_PANEL)), intercept=np.zeros(N_CLASSES), target_sum=1e4
    )
    with stage_run("baselines", PromoteConfig()) as run:
        provenance = Provenance(dataset_hash, "s", run.run_id, "{}", "0")
        return registry.log_bundle(
            Bundle(
                model=model,
                spec=make_spec(),
                label_names=LABELS,
                provenance=provenance,
                seen_cells=np.zeros(0, dtype=np.int64),
            )
        )


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


def test_an_alias_moves_and_means_one_version(store):
    for seed in (0, 1):
        register(log_model(seed))
    for number in ("1", "2", "1"):
        registry.set_alias(registry.get_version(NAME, number), "champion")
        assert registry.resolve_alias(NAME, "champion").number == number


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


def test_predict_takes_paths_and_gives_a_row_a_cell(store):
    version = register(log_model())
    query = simulate_cells(9, N_PANEL)
    query.var_names = list(make_spec().gene_ids)
    query.write_h5ad("query.h5ad")
    model = mlflow.pyfunc.load_model(version.uri)
    table = model.predict(pd.DataFrame({"path": ["query.h5ad", "query.h5ad"]}), params={"device": "cpu"})
    assert len(table) == 18
    assert list(table.columns[:4]) == ["path", "cell_id", "predicted_labels", "conf_score"]
    probabilities = table[[f"probability {name}" for name in LABELS]].to_numpy()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    assert (np.array(LABELS)[probabilities.argmax(axis=1)] == table["predicted_labels"]).all()


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
