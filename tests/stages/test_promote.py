"""When the champion changes, and when it does not."""

import json
import re
import shutil
from dataclasses import replace

import mlflow
import numpy as np
import pandas as pd
import pytest
from conftest import leave_out_embedding, leave_store
from simulate import simulate_cells, write_cells

from annotary import keys
from annotary.config import (
    CHALLENGER,
    CHAMPION,
    PREVIOUS,
    BaselinesConfig,
    EvaluateConfig,
    PreprocessConfig,
    PromoteConfig,
    RollbackConfig,
)
from annotary.data.dataset import read_dataset
from annotary.data.hashing import hash_file
from annotary.errors import BundleError, RegistryError
from annotary.evaluation.comparison import annotate_cells
from annotary.ledger import KEPT, OUTSIDE, PROMOTED, WOULD_PROMOTE
from annotary.promotions import CALLS_HASH_TAG, catch_up, read_ledger
from annotary.registry import fetch_model, find_alias, get_version, list_aliases, load, set_alias
from annotary.stages import promote as stage
from annotary.stages.baselines import baselines
from annotary.stages.evaluate import evaluate
from annotary.stages.evaluation_check import FIGURES
from annotary.stages.held_out_calls import HeldOutCalls, ask_again
from annotary.stages.preprocess import preprocess
from annotary.stages.promote import DECISION_TAG, RULES_TAG, promote, refuse_other_cells
from annotary.stages.rollback import rollback
from annotary.tracking import fetch

NAME = "cell-annotator"

pytestmark = pytest.mark.usefixtures("no_embedding")


def preprocess_file(source, output, *, seed: int = 42):
    config = PreprocessConfig(
        input=str(source), output=str(output), doublets="none", min_genes=20, n_top_genes=60, seed=seed
    )
    return preprocess(config)


def train(dataset: str) -> list:
    """Train and register two versions; the best is challenger."""
    baselines(BaselinesConfig(dataset=dataset, n_trials=1))
    return evaluate(EvaluateConfig(dataset=dataset, device="cpu"))


def train_on(folder, *, seed: int) -> list:
    """Train on cells simulated by a seed of their own."""
    source = write_cells(folder / f"cells{seed}.h5ad", seed=seed)
    return train(preprocess_file(source, folder / f"out{seed}").address)


@pytest.fixture(scope="module")
def trained(module_store) -> list:
    with pytest.MonkeyPatch.context() as monkeypatch:
        leave_out_embedding(monkeypatch)
        return train_on(module_store, seed=0)


@pytest.fixture
def evaluated(trained, module_store, tmp_path, monkeypatch) -> list:
    """Two evaluated versions in a store of the test's own."""
    use_copy(module_store, tmp_path, monkeypatch)
    yield trained
    leave_store()
    mlflow.set_tracking_uri(f"sqlite:///{module_store / 'mlflow.db'}")


def use_copy(source, folder, monkeypatch) -> None:
    """Work on a copy of a store; what its artifacts are stays shared."""
    shutil.copy(source / "mlflow.db", folder / "mlflow.db")
    shutil.copy(source / "cells0.h5ad", folder / "cells0.h5ad")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
    mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
    mlflow.set_experiment("tests")


def make_champion(number: str) -> None:
    set_alias(get_version(NAME, number), CHAMPION)


def give_calls(monkeypatch, **right: int) -> None:
    """Give versions (``v1=...``) this many right calls of 200 test cells of two labels."""
    truth = np.repeat(np.array(["B cell", "T cell"], dtype=object), 100)
    cell_ids = np.array([f"cell{cell}" for cell in range(200)], dtype=object)

    def read(version):
        wrong = np.arange(200) % 100 >= right[f"v{version.number}"] // 2
        other = np.where(truth == "B cell", "T cell", "B cell")
        return HeldOutCalls(cell_ids, truth, np.where(wrong, other, truth))

    monkeypatch.setattr(stage, "read_calls", read)


def read_actions() -> list[str]:
    return [entry.decision.action for entry in read_ledger(NAME).entries]


def numbers(evaluated) -> list[str]:
    return [one.version.number for one in evaluated]


