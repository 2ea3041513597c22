"""The transformer as an annotator: prepared cells in, class probabilities out.

Loading imports torch, einops and safetensors; Lightning is for training alone.
"""

from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from annotary.models.base import Annotator
from annotary.models.transformer.config import NetworkConfig
from annotary.models.transformer.device import choose_device
from annotary.models.transformer.network import GeneTransformer
from annotary.models.transformer.tokens import TokenizedCells, pad_batch, tokenize_for
from annotary.quality.prepare import PreparedCells

_WEIGHTS = "weights.safetensors"
_NETWORK = "network.json"

# Tokens of a batch with its padding. Small batches stay in a processor's cache; a GPU needs large ones.
_TOKEN_BUDGET = {"cpu": 8_192, "cuda": 262_144}


class TransformerAnnotator(Annotator):
    """A trained network.

    Parameters
    ----------
    network
        The network, as :func:`annotary.models.transformer.training.fit_transformer` returns it.
    """

    kind: ClassVar[str] = "transformer"

    def __init__(self, network: GeneTransformer) -> None:
        self.network = network

    def predict_proba(self, cells: PreparedCells, *, device: str = "auto") -> np.ndarray:
        """Predict class probabilities.

        Computed in float32 on every device: with bfloat16 a cell's result would
        change with its batch mates. Batches hold cells of like length. Where
        CUDA runs out of memory the batch is halved, as are those after it.

        Parameters
        ----------
        cells
            Panel counts ``(n_cells, n_genes)``.
        device
            ``auto``, ``cpu`` or ``cuda``; the network stays there.

        Returns
        -------
        Probabilities, ``(n_cells, n_classes)``, float32.

        Raises
        ------
        GeneOverlapError
            If the counts have another number of genes than the network.
        ConfigError
            If CUDA is asked for and not there.
        """
        target = choose_device(device)
        tokens = tokenize_for(self.network.config, cells.counts)
        self.network.to(target).eval()
        probabilities = np.empty((len(tokens), self.network.config.n_classes), dtype=np.float32)
        # Longest first: if memory runs out, it does at the first batch.
        order = np.argsort(-tokens.lengths, kind="stable")
        budget = _TOKEN_BUDGET[target.type]
        done = 0
        while done < len(order):
            longest = tokens.lengths[order[done]]
            rows = order[done : done + max(1, budget // longest)]
            try:
                probabilities[rows] = self._predict_batch(tokens, rows, target)
            except torch.cuda.OutOfMemoryError:
                if len(rows) == 1:
                    raise
                budget = len(rows) * longest // 2
            else:
                done += len(rows)
        return probabilities

    def _predict_batch(self, tokens: TokenizedCells, rows: np.ndarray, device: torch.device) -> np.ndarray:
        """Predict the cells of one batch, ``(B, n_classes)``."""
        batch = (torch.from_numpy(array).to(device) for array in pad_batch(tokens, rows))
        with torch.inference_mode():
            logits = self.network(*batch)
            return logits.float().softmax(dim=-1).cpu().numpy()

    def save(self, folder: Path) -> None:
        """Write ``weights.safetensors`` and ``network.json`` into a folder."""
        weights = {name: weight.cpu().contiguous() for name, weight in self.network.state_dict().items()}
        save_file(weights, folder / _WEIGHTS)
        (folder / _NETWORK).write_text(self.network.config.to_json())

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what :meth:`save` wrote; the random generators are left as they are."""
        config = NetworkConfig.from_json((folder / _NETWORK).read_text())
        with torch.device("meta"):
            network = GeneTransformer(config)
        network.load_state_dict(load_file(folder / _WEIGHTS), assign=True)
        return cls(network)
