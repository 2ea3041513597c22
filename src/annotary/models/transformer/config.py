"""Shape and training of the network, as frozen values."""

import json
from dataclasses import asdict, dataclass
from typing import Literal, Self

from annotary.errors import ConfigError

TokenMode = Literal["expressed", "all"]

# Bins 0 to n_bins + 1 are stored as uint8.
MAX_BINS = 254


@dataclass(frozen=True)
class NetworkConfig:
    """What decides the shape of the network and of its input.

    Attributes
    ----------
    n_genes
        Genes of the panel.
    n_classes
        Classes, one logit each.
    n_bins
        Equal intervals between a cell's smallest and largest non-zero count.
    d_model
        Width of the network.
    n_layers
        Attention blocks.
    n_heads
        Attention heads; they share ``d_model``.
    dropout
        Share of activations dropped in training, 0 to 1.
    attention_dropout
        Share of attention weights dropped in training, 0 to 1. On a CPU any above 0 makes a
        training step 2.6 times as long (250 tokens a cell), since torch then draws a random
        number for each pair of tokens.
    tokens
        ``expressed`` gives a cell one token for each expressed panel gene,
        ``all`` one for every panel gene.

    Raises
    ------
    ConfigError
        If the heads do not divide the width, or another value cannot be used.
    """

    n_genes: int
    n_classes: int
    n_bins: int = 14
    d_model: int = 64
    n_layers: int = 2
    n_heads: int = 4
    dropout: float = 0.2
    attention_dropout: float = 0.0
    tokens: TokenMode = "expressed"

    def __post_init__(self) -> None:
        if self.n_heads < 1 or self.d_model % self.n_heads:
            raise ConfigError(
                "--d-model",
                expected=f"a multiple of the {self.n_heads} attention heads",
                found=str(self.d_model),
                remedy="Change --d-model or --n-heads.",
            )
        if not 1 <= self.n_bins <= MAX_BINS:
            raise ConfigError(
                "--n-bins",
                expected=f"1 to {MAX_BINS} expression bins",
                found=str(self.n_bins),
                remedy="Change --n-bins.",
            )
        if self.tokens not in ("expressed", "all"):
            raise ConfigError(
                "--tokens",
                expected="expressed or all",
                found=repr(self.tokens),
                remedy="Choose one of the two.",
            )

    def to_json(self) -> str:
        """Write as JSON."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what :meth:`to_json` wrote."""
        return cls(**json.loads(text))


@dataclass(frozen=True)
class TrainingConfig:
    """How the network is trained.

    Attributes
    ----------
    learning_rate
        Adam's learning rate.
    batch_size
        Cells in a training batch.
    max_epochs
        Most epochs.
    patience
        Epochs without a better validation macro-F1 before training ends.
    seed
        Seed of the first weights, dropout, and the order of the batches.
    device
        ``auto``, ``cpu`` or ``cuda``.
    """

    learning_rate: float
    batch_size: int
    max_epochs: int
    patience: int
    seed: int
    device: str