def test_without_a_champion_the_challenger_becomes_it(evaluated):
    done = promote(PromoteConfig())
    assert done.verdict.promote
    assert find_alias(NAME, CHAMPION).number == evaluated[0].version.number
    assert find_alias(NAME, CHALLENGER) is None, "it is no challenger any more"


def test_a_better_challenger_is_promoted_and_every_rule_is_on_record(evaluated, monkeypatch):
    best, worse = numbers(evaluated)
    make_champion(worse)
    give_calls(monkeypatch, **{f"v{best}": 180, f"v{worse}": 160})
    done = promote(PromoteConfig())
    aliases = list_aliases(NAME)
    assert (aliases[CHAMPION], aliases[PREVIOUS]) == (best, worse)
    assert "0.9000 is higher than the champion's 0.8000 on the same 200 test cells" in done.verdict.reason
    tags = get_version(NAME, best).tags
    assert f"champion was version {worse}" in tags[DECISION_TAG]
    names = {rule.name for rule in done.verdict.rules}
    assert set(json.loads(tags[RULES_TAG])) == names
    entry = read_ledger(NAME).entries[-1].decision
    assert {rule["name"] for rule in entry.rules} == names
    assert (entry.action, entry.before, entry.after) == (PROMOTED, worse, best)
    assert entry.hashes["model"] == tags["annotary.model_hash"]
    assert entry.hashes["dataset"] == tags["annotary.dataset_hash"]
    run = mlflow.get_run(entry.run_id)
    assert {f"gate.{name}.passed" for name in names} <= set(run.data.metrics)
    assert run.data.metrics["difference"] == pytest.approx(0.1)
    table = mlflow.artifacts.load_text(f"runs:/{entry.run_id}/tables/gate.csv")
    assert all(name in table for name in names)


@pytest.mark.parametrize("right", [140, 160])
def test_a_challenger_that_is_not_better_is_not_promoted(evaluated, monkeypatch, right):
    best, worse = numbers(evaluated)
    make_champion(worse)
    give_calls(monkeypatch, **{f"v{best}": right, f"v{worse}": 160})
    assert not promote(PromoteConfig()).verdict.promote
    assert find_alias(NAME, CHAMPION).number == worse
    assert "kept the champion" in get_version(NAME, best).tags[DECISION_TAG]
    assert read_actions() == [OUTSIDE, KEPT]


def test_dry_run_says_what_it_would_do_and_moves_nothing(evaluated):
    done = promote(PromoteConfig(mode="dry_run"))
    assert done.verdict.promote
    assert find_alias(NAME, CHAMPION) is None
    assert "would be promoted" in get_version(NAME, evaluated[0].version.number).tags[DECISION_TAG]
    assert read_actions() == [WOULD_PROMOTE]


def test_disabled_does_nothing(evaluated):
    assert not promote(PromoteConfig(mode="disabled")).verdict.promote
    assert find_alias(NAME, CHAMPION) is None
    assert read_actions() == []


def test_a_rule_that_is_broken_keeps_the_champion_away(evaluated):
    done = promote(PromoteConfig(max_bundle_mb=0.001))
    assert done.champion is None
    assert "larger than 0.001" in done.verdict.reason
    assert find_alias(NAME, CHAMPION) is None


def test_without_a_challenger_the_champion_stays(evaluated):
    first = promote(PromoteConfig())
    again = promote(PromoteConfig())
    assert "there is no challenger" in again.verdict.reason
    assert again.champion.number == first.champion.number
    named = promote(PromoteConfig(version=first.champion.number))
    assert "is champion already" in named.verdict.reason


def test_no_challenger_and_no_champion_is_an_error_that_says_what_to_run(store):
    with pytest.raises(RegistryError, match=r"@challenger needs a version.*Run annotary evaluate"):
        promote(PromoteConfig())


