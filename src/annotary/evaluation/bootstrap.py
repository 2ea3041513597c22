"""The stratified bootstrap: how far figures on the test cells could be off by chance.

Cells are drawn again within each true label, so every draw has the label sizes
of the test cells. All models are drawn on the same cells (paired). A cell counts
only by its true label and what each model called it, so drawing the cells of a
label is drawing how often each combination of calls occurs: a multinomial.
"""

from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95
_TAIL_PERCENT = 100 * (1 - CONFIDENCE) / 2


@dataclass(frozen=True)
class Resampled:
    """What the draws hold of each label, for each model.

    Attributes
    ----------
    support
        Cells of each true label, the same in every draw, ``(n_classes,)``.
    hits
        Cells called by their true label, ``(n_models, n_draws, n_classes)``.
    called
        Cells called by each label, ``(n_models, n_draws, n_classes)``.
    counts_in_macro
        Labels that are true, or called by the model, in some cell, ``(n_models, n_classes)``.
    """

    support: np.ndarray
    hits: np.ndarray
    called: np.ndarray
    counts_in_macro: np.ndarray

    @property
    def f1(self) -> np.ndarray:
        """F1 of each label, ``(n_models, n_draws, n_classes)``; 0 where it is neither true nor called."""
        return 2 * self.hits / np.maximum(self.support + self.called, 1)

    @property
    def macro_f1(self) -> np.ndarray:
        """Macro-F1 of each draw, ``(n_models, n_draws)``."""
        weights = self.counts_in_macro / self.counts_in_macro.sum(axis=1, keepdims=True)
        return np.einsum("mdk,mk->md", self.f1, weights)

    @property
    def accuracy(self) -> np.ndarray:
        """Accuracy of each draw, ``(n_models, n_draws)``."""
        return self.hits.sum(axis=2) / self.support.sum()

    @property
    def balanced_accuracy(self) -> np.ndarray:
        """Mean recall over the true labels of each draw, ``(n_models, n_draws)``."""
        true = self.support > 0
        return (self.hits[:, :, true] / self.support[true]).mean(axis=2)


def resample(
    codes: np.ndarray, calls: np.ndarray, *, n_classes: int, n_draws: int, rng: np.random.Generator
) -> Resampled:
    """Draw the test cells again, within each true label.

    Parameters
    ----------
    codes
        True labels, ``(n_cells,)``.
    calls
        What each model called the cells, ``(n_models, n_cells)``.
    n_classes
        Labels that ``codes`` and ``calls`` may hold.
    n_draws
        How often the cells are drawn.
    rng
        Source of chance.
    """
    n_models = len(calls)
    support = np.bincount(codes, minlength=n_classes)
    hits = np.zeros((n_models, n_draws, n_classes))
    called = np.zeros((n_models, n_draws, n_classes))
    for label in np.flatnonzero(support):
        combinations, sizes = np.unique(calls[:, codes == label], axis=1, return_counts=True)
        drawn = rng.multinomial(support[label], sizes / support[label], size=n_draws)
        for model, of_model in enumerate(combinations):
            by_call = drawn @ np.eye(n_classes)[of_model]
            called[model] += by_call
            hits[model, :, label] = by_call[:, label]
    seen = np.stack([(support + np.bincount(of_model, minlength=n_classes)) > 0 for of_model in calls])
    return Resampled(support=support, hits=hits, called=called, counts_in_macro=seen)


def find_interval(draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the percentile interval of the draws, ``(n_draws, ...)``, at :data:`CONFIDENCE`."""
    low, high = np.percentile(draws, [_TAIL_PERCENT, 100 - _TAIL_PERCENT], axis=0)
    return low, high


def compute_p(differences: np.ndarray) -> float:
    """Compute the two-sided p of no difference: how rarely the draws fall on the other side of zero.

    Parameters
    ----------
    differences
        Difference of two models in each draw, ``(n_draws,)``.
    """
    smaller = min((differences <= 0).sum(), (differences >= 0).sum())
    return float(min(1.0, 2 * (smaller + 1) / (len(differences) + 1)))
