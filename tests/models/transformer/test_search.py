import optuna
import pytest
from models.transformer.small_training import fit
from optuna.trial import FixedTrial

from annotary.models.transformer.config import NetworkConfig, TrainingConfig
from annotary.models.transformer.epochs import EpochMetrics
from annotary.models.transformer.search import SHAPE, NetworkSearch
from annotary.models.tuning.study import open_study
from annotary.network_options import NetworkOptions

OPTIONS = NetworkOptions(d_model=16, n_layers=1, max_epochs=2, batch_size=64)


def script(scores):
    """Make a training whose epochs score what a list says, or what a trial's options say."""
    seen = []

    def train(options, on_epoch):
        seen.append(options)
        history = []
        for number, score in enumerate(scores(options), start=1):
            history.append(EpochMetrics(number, 1.0, 1.0, score, score, 1e-3, 1.0, 1.0, 0.1))
            on_epoch(history[-1])
        return history

    return train, seen


def make_search(scores=lambda options: [0.4, 0.6], *, options=OPTIONS, **others):
    train, seen = script(scores)
    return NetworkSearch(options, train, seed=0, **others), seen


def test_the_options_as_they_are_are_tried_first_and_lie_in_the_space():
    odd = OPTIONS.model_copy(update={"d_model": 18, "n_heads": 3, "n_bins": 5, "learning_rate": 0.5})
    search, seen = make_search(options=odd)
    result = search.run("s", "", n_trials=1)
    assert seen == [odd]
    assert result.best.params == search.first_trial
    trial = FixedTrial(search.first_trial)
    search.suggest(trial)
    for name, value in search.first_trial.items():
        space = trial.distributions[name]
        assert space._contains(space.to_internal_repr(value)), name


@pytest.mark.parametrize("own", [{}, {"d_model": 18, "n_heads": 3}, {"d_model": 40, "n_heads": 8}])
def test_every_choice_of_heads_divides_every_width(own):
    search, _ = make_search(options=OPTIONS.model_copy(update=own))
    trial = FixedTrial(search.first_trial)
    search.suggest(trial)
    for width in trial.distributions["d_model"].choices:
        for n_heads in trial.distributions["n_heads"].choices:
            NetworkConfig(10, 2, d_model=width, n_heads=n_heads)


def test_a_trial_is_worth_its_best_epoch_and_keeps_all():
    search, _ = make_search(lambda options: [0.4, 0.7, 0.5])
    best = search.run("s", "", n_trials=1).best
    assert best.value == 0.7
    assert best.scores == (0.4, 0.7, 0.5)
    assert best.seconds > 0


def test_a_trial_far_below_the_others_is_pruned_after_an_epoch_and_recorded():
    search, _ = make_search(lambda options: [0.1, 0.9] if options.dropout == 0.3 else [0.5, 0.6])
    study = open_study("s", "", first_trials=[], n_trials=5, seed=0)
    for dropout, thinning in [(0.0, 0.0), (0.0, 0.2), (0.0, 0.4), (0.1, 0.0), (0.3, 0.0)]:
        study.enqueue_trial(search.first_trial | {"dropout": dropout, "thinning": thinning})
    study.optimize(search.score, n_trials=5)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 4 + ["PRUNED"]
    assert study.trials[4].user_attrs["scores"] == [0.1]


def test_bins_of_continuous_values_are_no_other_trial():
    search, seen = make_search()
    study = open_study("s", "", first_trials=[], n_trials=3, seed=0)
    for values, n_bins in [("continuous", 7), ("continuous", 28), ("bins", 28)]:
        study.enqueue_trial(search.first_trial | {"values": values, "n_bins": n_bins})
    study.optimize(search.score, n_trials=3)
    assert len(seen) == 2
    assert study.trials[0].value == study.trials[1].value


def test_a_fixed_shape_is_not_searched():
    search, seen = make_search(is_shape_fixed=True)
    search.run("s", "", n_trials=4)
    for options in seen:
        assert {name: getattr(options, name) for name in SHAPE} == {
            name: getattr(OPTIONS, name) for name in SHAPE
        }
    assert len({options.learning_rate for options in seen}) > 1


def test_other_fixed_options_are_another_study():
    hashes = [
        make_search(options=OPTIONS.model_copy(update=change))[0].space_hash
        for change in ({}, {"max_epochs": 3}, {"network_genes": 7}, {"n_bins": 5})
    ]
    assert len(set(hashes)) == 4
    assert make_search()[0].space_hash == hashes[0]


def test_real_trainings_are_scored_by_validation_cells(tmp_path):
    def train(options, on_epoch):
        shape = NetworkConfig.from_options(options, n_genes=40, n_classes=3)
        plan = TrainingConfig.from_options(options, seed=0, device="cpu")
        return fit(network=shape, on_epoch=on_epoch, **{**vars(plan), "batch_size": 16})[1]

    search = NetworkSearch(OPTIONS, train, seed=0)
    storage = f"sqlite:///{tmp_path / 'optuna.db'}"
    result = search.run("s", storage, n_trials=2)
    assert [len(record.scores) for record in result.trials] == [2, 2]
    assert result.best.value == max(max(record.scores) for record in result.trials)
    again = search.run("s", storage, n_trials=2)
    assert again.trials == result.trials
    assert isinstance(result.study, optuna.Study)