def test_a_promotion_that_another_process_was_quicker_with_starts_again(evaluated, monkeypatch):
    best, worse = numbers(evaluated)
    give_calls(monkeypatch, **{f"v{best}": 180, f"v{worse}": 160})
    compare = stage._compare

    def compare_slowly(challenger, champion, config):
        monkeypatch.setattr(stage, "_compare", compare)
        promote(PromoteConfig(version=worse))
        return compare(challenger, champion, config)

    monkeypatch.setattr(stage, "_compare", compare_slowly)
    done = promote(PromoteConfig(version=best))
    assert "higher than the champion's 0.8000" in done.verdict.reason
    assert [entry.decision.after for entry in read_ledger(NAME).entries] == [worse, best]
    assert list_aliases(NAME)[PREVIOUS] == worse


@pytest.mark.full
def test_a_champion_measured_on_other_cells_is_scored_again_in_a_process_of_its_own(
    evaluated, tmp_path, monkeypatch
):
    asked = []

    def ask(*arguments, **options):
        asked.append(ask_again(*arguments, **options))
        return asked[0]

    monkeypatch.setattr(stage, "ask_again", ask)
    promote(PromoteConfig())
    newer = train_on(tmp_path, seed=1)
    assert find_alias(NAME, CHALLENGER).number == newer[0].version.number
    reason = promote(PromoteConfig(device="cpu")).verdict.reason
    assert "(48 that the champion has not seen)" in reason
    dataset = read_dataset(tmp_path / "out1" / "dataset.h5ad")
    champion = load(find_alias(NAME, CHAMPION).uri)
    here = annotate_cells(champion, dataset, dataset.take(keys.TEST), device="cpu")
    names = np.array(champion.label_names)
    assert (asked[0] == names[here.codes]).all(), "the process says what this one says"


def split_again(folder, *, seed: int) -> None:
    """Train on the champion's cells, split by another seed."""
    train(preprocess_file(folder / "cells0.h5ad", folder / "again", seed=seed).address)


@pytest.mark.full
def test_cells_that_the_champion_was_trained_on_do_not_count(evaluated, tmp_path, monkeypatch):
    promote(PromoteConfig())
    split_again(tmp_path, seed=7)
    done = promote(PromoteConfig(device="cpu"))
    assert not done.verdict.promote
    assert "the champion has seen all but" in done.verdict.reason

    def ask(champion, dataset, cells, *, device):
        return np.array(dataset.record.label_names, dtype=object)[cells.codes]

    monkeypatch.setattr(stage, "_LEAST_UNSEEN", 5)
    monkeypatch.setattr(stage, "ask_again", ask)
    reason = promote(PromoteConfig(device="cpu")).verdict.reason
    n_unseen = int(re.search(r"\((\d+) that the champion has not seen\)", reason)[1])
    assert 5 <= n_unseen < 25, "a fifth of 48 test cells are test cells of both"


def test_a_version_that_does_not_answer_is_an_error_for_people(evaluated, tmp_path):
    dataset = read_dataset(fetch(evaluated[0].version.tags["annotary.dataset"]))
    gone = replace(evaluated[0].version, number="99")
    with pytest.raises(RegistryError, match=r"models:/cell-annotator/99 needs files in the artifact store"):
        ask_again(gone, dataset, dataset.take(keys.TEST), device="cpu")


@pytest.mark.full
def test_a_champion_for_other_labels_is_no_rival(evaluated, tmp_path):
    promote(PromoteConfig())
    other = simulate_cells(seed=1)
    other.obs["cell_type"] = "other " + other.obs["cell_type"].astype(str)
    other.write_h5ad(tmp_path / "other.h5ad")
    dataset = preprocess_file(tmp_path / "other.h5ad", tmp_path / "o")
    with pytest.raises(RegistryError, match=r"a champion for the same kind of cells.*--model-name"):
        refuse_other_cells(NAME, read_dataset(dataset.path))
    train(dataset.address)
    champion = find_alias(NAME, CHAMPION).number
    with pytest.raises(RegistryError, match=r"a champion for the same kind of cells.*--model-name"):
        promote(PromoteConfig(device="cpu"))
    assert find_alias(NAME, CHAMPION).number == champion
    refuse_other_cells("another-name", read_dataset(dataset.path))


def test_a_version_can_be_named(evaluated):
    worse = evaluated[1].version.number
    assert promote(PromoteConfig(version=worse)).champion.number == worse
    with pytest.raises(RegistryError, match="to be a version of a registered model"):
        promote(PromoteConfig(version="99"))


