"""What a search may choose from."""

from collections.abc import Callable

from optuna.distributions import distribution_to_json
from optuna.trial import FixedTrial

from annotary.data.hashing import hash_strings
from annotary.models.baselines import Params


def hash_space(suggest: Callable[[FixedTrial], object], params: Params, *fixed: str) -> str:
    """Hash a search space, and what is the same in all its trials: others are of another study.

    Parameters
    ----------
    suggest
        Draws the hyperparameters.
    params
        Some that lie in the space.
    fixed
        What else decides the scores of trials.
    """
    trial = FixedTrial(params)
    suggest(trial)
    spaces = [f"{name} {distribution_to_json(one)}" for name, one in trial.distributions.items()]
    return hash_strings([*sorted(spaces), *fixed])
