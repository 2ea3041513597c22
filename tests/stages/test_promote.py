"""When the champion changes, and when it does not."""

import re

import mlflow
import pytest
from simulate import simulate_cells, write_cells

from annotary.config import (
    CHALLENGER,
    CHAMPION,
    BaselinesConfig,
    EvaluateConfig,
    PreprocessConfig,
    PromoteConfig,
)
from annotary.data.dataset import read_dataset
from annotary.errors import RegistryError
from annotary.registry import find_alias, get_version, set_alias
from annotary.stages import promote as stage
from annotary.stages.baselines import baselines
from annotary.stages.evaluate import evaluate
from annotary.stages.preprocess import preprocess
from annotary.stages.promote import DECISION_TAG, promote, refuse_other_cells

NAME = "cell-annotator"


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


@pytest.fixture
def evaluated(store) -> list:
    return train_on(store, seed=0)


def set_score(number: str, macro_f1: float) -> None:
    mlflow.MlflowClient().set_model_version_tag(NAME, number, "macro_f1", str(macro_f1))


def make_champion(number: str) -> None:
    set_alias(get_version(NAME, number), CHAMPION)


def test_without_a_champion_the_challenger_becomes_it(evaluated):
    done = promote(PromoteConfig())
    assert done.verdict.promote
    assert find_alias(NAME, CHAMPION).number == evaluated[0].version.number


def test_a_better_challenger_on_the_same_cells_is_promoted_with_its_reason(evaluated):
    best, worse = (one.version.number for one in evaluated)
    make_champion(worse)
    set_score(best, 0.9)
    set_score(worse, 0.8)
    done = promote(PromoteConfig())
    assert find_alias(NAME, CHAMPION).number == best
    assert "0.9000 is higher than the champion's 0.8000 on the same test cells" in done.verdict.reason
    assert f"champion was version {worse}" in get_version(NAME, best).tags[DECISION_TAG]


@pytest.mark.parametrize("score", [0.7, 0.8])
def test_a_challenger_that_is_not_better_is_not_promoted(evaluated, score):
    best, worse = (one.version.number for one in evaluated)
    make_champion(worse)
    set_score(best, score)
    set_score(worse, 0.8)
    assert not promote(PromoteConfig()).verdict.promote
    assert find_alias(NAME, CHAMPION).number == worse
    assert "kept the champion" in get_version(NAME, best).tags[DECISION_TAG]


def test_dry_run_says_what_it_would_do_and_moves_nothing(evaluated):
    done = promote(PromoteConfig(mode="dry_run"))
    assert done.verdict.promote
    assert find_alias(NAME, CHAMPION) is None
    assert "would be promoted" in evaluated_version(evaluated).tags[DECISION_TAG]


def evaluated_version(evaluated):
    return get_version(NAME, evaluated[0].version.number)


def test_disabled_does_nothing(evaluated):
    assert not promote(PromoteConfig(mode="disabled")).verdict.promote
    assert find_alias(NAME, CHAMPION) is None


def test_the_champion_as_challenger_stays(evaluated):
    promote(PromoteConfig())
    assert "is champion already" in promote(PromoteConfig()).verdict.reason


def test_no_challenger_is_an_error_that_says_what_to_run(store):
    with pytest.raises(RegistryError, match=r"@challenger needs a version.*Run annotary evaluate"):
        promote(PromoteConfig())


def test_a_champion_measured_on_other_cells_is_scored_again(evaluated, store):
    promote(PromoteConfig())
    set_score(evaluated[0].version.number, 0.0)
    newer = train_on(store, seed=1)
    assert find_alias(NAME, CHALLENGER).number == newer[0].version.number
    reason = promote(PromoteConfig(device="cpu")).verdict.reason
    assert "the champion's 0.0000" not in reason
    assert "(48 that the champion has not seen)" in reason


def split_again(store, *, seed: int) -> None:
    """Train on the champion's cells, split by another seed."""
    train(preprocess_file(store / "cells0.h5ad", store / "again", seed=seed).address)


def test_cells_that_the_champion_was_trained_on_do_not_count(evaluated, store, monkeypatch):
    monkeypatch.setattr(stage, "_LEAST_UNSEEN", 5)
    promote(PromoteConfig())
    split_again(store, seed=7)
    reason = promote(PromoteConfig(device="cpu")).verdict.reason
    n_unseen = int(re.search(r"\((\d+) that the champion has not seen\)", reason)[1])
    assert 5 <= n_unseen < 25, "a fifth of 48 test cells are test cells of both"


def test_too_few_unseen_cells_keep_the_champion(evaluated, store):
    promote(PromoteConfig())
    split_again(store, seed=7)
    done = promote(PromoteConfig(device="cpu"))
    assert not done.verdict.promote
    assert "the champion has seen all but" in done.verdict.reason


def test_a_champion_for_other_labels_is_no_rival(evaluated, store):
    promote(PromoteConfig())
    other = simulate_cells(seed=1)
    other.obs["cell_type"] = "other " + other.obs["cell_type"].astype(str)
    other.write_h5ad(store / "other.h5ad")
    dataset = preprocess_file(store / "other.h5ad", store / "o")
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