def test_evaluating_again_registers_no_version_twice(evaluated):
    dataset = evaluated[0].version.tags["annotary.dataset"]
    again = evaluate(EvaluateConfig(dataset=dataset, device="cpu"))
    assert [one.version.number for one in again] == [one.version.number for one in evaluated]


def alter_tag(number: str, name: str, value: str) -> None:
    mlflow.MlflowClient().set_model_version_tag(NAME, number, name, value)


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_that_was_altered_in_a_tag_is_refused_naming_what_was_measured(evaluated, name):
    number = evaluated[0].version.number
    alter_tag(number, name, "0.999")
    with pytest.raises(RegistryError, match=rf"tag {name} needs what the evaluation's run .*found '0\.999'"):
        promote(PromoteConfig(version=number, mode="dry_run"))
    assert find_alias(NAME, CHAMPION) is None
    assert read_actions() == []


@pytest.mark.parametrize("name", ["annotary.split_hash", "annotary.counts_hash", CALLS_HASH_TAG])
def test_hashes_that_decide_how_to_compare_are_held_against_the_evaluation(evaluated, name):
    number = evaluated[0].version.number
    alter_tag(number, name, "0" * 64)
    with pytest.raises(RegistryError, match=rf"tag {name} needs what the evaluation's run"):
        promote(PromoteConfig(version=number))


def test_calls_that_were_altered_are_refused_by_their_hash_and_by_counting_again(evaluated, module_store):
    best = evaluated[0].version
    run_id = best.tags["annotary.evaluation_run"]
    table = next((module_store / "artifacts" / run_id).rglob("predictions.csv"))
    before = table.read_text()
    try:
        forged = pd.read_csv(table, dtype=str)
        column = f"{best.tags['annotary.kind']}_v{best.number}"
        forged[column] = forged[column].to_numpy()[::-1]
        forged.to_csv(table, index=False)
        with pytest.raises(RegistryError, match="with SHA-256"):
            promote(PromoteConfig(version=best.number))
        for set_tag in (
            lambda name, value: alter_tag(best.number, name, value),
            lambda name, value: mlflow.MlflowClient().set_tag(run_id, name, value),
        ):
            set_tag(CALLS_HASH_TAG, hash_file(table))
        with pytest.raises(RegistryError, match="tag macro_f1 needs what its calls of"):
            promote(PromoteConfig(version=best.number))
    finally:
        table.write_text(before)


def test_a_version_with_altered_files_is_not_promoted_and_a_rollback_passes_it_over(evaluated, caplog):
    best, worse = numbers(evaluated)
    lenient = {"min_gain": -1, "non_inferiority_margin": 1, "max_class_drop": 1, "n_draws": 100}
    code = fetch_model(get_version(NAME, worse).uri) / "code" / "annotary" / "__init__.py"
    before = code.read_text()
    try:
        code.write_text(before + "\n")
        with pytest.raises(BundleError, match=r"code/annotary/__init__\.py"):
            promote(PromoteConfig(version=worse))
        code.write_text(before)
        for number in (worse, best):
            promote(PromoteConfig(version=number, **lenient))
        code.write_text(before + "\n")
        with pytest.raises(RegistryError, match=f"found version {worse}, altered"):
            rollback(RollbackConfig())
    finally:
        code.write_text(before)
    assert find_alias(NAME, CHAMPION).number == best
    assert f"version {worse} is passed over" in caplog.text


def test_where_the_champion_was_deleted_the_former_one_is_the_rival(evaluated, monkeypatch):
    best, worse = numbers(evaluated)
    promote(PromoteConfig(version=best))
    mlflow.MlflowClient().create_model_version(NAME, source="nowhere")
    make_champion("3")
    assert catch_up(NAME).champion == "3"
    mlflow.MlflowClient().delete_model_version(NAME, "3")
    give_calls(monkeypatch, **{f"v{best}": 180, f"v{worse}": 160})
    done = promote(PromoteConfig(version=worse))
    assert done.champion is None
    assert f"version {best} is the newest champion left" in done.verdict.reason
    assert "annotary rollback makes that one champion again" in done.verdict.reason
    assert promote(PromoteConfig(version=best)).champion.number == best
