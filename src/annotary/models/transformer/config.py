"""Shape and training of the network, as frozen values."""

import json
from dataclasses import asdict, dataclass
from typing import Self, get_args

from annotary.errors import ConfigError
from annotary.network_options import (
    MAX_BINS,
    LossMode,
    NetworkOptions,
    NormMode,
    PoolingMode,
    TokenMode,
    ValueMode,
)
from annotary.options import DeviceOption, SeedOption


class _Options(SeedOption, DeviceOption, NetworkOptions):
    """What a person may say of a network."""


_OPTIONS = _Options.model_validate({})
"""Where the defaults come from: those of the command line."""


@dataclass(frozen=True)
class NetworkConfig:
    """What decides the shape of the network and of its input.

    Attributes
    ----------
    n_genes
        Genes of the panel.
    n_classes
        Classes, one logit each.
    tokens
        ``expressed`` gives a cell one token for each expressed panel gene,
        ``all`` one for every panel gene.
    max_tokens
        Most tokens of a cell; those with the largest counts are kept, of equal ones those first in the
        panel. 0 keeps all; only ``expressed`` tokens are cut.
    attention_genes
        Genes of the panel, the first ones, whose tokens attend to each other; the linear path takes those
        of all genes. 0 stands for all, and ``all`` tokens attend all.
    values
        How a token says how strongly its gene is expressed: ``continuous`` scales the gene's vector by
        ``log1p`` of the count scaled to ``target_sum`` counts a cell, ``bins`` adds a vector for the bin.
    target_sum
        Counts that each cell is scaled to.
    n_bins
        Equal intervals between a cell's smallest and largest non-zero count.
    d_model
        Width of the network.
    n_layers
        Attention blocks.
    n_heads
        Attention heads; they share ``d_model``.
    norm
        Whether blocks normalise what goes in (``pre``) or what comes out (``post``).
    pooling
        Whether a cell is the mean of its tokens, or a summary token of its own (``cls``).
    linear_path
        Whether a weight for each gene and class is added to the logits.
    dropout
        Share of activations dropped in training, 0 to 1.
    attention_dropout
        Share of attention weights dropped in training, 0 to 1. On a CPU any above 0 makes a
        training step 2.6 times as long (250 tokens a cell), since torch then draws a random
        number for each pair of tokens.

    Raises
    ------
    ConfigError
        If the heads do not divide the width, or another value cannot be used.
    """

    n_genes: int
    n_classes: int
    tokens: TokenMode = _OPTIONS.tokens
    max_tokens: int = _OPTIONS.max_tokens
    attention_genes: int = _OPTIONS.attention_genes
    values: ValueMode = _OPTIONS.values
    target_sum: float = _OPTIONS.value_target_sum
    n_bins: int = _OPTIONS.n_bins
    d_model: int = _OPTIONS.d_model
    n_layers: int = _OPTIONS.n_layers
    n_heads: int = _OPTIONS.n_heads
    norm: NormMode = _OPTIONS.norm
    pooling: PoolingMode = _OPTIONS.pooling
    linear_path: bool = _OPTIONS.linear_path
    dropout: float = _OPTIONS.dropout
    attention_dropout: float = _OPTIONS.attention_dropout

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
        for name, modes in (
            ("tokens", TokenMode),
            ("values", ValueMode),
            ("norm", NormMode),
            ("pooling", PoolingMode),
        ):
            _check_choice(name, getattr(self, name), get_args(modes))

    @classmethod
    def from_options(cls, options: NetworkOptions, *, n_genes: int, n_classes: int) -> Self:
        """Take the shape that a person asked for."""
        return cls(
            n_genes=n_genes,
            n_classes=n_classes,
            tokens=options.tokens,
            max_tokens=options.max_tokens,
            attention_genes=options.attention_genes,
            values=options.values,
            target_sum=options.value_target_sum,
            n_bins=options.n_bins,
            d_model=options.d_model,
            n_layers=options.n_layers,
            n_heads=options.n_heads,
            norm=options.norm,
            pooling=options.pooling,
            linear_path=options.linear_path,
            dropout=options.dropout,
            attention_dropout=options.attention_dropout,
        )

    @property
    def n_attended(self) -> int:
        """Genes whose tokens attend to each other: the first ones of the panel."""
        if self.tokens == "all" or not self.attention_genes:
            return self.n_genes
        return min(self.attention_genes, self.n_genes)

    def to_json(self) -> str:
        """Write as JSON."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what :meth:`to_json` wrote."""
        return cls(**{"attention_genes": 0} | json.loads(text))


