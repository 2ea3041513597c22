"""A pretrained network in its registered form, and what another network takes over of it.

A folder holds ``pretrained.json`` (format, shape, gene ids, where it comes from, SHA-256 of the weights)
and ``pretrained.safetensors``. Nothing in it is a pickle.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from annotary.data.damage import READERS_RAISE
from annotary.data.hashing import hash_file
from annotary.errors import BundleError, ConfigError, GeneOverlapError, summarize
from annotary.models.transformer.config import NetworkConfig
from annotary.models.transformer.network import GeneTransformer

Weights = dict[str, Tensor]
"""Weights of a network by their names."""

_FORMAT = 1
_MANIFEST = "pretrained.json"
_WEIGHTS = "pretrained.safetensors"
_GENES = "embedding.gene.weight"
_SAME = ("d_model", "n_layers", "n_heads", "norm", "pooling", "values", "tokens", "target_sum")
_OPTION_NAMES = {"target_sum": "value_target_sum"}


@dataclass(frozen=True)
class PretrainedNetwork:
    """A network that was trained without labels.

    Attributes
    ----------
    config
        Its shape.
    gene_ids
        Genes in the order of its vectors, ``(n_genes,)``.
    weights
        Its weights by name, without those of a head.
    origin
        What it was made from, by name.
    """

    config: NetworkConfig
    gene_ids: tuple[str, ...]
    weights: Weights
    origin: dict[str, str]

    @classmethod
    def take(cls, network: GeneTransformer, gene_ids: pd.Index, origin: dict[str, str]) -> Self:
        """Take a network's weights but for its head's."""
        weights = {
            name: weight.detach().cpu().contiguous()
            for name, weight in network.state_dict().items()
            if not name.startswith(("head.", "linear_path."))
        }
        return cls(network.config, tuple(gene_ids), weights, origin)

    def save(self, folder: Path) -> Path:
        """Write into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self.weights, folder / _WEIGHTS)
        manifest = {
            "format": _FORMAT,
            "network": asdict(self.config),
            "gene_ids": list(self.gene_ids),
            "origin": self.origin,
            "sha256": hash_file(folder / _WEIGHTS),
        }
        (folder / _MANIFEST).write_text(json.dumps(manifest, indent=1))
        # safetensors lets nobody but the owner read its file; a shared artifact store has other readers.
        (folder / _WEIGHTS).chmod((folder / _MANIFEST).stat().st_mode)
        return folder

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what :meth:`save` wrote.

        Raises
        ------
        BundleError
            If it is something else, or was altered.
        """
        try:
            manifest = json.loads((folder / _MANIFEST).read_text())
            found, expected = hash_file(folder / _WEIGHTS), manifest["sha256"]
            if manifest["format"] != _FORMAT:
                raise ValueError(f"format {manifest['format']}")
            if found != expected:
                raise ValueError(f"weights of SHA-256 {found[:12]}, not {expected[:12]}")
            return cls(
                config=NetworkConfig.from_json(json.dumps(manifest["network"])),
                gene_ids=tuple(manifest["gene_ids"]),
                weights=load_file(folder / _WEIGHTS),
                origin=manifest["origin"],
            )
        except READERS_RAISE as error:
            raise BundleError(
                folder,
                expected=f"to be a pretrained network with {_MANIFEST}, as it was written",
                found=summarize(error),
                remedy="Name a version, run or folder that annotary pretrain wrote with --init-from.",
            ) from error

    def carry_over(self, network: NetworkConfig, gene_ids: pd.Index, *, seed: int) -> tuple[Weights, int]:
        """Give the weights that a network of other genes begins with.

        A gene's vector goes by its id; those of genes that the pretrained network does not know are drawn,
        and genes that do not attend have none. All
        other weights are taken as they are; those of the head and of the linear path are not among them.

        Parameters
        ----------
        network
            Shape of the other network.
        gene_ids
            Its genes, ``(n_genes,)``.
        seed
            Seed of the vectors that are drawn.

        Returns
        -------
        First weights by their names, and the number of genes that were known.

        Raises
        ------
        ConfigError
            If the shapes do not go together.
        GeneOverlapError
            If no gene is known.
        """
        self._check_shape(network)
        gene_ids = gene_ids[: network.n_attended]
        places = pd.Index(self.gene_ids).get_indexer(gene_ids)
        known = torch.from_numpy(places >= 0)
        if not known.any():
            raise GeneOverlapError(
                "--init-from",
                expected=f"some of the {len(gene_ids)} genes of the network, such as {gene_ids[0]!r}",
                found=f"{len(self.gene_ids)} others, such as {self.gene_ids[0]!r}",
                remedy="Pretrain on counts with the same kind of gene ids.",
            )
        own = self.weights[_GENES]
        rng = torch.Generator().manual_seed(seed)
        vectors = torch.randn(len(gene_ids), network.d_model, generator=rng)
        vectors[known] = own[torch.from_numpy(places)[known]]
        rest = own[len(self.gene_ids) :]  # "no gene expressed"
        return self.weights | {_GENES: torch.cat([vectors, rest])}, int(known.sum())

    def _check_shape(self, network: NetworkConfig) -> None:
        """Refuse a network whose tokens or blocks are of another shape."""
        names = _SAME if network.values == "continuous" else (*_SAME, "n_bins")  # noqa: PD011
        wrong = [name for name in names if getattr(network, name) != getattr(self.config, name)]
        if wrong:
            options = [f"--{_OPTION_NAMES.get(name, name).replace('_', '-')}" for name in wrong]
            wanted = [str(getattr(self.config, name)) for name in wrong]
            raise ConfigError(
                "--init-from",
                expected="a network of the shape that is asked for: "
                + ", ".join(f"{name} {getattr(network, name)}" for name in wrong),
                found=", ".join(f"{name} {value}" for name, value in zip(wrong, wanted, strict=True)),
                remedy="Pass "
                + " ".join(f"{option} {value}" for option, value in zip(options, wanted, strict=True))
                + ".",
            )
