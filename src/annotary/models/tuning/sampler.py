"""TPE that draws the same for a trial's number, whichever process runs it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

N_STARTUP_TRIALS = 5
"""Trials before TPE learns from them: by default ten, more than a short study has."""


class NumberedSampler(BaseSampler):
    """TPE with a random stream of its own for each trial, from the seed and the trial's number.

    One stream for a process would repeat its draws in every process of a study,
    and in a run that goes on with an earlier study.

    Parameters
    ----------
    seed
        Seed of the search.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._number = -1
        self._sampler = self._make(0)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:  # noqa: D102
        return self._of(trial).infer_relative_search_space(study, trial)

    def sample_relative(  # noqa: D102
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._of(trial).sample_relative(study, trial, search_space)

    def sample_independent(  # noqa: D102
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._of(trial).sample_independent(study, trial, param_name, param_distribution)

    def after_trial(  # noqa: D102
        self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        self._of(trial).after_trial(study, trial, state, values)

    def _of(self, trial: FrozenTrial) -> TPESampler:
        """Give the trial its stream."""
        if trial.number != self._number:
            self._number, self._sampler = trial.number, self._make(trial.number)
        return self._sampler

    def _make(self, number: int) -> TPESampler:
        stream = np.random.SeedSequence([self._seed, number])
        return TPESampler(seed=int(stream.generate_state(1)[0]), n_startup_trials=N_STARTUP_TRIALS)
