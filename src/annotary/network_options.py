"""Parameters of the transformer: shape, training, search. Their defaults are said here alone."""

from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from annotary.options import StageConfig, StudyOptions, check_registered_name

TokenMode = Literal["expressed", "all"]
ValueMode = Literal["continuous", "bins"]
NormMode = Literal["pre", "post"]
PoolingMode = Literal["mean", "cls"]
LossMode = Literal["balanced", "logit_adjusted", "plain"]

# Bins 0 to n_bins + 1 are stored as uint8.
MAX_BINS = 254


class NetworkShape(StageConfig):
    """Shape of a network, and what it makes of a cell."""

    max_tokens: int = Field(
        0, ge=0, description="Most tokens of a cell, those with the largest counts; 0 for no limit."
    )
    values: ValueMode = Field(
        "continuous",
        description="How a token says how strongly its gene is expressed: by scaling the gene's vector, or by"
        " a vector for each bin.",
    )
    value_target_sum: float = Field(
        300.0, gt=0, description="Counts that a cell is scaled to before log1p in continuous values."
    )
    n_bins: int = Field(14, ge=1, le=MAX_BINS, description="Expression bins of a cell.")
    d_model: int = Field(96, ge=8, description="Width of the network.")
    n_layers: int = Field(1, ge=0, description="Attention blocks.")
    n_heads: int = Field(2, ge=1, description="Attention heads; must divide d_model.")
    norm: NormMode = Field("pre", description="Blocks normalise what goes in, or comes out.")
    pooling: PoolingMode = Field(
        "mean", description="A cell is the mean of its tokens, or a summary token of its own."
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="Share of activations dropped in training.")
    attention_dropout: float = Field(
        0.0, ge=0, lt=1, description="Share of attention weights dropped in training; slow on a CPU."
    )

    @field_validator("n_heads")
    @classmethod
    def _check_heads(cls, n_heads: int, info: ValidationInfo) -> int:
        d_model = info.data.get("d_model", n_heads)
        if d_model % n_heads:
            raise ValueError(f"a divisor of --d-model, which is {d_model}")
        return n_heads


class TrainingSteps(StageConfig):
    """How long a network is trained, and how fast."""

    learning_rate: float = Field(1e-3, gt=0, description="AdamW's highest learning rate.")
    gene_learning_rate: float = Field(0.02, gt=0, description="Highest learning rate of the genes' vectors.")
    batch_size: int = Field(64, ge=1, description="Cells in a training batch.")
    max_epochs: int = Field(12, ge=1, description="Most epochs.")


class NetworkOptions(TrainingSteps, NetworkShape):
    """Genes, shape and training of the transformer."""

    init_from: str = Field(
        "",
        description="Pretrained network to begin with: models:/NAME/VERSION, models:/NAME@ALIAS, the id of a"
        " run of pretrain, or a folder; empty begins with random weights.",
    )
    network_panel: Literal["f_test", "dataset"] = Field(
        "f_test",
        description="The transformer's genes: chosen by an F test between labels on training cells, or the"
        " dataset's panel.",
    )
    network_genes: int = Field(0, ge=0, description="Genes of --network-panel f_test; 0 takes all.")
    attention_genes: int = Field(
        300,
        ge=0,
        description="Genes, those that tell labels apart best, whose tokens attend to each other; the linear"
        " path takes all. 0 for no limit.",
    )
    tokens: TokenMode = Field(
        "expressed", description="Tokens of a cell: its expressed panel genes, or all panel genes."
    )
    linear_path: bool = Field(
        True, description="Add a weight for each gene and class to what the attention says."
    )
    linear_learning_rate: float = Field(0.03, gt=0, description="Highest learning rate of the linear path.")
    loss: LossMode = Field(
        "balanced",
        description="Rare classes weigh more, are given logits of classes of equal size, or neither.",
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="Share of the target spread over all classes."
    )
    thinning: float = Field(
        0.5, ge=0, lt=1, description="Largest share of a cell's molecules left out at random in training."
    )
    gene_dropout: float = Field(
        0.0, ge=0, lt=1, description="Largest share of a cell's genes left out at random in training."
    )
    patience: int = Field(
        8, ge=1, description="Epochs without a better validation macro-F1 before training ends."
    )
    refit: bool = Field(
        True, description="Train again on training and validation cells together, for as many epochs."
    )
    n_networks: int = Field(
        1, ge=1, description="Networks that are trained from different seeds, their probabilities averaged."
    )
    n_processes: int = Field(1, ge=1, description="Processes, or GPUs, that share each training batch.")


class NetworkTuningOptions(StudyOptions):
    """How the transformer is tuned."""

    network_trials: int = Field(
        0,
        ge=0,
        description="Optuna trials of the transformer, those of other processes and earlier runs included;"
        " 0 takes its options as they are, else they are the first trial.",
    )


class PretrainingOptions(StageConfig):
    """What a network learns without labels."""

    _check_name = field_validator("pretrained_name")(check_registered_name)

    pretrained_name: str = Field(
        "annotary-pretrained", description="Registered model that gets the network as a version."
    )
    pretraining_genes: int = Field(
        4000, ge=1, description="Genes of the network: those that most cells express."
    )
    mask_share: float = Field(
        0.3, gt=0, lt=1, description="Share of a cell's expressed genes that are hidden and asked for."
    )
