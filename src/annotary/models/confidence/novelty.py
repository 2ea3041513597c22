"""Cells of a kind that a model was not fitted to: they lie apart from the known ones, or look like several.

Two signs are added up. The first is the Mahalanobis distance from the nearest label (Lee et al. 2018,
*NeurIPS*): log-normalised cells are projected onto the main components of the fitted ones, where each
label is a Gaussian and all have the same covariance. It finds a cell type that is far from all others,
however sure the model is of it. The second is the entropy of the model's probabilities. It finds a type
that lies among others. Each becomes the share of known cells in which the sign is as strong or stronger;
the score is the sum of minus their logarithms (Fisher's method), in units of the sum that ``ood_rate`` of
known cells exceed. ``benchmarks/confidence.py`` measures it beside each sign alone and beside others.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from scipy.sparse import csr_matrix
from scipy.special import entr

from annotary.models.confidence.held_out import FittedCells, HeldOutCells

N_COMPONENTS = 20
MOST_CELLS = 20_000
"""Cells that a distribution is learned from; of more, every n-th is taken."""

_RIDGE = 1e-3
# How strong a sign is: minus the logarithm of the share of known cells in which it is as strong or stronger.
_STRENGTHS = np.linspace(0.0, np.log(100), 47)
_TAIL_FROM = 24  # where that share is a tenth
_STRONGEST = 100.0
_PREFIX = "novelty_"


@dataclass(frozen=True)
class LabelGaussians:
    """One Gaussian for each label, with a shared covariance.

    Attributes
    ----------
    projection
        Makes Euclidean distances of log-normalised cells Mahalanobis distances,
        ``(n_panel, n_components)``, float32.
    centers
        Mean of each label that has cells, projected, ``(at most n_classes, n_components)``, float64.
    """

    projection: np.ndarray
    centers: np.ndarray

    @classmethod
    def fit(cls, log_expr: csr_matrix, codes: np.ndarray) -> Self:
        """Fit to log-normalised cells ``(n_cells, n_panel)`` with labels ``(n_cells,)``."""
        from sklearn.utils.extmath import randomized_svd

        step = max(1, -(-len(codes) // MOST_CELLS))
        log_expr, codes = log_expr[::step], codes[::step]
        n_components = min(N_COMPONENTS, *log_expr.shape)
        _, _, components = randomized_svd(log_expr, n_components, random_state=0)
        projected = np.asarray(log_expr @ components.T, dtype=np.float64)
        labels, members = np.unique(codes, return_inverse=True)
        sums = np.zeros((len(labels), n_components))
        np.add.at(sums, members, projected)
        centers = sums / np.bincount(members)[:, None]
        spread = projected - centers[members]
        variances, axes = np.linalg.eigh(spread.T @ spread / len(codes))
        floor = _RIDGE * max(float(variances[-1]), float(np.finfo(np.float32).tiny))
        whiten = axes / np.sqrt(np.maximum(variances, floor))
        return cls(projection=(components.T @ whiten).astype(np.float32), centers=centers @ whiten)

    def measure_distance(self, log_expr: csr_matrix) -> np.ndarray:
        """Measure the distance from the nearest center, ``(n_cells,)``, float64."""
        projected = np.asarray(log_expr @ self.projection, dtype=np.float64)
        nearest = np.full(len(projected), np.inf)
        for center in self.centers:
            np.minimum(nearest, np.square(projected - center).sum(axis=1), out=nearest)
        return np.sqrt(nearest)


@dataclass(frozen=True)
class NoveltyDetector:
    """What known cells look like, and how strange the strangest of them are.

    Attributes
    ----------
    gaussians
        Where the fitted cells lie.
    distance_quantiles, entropy_quantiles
        Distance and entropy of known cells at each of the strengths, ascending, ``(n_strengths,)``.
    threshold
        Strength of both signs together that known cells exceed with the asked-for rate.
    """

    gaussians: LabelGaussians
    distance_quantiles: np.ndarray
    entropy_quantiles: np.ndarray
    threshold: float

    @classmethod
    def fit(cls, fitted: FittedCells, held_out: HeldOutCells, *, rate: float) -> Self:
        """Learn where fitted cells lie, and how strange known cells are that were not fitted to.

        Parameters
        ----------
        fitted
            Cells that the model was fitted to.
        held_out
            Known cells that the model, and what their distance is measured from, have not seen.
        rate
            Share of known cells that may be beyond the threshold, 0 to 1.
        """
        entropy = compute_entropy(held_out.probabilities)
        distance_quantiles, entropy_quantiles = _find_quantiles(held_out.distances), _find_quantiles(entropy)
        together = _weigh(held_out.distances, distance_quantiles) + _weigh(entropy, entropy_quantiles)
        return cls(
            gaussians=LabelGaussians.fit(fitted.log_expr, fitted.codes),
            distance_quantiles=distance_quantiles,
            entropy_quantiles=entropy_quantiles,
            threshold=max(float(np.quantile(together, 1 - rate, method="higher")), 1e-6),
        )

    def score(self, log_expr: csr_matrix, probabilities: np.ndarray) -> np.ndarray:
        """Score cells, ``(n_cells,)``, float32: the larger, the stranger; above 1 is beyond the threshold.

        Parameters
        ----------
        log_expr
            What :func:`annotary.quality.prepare.log_normalize` gives, ``(n_cells, n_panel)``.
        probabilities
            Calibrated probabilities of the same cells, ``(n_cells, n_classes)``.
        """
        by_distance = _weigh(self.gaussians.measure_distance(log_expr), self.distance_quantiles)
        by_entropy = _weigh(compute_entropy(probabilities), self.entropy_quantiles)
        return ((by_distance + by_entropy) / self.threshold).astype(np.float32)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Give what is saved."""
        arrays = {
            "projection": self.gaussians.projection,
            "centers": self.gaussians.centers,
            "distance_quantiles": self.distance_quantiles,
            "entropy_quantiles": self.entropy_quantiles,
            "threshold": np.array([self.threshold]),
        }
        return {f"{_PREFIX}{name}": np.ascontiguousarray(array) for name, array in arrays.items()}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> Self:
        """Take what :meth:`to_arrays` gave."""
        return cls(
            gaussians=LabelGaussians(arrays[f"{_PREFIX}projection"], arrays[f"{_PREFIX}centers"]),
            distance_quantiles=arrays[f"{_PREFIX}distance_quantiles"],
            entropy_quantiles=arrays[f"{_PREFIX}entropy_quantiles"],
            threshold=float(arrays[f"{_PREFIX}threshold"][0]),
        )


