"""What every model is: prepared cells in, class probabilities out, saved without pickle."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar, Self

import numpy as np

from annotary.quality.prepare import PreparedCells


class Annotator(ABC):
    """A trained model.

    Every subclass keeps what ``tests/models/conformance.py`` checks:
    probabilities do not depend on batch mates, on the order of cells, or on
    the chunk size; a saved model predicts the same when loaded.

    Attributes
    ----------
    kind
        Name of the model family, stored in the bundle.
    """

    kind: ClassVar[str]

    @abstractmethod
    def predict_proba(self, cells: PreparedCells, *, device: str = "auto") -> np.ndarray:
        """Predict class probabilities.

        Parameters
        ----------
        cells
            Panel counts ``(n_cells, n_panel)`` and depth ``(n_cells,)``.
        device
            ``auto``, ``cpu`` or ``cuda``; models without a network ignore it.

        Returns
        -------
        Probabilities, ``(n_cells, n_classes)``, float32; rows add up to 1.
        """

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write weights and shape into a folder: safetensors and JSON only."""

    @classmethod
    @abstractmethod
    def load(cls, folder: Path) -> Self:
        """Read what :meth:`save` wrote."""