@dataclass(frozen=True)
class TrainingConfig:
    """How the network is trained.

    Attributes
    ----------
    learning_rate
        AdamW's highest learning rate; it rises to that, then falls to zero along a cosine.
    gene_learning_rate, linear_learning_rate
        Highest learning rates of the genes' vectors and of the linear path
        (:class:`annotary.models.transformer.optimizer.MatrixAdam`).
    warmup
        Share of all steps in which it rises, 0 to 1.
    weight_decay
        AdamW's weight decay, of matrices and embeddings.
    batch_size
        Cells in a training batch, those of all processes together.
    max_epochs
        Most epochs.
    patience
        Epochs without a better validation macro-F1 before training ends.
    loss
        Cross entropy that weighs classes against their size (``balanced``), that adds the logarithm of
        their share to the logits in training (``logit_adjusted``), or neither (``plain``).
    label_smoothing
        Share of the target spread over all classes, 0 to 1.
    thinning
        Largest share of a cell's molecules that is left out at random in training, 0 to 1.
    gene_dropout
        Largest share of a cell's tokens that is left out at random in training, 0 to 1.
    ema_decay
        Decay of the running mean of the weights, which is what is validated and kept.
    max_gradient_norm
        Gradients are scaled down to this norm.
    seed
        Seed of the first weights, dropout, the order of the batches and what is left out.
    device
        ``auto``, ``cpu``, ``cuda`` or ``mps``.
    n_processes
        Processes that share each batch.
    """

    learning_rate: float = _OPTIONS.learning_rate
    gene_learning_rate: float = _OPTIONS.gene_learning_rate
    linear_learning_rate: float = _OPTIONS.linear_learning_rate
    warmup: float = 0.15
    weight_decay: float = 0.05
    batch_size: int = _OPTIONS.batch_size
    max_epochs: int = _OPTIONS.max_epochs
    patience: int = _OPTIONS.patience
    loss: LossMode = _OPTIONS.loss
    label_smoothing: float = _OPTIONS.label_smoothing
    thinning: float = _OPTIONS.thinning
    gene_dropout: float = _OPTIONS.gene_dropout
    ema_decay: float = 0.995
    max_gradient_norm: float = 1.0
    seed: int = _OPTIONS.seed
    device: str = _OPTIONS.device
    n_processes: int = _OPTIONS.n_processes

    def __post_init__(self) -> None:
        _check_choice("loss", self.loss, get_args(LossMode))

    @classmethod
    def from_options(cls, options: NetworkOptions, *, seed: int, device: str) -> Self:
        """Take the training that a person asked for."""
        return cls(
            learning_rate=options.learning_rate,
            gene_learning_rate=options.gene_learning_rate,
            linear_learning_rate=options.linear_learning_rate,
            batch_size=options.batch_size,
            max_epochs=options.max_epochs,
            patience=options.patience,
            loss=options.loss,
            label_smoothing=options.label_smoothing,
            thinning=options.thinning,
            gene_dropout=options.gene_dropout,
            seed=seed,
            device=device,
            n_processes=options.n_processes,
        )


def _check_choice(name: str, found: str, choices: tuple[str, ...]) -> None:
    """Refuse a value that is none of the choices."""
    if found not in choices:
        raise ConfigError(
            f"--{name}",
            expected=" or ".join(choices),
            found=repr(found),
            remedy="Choose one of them.",
        )
