"""The transformer as an annotator: prepared cells in, class probabilities out.

Loading imports torch, einops and safetensors; Lightning is for training alone.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from scipy.special import softmax

from annotary.models.base import Annotator
from annotary.models.transformer.config import NetworkConfig
from annotary.models.transformer.device import choose_device
from annotary.models.transformer.inference import predict_logits
from annotary.models.transformer.network import GeneTransformer
from annotary.models.transformer.tokens import tokenize
from annotary.quality.prepare import PreparedCells

_NETWORK = "network.json"


class TransformerAnnotator(Annotator):
    """Trained networks of one shape, whose probabilities are averaged.

    Parameters
    ----------
    networks
        Networks, as :func:`annotary.models.transformer.training.fit_transformer` returns them; trained from
        different seeds they err on different cells.
    """

    kind: ClassVar[str] = "transformer"

    def __init__(self, networks: Sequence[GeneTransformer]) -> None:
        self.networks = tuple(networks)

    @property
    def config(self) -> NetworkConfig:
        """Shape of the networks."""
        return self.networks[0].config

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
            ``auto``, ``cpu``, ``cuda`` or ``mps``; the networks stay there.

        Returns
        -------
        Probabilities, ``(n_cells, n_classes)``, float32.

        Raises
        ------
        GeneOverlapError
            If the counts have another number of genes than the networks.
        ConfigError
            If the device is not there.
        """
        target = choose_device(device)
        tokens = tokenize(self.config, cells)
        total = np.zeros((len(tokens), self.config.n_classes))
        for network in self.networks:
            logits = predict_logits(network.to(target).eval(), tokens, target)
            total += softmax(logits.astype(np.float64), axis=1)
        return (total / len(self.networks)).astype(np.float32)

    def save(self, folder: Path) -> None:
        """Write ``network.json``, and ``network_K.safetensors`` for each network, into a folder."""
        (folder / _NETWORK).write_text(self.config.to_json())
        for number, network in enumerate(self.networks):
            weights = {name: weight.cpu().contiguous() for name, weight in network.state_dict().items()}
            save_file(weights, folder / f"network_{number}.safetensors")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what :meth:`save` wrote; the random generators are left as they are."""
        config = NetworkConfig.from_json((folder / _NETWORK).read_text())
        networks = []
        for number in range(len(list(folder.glob("network_*.safetensors")))):
            with torch.device("meta"):
                network = GeneTransformer(config)
            network.load_state_dict(load_file(folder / f"network_{number}.safetensors"), assign=True)
            networks.append(network)
        return cls(networks)
