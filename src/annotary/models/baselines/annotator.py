"""What the baselines share: log-normalised cells in, calibrated probabilities out, arrays on the disk."""

from abc import abstractmethod
from pathlib import Path
from typing import Self

import numpy as np
from safetensors.numpy import load_file, save_file
from scipy.sparse import csr_matrix

from annotary.models.base import Annotator
from annotary.models.calibration import apply_temperature
from annotary.quality.prepare import PreparedCells, log_normalize

WEIGHTS_NAME = "weights.safetensors"

_TARGET_SUM = "target_sum"
_TEMPERATURE = "temperature"


class BaselineAnnotator(Annotator):
    """A model of log-normalised expression.

    Attributes
    ----------
    target_sum
        Counts that each cell is scaled to before log1p.
    temperature
        What scores are divided by before the softmax; 1 where it was not calibrated.
    """

    target_sum: float
    temperature: float

    def predict_proba(self, cells: PreparedCells, *, device: str = "auto") -> np.ndarray:  # noqa: D102
        log_expr = log_normalize(cells, target_sum=self.target_sum)
        return apply_temperature(self.score(log_expr), self.temperature).astype(np.float32)

    @abstractmethod
    def score(self, log_expr: csr_matrix) -> np.ndarray:
        """Score each class; the highest is predicted, and a softmax makes probabilities of them.

        Parameters
        ----------
        log_expr
            What :func:`log_normalize` gives, ``(n_cells, n_panel)``, float32.

        Returns
        -------
        Scores, ``(n_cells, n_classes)``, float64; ``-inf`` for a class that no fitted cell had.
        """

    @abstractmethod
    def weigh_genes(self) -> np.ndarray:
        """Weigh each gene for each class: above 0 where expression speaks for the class.

        Returns
        -------
        Weights, ``(n_panel, n_classes)``, float64.
        """

    def save(self, folder: Path) -> None:  # noqa: D102
        scalars = {
            _TARGET_SUM: np.array([self.target_sum]),
            _TEMPERATURE: np.array([self.temperature]),
        }
        arrays = self._get_arrays() | scalars
        # safetensors writes the memory as it lies, whatever the strides say.
        contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        save_file(contiguous, folder / WEIGHTS_NAME)

    @classmethod
    def load(cls, folder: Path) -> Self:  # noqa: D102
        arrays = load_file(folder / WEIGHTS_NAME)
        target_sum, temperature = (float(arrays.pop(name)[0]) for name in (_TARGET_SUM, _TEMPERATURE))
        return cls._from_arrays(arrays, target_sum=target_sum, temperature=temperature)

    @abstractmethod
    def _get_arrays(self) -> dict[str, np.ndarray]:
        """Give the arrays to save."""

    @classmethod
    @abstractmethod
    def _from_arrays(cls, arrays: dict[str, np.ndarray], *, target_sum: float, temperature: float) -> Self:
        """Take the arrays that were saved."""
