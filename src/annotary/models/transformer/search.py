"""The search for a network: trials on training cells, scored by validation cells after each epoch."""

from collections.abc import Callable, Sequence

import optuna

from annotary.models.baselines import Params
from annotary.models.transformer.epochs import EpochMetrics, best_epoch
from annotary.models.tuning.records import TrialRecord
from annotary.models.tuning.space import hash_space
from annotary.models.tuning.study import open_study
from annotary.models.tuning.trials import TrialScores, TuningResult, do_trials, find_twin, repeat_trial
from annotary.network_options import NetworkOptions

Train = Callable[[NetworkOptions, Callable[[EpochMetrics], None]], list[EpochMetrics]]
"""Trains with some options, tells of each epoch as it ends, and returns the metrics of all."""

SHAPE = ("values", "n_bins", "d_model", "n_layers", "n_heads", "pooling")
"""Hyperparameters that weights from elsewhere fix."""

_VALUES = ("continuous", "bins")
_POOLINGS = ("mean", "cls")
_BINS = (7, 14, 28, 56)
_WIDTHS = (32, 64, 96, 128)
_HEADS = (1, 2, 4)
_LAYERS = (1, 2, 3)
_DROPOUTS = (0.0, 0.1, 0.3)
_LEFT_OUT = (0.0, 0.2, 0.4)
_RATES = (3e-4, 5e-3)
_UNPRUNED_SHARE = 0.25


class NetworkSearch:
    """Trials of a network on the same cells.

    Parameters
    ----------
    options
        What is tried first; what a search does not choose is the same in every trial.
    train
        Trains a network.
    seed
        Seed of the sampler.
    is_shape_fixed
        Whether the hyperparameters of ``SHAPE`` stay as they are.
    """

    def __init__(
        self, options: NetworkOptions, train: Train, *, seed: int, is_shape_fixed: bool = False
    ) -> None:
        self._options = options
        self._train = train
        self._seed = seed
        self._is_shape_fixed = is_shape_fixed

    @property
    def first_trial(self) -> Params:
        """The trial to begin with: the options as they are."""
        trial = optuna.trial.FixedTrial(self._options.model_dump())
        self.suggest(trial)
        return trial.params

    @property
    def space_hash(self) -> str:
        """Hash of the search space, and of the options that it does not choose."""
        first = self.first_trial
        fixed = self._options.model_dump_json(exclude={*first, "n_networks", "n_processes"})
        return hash_space(self.suggest, first, fixed)

    def suggest(self, trial: "optuna.Trial | optuna.trial.FixedTrial") -> Params:
        """Draw hyperparameters; each space holds the option's own value."""
        own = self._options
        rates = [*_RATES, own.learning_rate]
        return self._suggest_shape(trial) | {
            "dropout": trial.suggest_categorical("dropout", _join(_DROPOUTS, own.dropout)),
            "learning_rate": trial.suggest_float("learning_rate", min(rates), max(rates), log=True),
            "thinning": trial.suggest_categorical("thinning", _join(_LEFT_OUT, own.thinning)),
            "gene_dropout": trial.suggest_categorical("gene_dropout", _join(_LEFT_OUT, own.gene_dropout)),
        }

    def _suggest_shape(self, trial: "optuna.Trial | optuna.trial.FixedTrial") -> Params:
        """Draw the shape; any of the heads divides any of the widths."""
        if self._is_shape_fixed:
            return {}
        own = self._options
        heads = [n_heads for n_heads in _join(_HEADS, own.n_heads) if own.d_model % n_heads == 0]
        widths = [
            width for width in _join(_WIDTHS, own.d_model) if all(width % n_heads == 0 for n_heads in heads)
        ]
        return {
            "values": trial.suggest_categorical("values", _VALUES),
            "n_bins": trial.suggest_categorical("n_bins", _join(_BINS, own.n_bins)),
            "d_model": trial.suggest_categorical("d_model", widths),
            "n_layers": trial.suggest_categorical("n_layers", _join(_LAYERS, own.n_layers)),
            "n_heads": trial.suggest_categorical("n_heads", heads),
            "pooling": trial.suggest_categorical("pooling", _POOLINGS),
        }

    def run(
        self,
        name: str,
        storage: str,
        *,
        n_trials: int,
        timeout: float = 0,
        on_trial: Callable[[TrialRecord], None] = lambda record: None,
    ) -> TuningResult:
        """Search until the study has ``n_trials``, or the time is over.

        Parameters
        ----------
        name, storage
            As :func:`annotary.models.tuning.study.open_study` takes them.
        n_trials, timeout, on_trial
            As :func:`annotary.models.tuning.trials.do_trials` takes them.
        """
        study = open_study(
            name,
            storage,
            first_trials=[self.first_trial],
            n_trials=n_trials,
            seed=self._seed,
            n_unpruned_parts=int(_UNPRUNED_SHARE * self._options.max_epochs),
        )
        return do_trials(
            study, self.score, title="transformer", n_trials=n_trials, timeout=timeout, on_trial=on_trial
        )

    def score(self, trial: optuna.Trial) -> float:
        """Train a network, reporting the best macro-F1 so far after each epoch.

        Returns
        -------
        Macro-F1 of the validation cells after the epoch that is kept.

        Raises
        ------
        optuna.TrialPruned
            If the pruner gives it up, or another process runs the same trial.
        """
        params = self.suggest(trial)
        options = type(self._options).model_validate(self._options.model_dump() | params)
        earlier = find_twin(trial, _describe(options))
        if earlier is not None:
            return repeat_trial(trial, earlier)
        told, best = TrialScores(trial), 0.0

        def tell(epoch: EpochMetrics) -> None:
            nonlocal best
            best = max(best, epoch.validation_macro_f1)
            told.tell(epoch.validation_macro_f1, value=best)
            if epoch.epoch < options.max_epochs and trial.should_prune():
                raise optuna.TrialPruned

        return best_epoch(self._train(options, tell)).validation_macro_f1


def _describe(options: NetworkOptions) -> str:
    """Name what a trial does; of continuous values there are no bins."""
    return options.model_dump_json(exclude={"n_bins"} if options.values == "continuous" else None)


def _join(choices: Sequence[float], own: float) -> list[float]:
    """Add an option's own value to the choices, ascending."""
    return sorted({*choices, own})
