"""Cells that are unlike all that a model was fitted to: their distance from the nearest label's cells.

Log-normalised cells are projected onto the main components of the fitted ones. Each label is a Gaussian
there, all with the same covariance; the score is the Mahalanobis distance from the nearest (Lee et al.
2018, *NeurIPS*), in units of the distance that ``ood_rate`` of known cells exceed. It needs nothing of
the model, so it is the same for every kind. ``benchmarks/confidence.py`` measures it beside others.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from scipy.sparse import csr_matrix

from annotary.models.confidence.held_out import FittedCells

N_COMPONENTS = 30
MOST_CELLS = 20_000
"""Cells that the distribution is learned from; of more, every n-th is taken."""

_RIDGE = 1e-3
_PROJECTION = "novelty_projection"
_CENTERS = "novelty_centers"
_THRESHOLD = "novelty_threshold"


@dataclass(frozen=True)
class NoveltyDetector:
    """Where the fitted cells lie.

    Attributes
    ----------
    projection
        Makes Euclidean distances of log-normalised cells Mahalanobis distances,
        ``(n_panel, n_components)``, float32.
    centers
        Mean of each label that has cells, projected, ``(at most n_classes, n_components)``, float64.
    threshold
        Distance that a cell of the fitted kind exceeds with the asked-for rate.
    """

    projection: np.ndarray
    centers: np.ndarray
    threshold: float

    @classmethod
    def fit(cls, cells: FittedCells, *, rate: float) -> Self:
        """Learn where cells lie, and how far those that were left out of it are.

        Parameters
        ----------
        cells
            Cells that the model was fitted to.
        rate
            Share of cells of the same kind that may be beyond the threshold, 0 to 1.
        """
        step = -(-len(cells.codes) // MOST_CELLS)
        log_expr, codes, folds = cells.log_expr[::step], cells.codes[::step], cells.folds[::step]
        distances = []
        for fold in np.unique(folds):
            held_out = folds == fold
            fitted = ~held_out if not held_out.all() else held_out
            found = _fit_gaussians(log_expr[fitted], codes[fitted])
            distances.append(_measure_distance(log_expr[held_out], *found))
        threshold = float(np.quantile(np.concatenate(distances), 1 - rate, method="higher"))
        projection, centers = _fit_gaussians(log_expr, codes)
        return cls(projection=projection, centers=centers, threshold=max(threshold, 1e-9))

    def score(self, log_expr: csr_matrix) -> np.ndarray:
        """Score cells, ``(n_cells,)``, float32: the larger, the stranger; above 1 is beyond the threshold.

        Parameters
        ----------
        log_expr
            What :func:`annotary.quality.prepare.log_normalize` gives, ``(n_cells, n_panel)``.
        """
        distance = _measure_distance(log_expr, self.projection, self.centers)
        return (distance / self.threshold).astype(np.float32)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Give what is saved."""
        return {
            _PROJECTION: np.ascontiguousarray(self.projection),
            _CENTERS: np.ascontiguousarray(self.centers),
            _THRESHOLD: np.array([self.threshold]),
        }

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> Self:
        """Take what :meth:`to_arrays` gave."""
        return cls(
            projection=arrays[_PROJECTION],
            centers=arrays[_CENTERS],
            threshold=float(arrays[_THRESHOLD][0]),
        )


def _fit_gaussians(log_expr: csr_matrix, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fit one Gaussian a label with a shared covariance.

    Returns
    -------
    Projection ``(n_panel, n_components)`` and centers ``(n_labels, n_components)`` in which the
    covariance is the identity.
    """
    from sklearn.utils.extmath import randomized_svd

    n_components = min(N_COMPONENTS, *log_expr.shape)
    _, _, components = randomized_svd(log_expr, n_components, random_state=0)
    projected = np.asarray(log_expr @ components.T, dtype=np.float64)
    labels, members = np.unique(codes, return_inverse=True)
    sums = np.zeros((len(labels), n_components))
    np.add.at(sums, members, projected)
    centers = sums / np.bincount(members)[:, None]
    spread = projected - centers[members]
    covariance = spread.T @ spread / len(codes)
    variances, axes = np.linalg.eigh(covariance)
    floor = _RIDGE * max(float(variances[-1]), np.finfo(np.float32).tiny)
    whiten = axes / np.sqrt(np.maximum(variances, floor))
    return (components.T @ whiten).astype(np.float32), centers @ whiten


def _measure_distance(log_expr: csr_matrix, projection: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """Measure the distance from the nearest center, ``(n_cells,)``, float64."""
    projected = np.asarray(log_expr @ projection, dtype=np.float64)
    nearest = np.full(len(projected), np.inf)
    for center in centers:
        np.minimum(nearest, np.square(projected - center).sum(axis=1), out=nearest)
    return np.sqrt(nearest)
