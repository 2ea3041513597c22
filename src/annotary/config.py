"""The parameters of every stage: groups of options, combined, and what is a stage's own."""

from typing import Literal

from pydantic import Field

from annotary.network_options import (
    NetworkOptions,
    NetworkShape,
    NetworkTuningOptions,
    PretrainingOptions,
    TrainingSteps,
)
from annotary.options import (
    CHALLENGER,
    CHAMPION,
    DEFAULT_OUTPUT,
    PREVIOUS,
    BundleOptions,
    CountsOptions,
    DatasetOption,
    DeviceOption,
    LabelledInput,
    ModelNameOption,
    PromotionOptions,
    QualityOptions,
    SeedOption,
    StageConfig,
    TuningOptions,
)

__all__ = [
    "CHALLENGER",
    "CHAMPION",
    "PREVIOUS",
    "BundleOptions",
    "PromotionOptions",
    "StageConfig",
]


class PreprocessConfig(SeedOption, QualityOptions, CountsOptions, LabelledInput):
    """Raw counts in, one dataset file out."""


class BaselinesConfig(SeedOption, BundleOptions, TuningOptions, DatasetOption):
    """Tune and train the baselines."""


class PretrainConfig(
    SeedOption, DeviceOption, TrainingSteps, NetworkShape, PretrainingOptions, CountsOptions
):
    """Train a network without labels, for the transformer to begin with."""

    input: str = Field(
        "",
        description="Counts, with labels or without: h5ad, h5ad.gz, 10x h5, 10x matrix folder or zarr; a"
        " folder of them, or several separated by commas.",
    )
    dataset: str = Field(
        "",
        description="Instead of --input: a dataset file of preprocess, of which the test cells are left out.",
    )


class TransformerConfig(
    SeedOption, DeviceOption, BundleOptions, NetworkTuningOptions, NetworkOptions, DatasetOption
):
    """Train the self-attention network."""


class EnsembleConfig(BundleOptions, DatasetOption):
    """Let several models vote."""

    candidates: str = Field(
        "",
        description="Comma-separated model ids of those that vote; empty takes the latest of each kind that"
        " was trained on the dataset.",
    )


class CardOptions(StageConfig):
    """What a model card says that no file tells."""

    licence: str = Field("", description="Licence of the data, for the model card; empty says not stated.")
    label_source: str = Field(
        "", description="Who made the labels, and how, for the model card; empty names the column."
    )


class EvaluateConfig(SeedOption, DeviceOption, CardOptions, ModelNameOption, DatasetOption):
    """Compare candidates on the test cells and register them."""

    candidates: str = Field(
        "", description="Comma-separated model ids; empty takes every model trained on the dataset."
    )


class PromoteConfig(SeedOption, DeviceOption, PromotionOptions, ModelNameOption):
    """Move the alias champion."""

    version: str = Field("", description="Version that may become champion; empty takes the challenger.")


class RollbackConfig(ModelNameOption):
    """Move the alias champion back."""

    reason: str = Field("", description="Why, for the promotion ledger.")


class LedgerConfig(ModelNameOption):
    """Show the promotion ledger."""


class ModelsConfig(ModelNameOption):
    """List the versions of a registered model."""


class VerifyConfig(StageConfig):
    """Check an annotated file."""

    file: str = Field(min_length=1, description="Annotated h5ad file.")
    input: str = Field("", description="The file that was annotated, to check that it is the same.")


class FilesToScore(StageConfig):
    """Files in, annotated files out."""

    input: str = Field(
        min_length=1,
        description="File, folder, glob, list of these (NAME.txt, one a line) or remote address; or several "
        "separated by commas.",
    )
    output: str = Field(
        DEFAULT_OUTPUT, min_length=1, description="Folder for the annotated files and the ledger."
    )
    recursive: bool = Field(False, description="Search the folders below a folder too.")
    settle_seconds: float = Field(
        10,
        ge=0,
        description="Files of a folder or glob that changed less than this ago wait for the next run.",
    )
    read_timeout: float = Field(
        300,
        ge=0,
        description="Seconds without progress after which a file is given up: a process of its own reads it,"
        " and is ended then. A small file's tables get less. 0 reads in the same process, without bound.",
    )
    quarantine: str = Field(
        "", description="Folder to which files that cannot be annotated are moved; empty leaves them."
    )


class ScoreOutputs(StageConfig):
    """What is written of each file."""

    form: Literal["h5ad", "table", "both"] = Field(
        "h5ad", description="Write a copy of the input with the annotation, a table of it, or both."
    )
    table_format: Literal["parquet", "csv"] = Field("parquet", description="Format of the table.")
    prefix: str = Field("", description="Put before the name of every column that is added.")
    majority_voting: bool = Field(
        False, description="Also give each over-cluster the label that most of its cells have."
    )
    cluster_key: str = Field(
        "", description="obs column with over-clusters to vote in; empty finds them by Leiden."
    )
    min_prop: float = Field(
        0, ge=0, le=1, description="A cluster whose label has a smaller share of it becomes Heterogeneous."
    )
    ontology: str = Field(
        "",
        description="csv with columns label and cell_type_ontology_term_id, in place of the model's terms.",
    )


class ScoreConfig(DeviceOption, ScoreOutputs, CountsOptions, ModelNameOption, FilesToScore):
    """Annotate files with the champion, each once."""

    alias: str = Field(CHAMPION, min_length=1, description="Alias of the version to use.")
    chunk_size: int = Field(2048, ge=1, description="Cells read at a time.")
    shadow: str = Field(
        "", description="Alias, such as challenger, whose version also scores the files, for comparison only."
    )
    report_umap: bool = Field(
        False, description="Show a UMAP of up to 2,000 of the cells in scoring.html; takes some seconds."
    )
    fail_on_drift: bool = Field(
        False, description="End with exit code 4 where the cells are far from the training cells."
    )


class MainConfig(
    SeedOption,
    DeviceOption,
    PromotionOptions,
    CardOptions,
    ModelNameOption,
    BundleOptions,
    NetworkTuningOptions,
    NetworkOptions,
    TuningOptions,
    QualityOptions,
    CountsOptions,
    LabelledInput,
):
    """The whole way: preprocess, baselines, transformer, ensemble, evaluate, promote, score."""