def compute_entropy(probabilities: np.ndarray) -> np.ndarray:
    """Compute the entropy of each cell's probabilities, ``(n_cells,)``, float64."""
    entropy: np.ndarray = entr(probabilities.astype(np.float64)).sum(axis=1)
    return entropy


def measure_across_folds(log_expr: csr_matrix, codes: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Measure how far each cell is from the cells of the other folds.

    Parameters
    ----------
    log_expr
        Log-normalised cells, ``(n_cells, n_panel)``.
    codes, folds
        Label and fold of each cell, ``(n_cells,)``; at least two folds.

    Returns
    -------
    Distance from the nearest label, ``(n_cells,)``.
    """
    distances = np.empty(len(codes))
    for fold in np.unique(folds):
        held_out = folds == fold
        others = np.flatnonzero(~held_out)
        others = others[:: max(1, -(-len(others) // MOST_CELLS))]
        gaussians = LabelGaussians.fit(log_expr[others], codes[others])
        distances[held_out] = gaussians.measure_distance(log_expr)[held_out]
    return distances


def _find_quantiles(sign: np.ndarray) -> np.ndarray:
    """Find how large a sign of known cells is at each strength, ascending, ``(n_strengths,)``."""
    values = np.quantile(sign, 1 - np.exp(-_STRENGTHS))
    # Where cells are alike the quantiles are, and the strength would be no function of the sign.
    least_step = 1e-9 * max(float(np.abs(values).max()), 1.0)
    return np.maximum.accumulate(values) + least_step * np.arange(len(values))


def _weigh(sign: np.ndarray, quantiles: np.ndarray) -> np.ndarray:
    """Weigh a sign by its strength in known cells, ``(n_cells,)``; beyond them as their tail goes on."""
    tail = quantiles[-1] - quantiles[_TAIL_FROM]
    beyond = np.maximum(sign - quantiles[-1], 0) / tail * (_STRENGTHS[-1] - _STRENGTHS[_TAIL_FROM])
    weighed: np.ndarray = np.minimum(np.interp(sign, quantiles, _STRENGTHS) + beyond, _STRONGEST)
    return weighed
