"""Groups of parameters that several stages share: frozen, typed, unknown keys refused.

Each field is at once a command-line option (``--label-key``), an MLproject
parameter (``label_key``) and an attribute.
"""

from typing import Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from annotary.errors import ConfigError

DEFAULT_OUTPUT = "annotary-output"
DEFAULT_MODEL_NAME = "cell-annotator"
_LONGEST_NAME = 200
CHAMPION = "champion"
CHALLENGER = "challenger"
PREVIOUS = "previous"

Device = Literal["auto", "cpu", "cuda", "mps"]
Part = TypeVar("Part", bound="StageConfig")


class StageConfig(BaseModel):
    """Base of all configurations."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def from_options(cls, options: dict[str, object]) -> Self:
        """Check the values of a command line.

        Raises
        ------
        ConfigError
            Naming the first option whose value cannot be used.
        """
        try:
            return cls.model_validate(options)
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(str(part) for part in first["loc"])
            wanted = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
            raise ConfigError(
                f"--{name.replace('_', '-')}",
                expected=f"to be {wanted}",
                found=repr(first["input"]),
                remedy="See the command's --help for the values it takes.",
            ) from error

    def part(self, stage: type[Part], **own: object) -> Part:
        """Take the fields of one stage out of a larger configuration.

        Parameters
        ----------
        stage
            Configuration whose fields are taken.
        own
            Fields of ``stage`` that this configuration does not have, or
            that get another value.
        """
        shared = set(stage.model_fields) & set(type(self).model_fields)
        values = {name: getattr(self, name) for name in shared}
        return stage.model_validate(values | own)


class SeedOption(StageConfig):
    """The seed of everything random."""

    seed: int = Field(42, ge=0, description="Seed of every random choice.")


class DeviceOption(StageConfig):
    """Where a network computes."""

    device: Device = Field(
        "auto", description="Where a network computes; auto takes CUDA if there, then MPS."
    )


def check_registered_name(name: str) -> str:
    """Check the name of a registered model before any work is done for it.

    MLflow refuses ``/`` and ``:`` itself. An address ``models:/NAME@ALIAS`` ends at ``@`` or ``?`` and loses
    control characters; MLflow's searches, its UI's too, end at an apostrophe; and its databases keep 256
    characters, of which the experiment of the promotion ledger needs some.

    Raises
    ------
    ValueError
        If a model of this name could be registered, but not found again.
    """
    is_plain = name.isprintable() and name.strip() not in ("", ".", "..")
    if not is_plain or len(name) > _LONGEST_NAME or set(name) & set("/:@?'"):
        raise ValueError(
            f"a name of at most {_LONGEST_NAME} printable characters without / : @ ? or ', as MLflow asks"
        )
    return name


class ModelNameOption(StageConfig):
    """Which registered model."""

    model_name: str = Field(
        DEFAULT_MODEL_NAME, description="Registered model; another set of labels needs another name."
    )

    _check_name = field_validator("model_name")(check_registered_name)


class ReadingOption(StageConfig):
    """How long a damaged file may keep a command from its work."""

    read_timeout: float = Field(
        300,
        ge=0,
        description="Seconds without progress after which an input is given up: a process of its own looks at"
        " it first, and is ended then. A small file's tables get less. 0 takes no such look.",
    )


class DatasetOption(ReadingOption):
    """Which dataset file."""

    dataset: str = Field(
        min_length=1, description="Dataset file written by preprocess: a path or a runs:/ address."
    )


class CountsOptions(StageConfig):
    """Where a file keeps its counts and what is known of them."""

    counts_layer: str = Field(
        "", description='Layer with raw counts; empty looks in layers["counts"], .raw, X.'
    )
    depth_key: str = Field(
        "", description="obs column with each cell's counts over all genes, for files cut to some genes."
    )


class LabelledInput(ReadingOption):
    """Labelled counts in, files out."""

    input: str = Field(
        "",
        description="h5ad, h5ad.gz, 10x h5, 10x matrix folder, zarr or npy; a folder of them, or several "
        "separated by commas; empty takes the embedded pbmc68k_reduced data.",
    )
    output: str = Field(DEFAULT_OUTPUT, min_length=1, description="Folder for the files that are written.")
    label_key: str = Field(
        "",
        description="obs column with the labels; empty means cell_type, or bulk_labels in the embedded data.",
    )


class PromotionOptions(StageConfig):
    """Whether the champion may change, and the rules that a challenger must keep."""

    mode: Literal["enabled", "dry_run", "disabled"] = Field(
        "enabled", description="enabled promotes, dry_run says what it would do, disabled does nothing."
    )
    min_macro_f1: float = Field(0.5, ge=0, le=1, description="Least macro-F1 of a champion.")
    min_gain: float = Field(
        0.0,
        ge=-1,
        le=1,
        description="Macro-F1 by which the challenger must exceed the champion; negative takes a worse one.",
    )
    non_inferiority_margin: float = Field(
        0.05,
        ge=0,
        le=1,
        description="Macro-F1 by which the challenger may be worse at the lower end of the 95 % interval.",
    )
    max_class_drop: float = Field(
        0.1, ge=0, le=1, description="F1 that a label may lose, if it has --min-support test cells."
    )
    min_support: int = Field(30, ge=1, description="Test cells of a label that --max-class-drop looks at.")
    max_ece: float = Field(0.2, ge=0, le=1, description="Largest expected calibration error.")
    min_cells_per_second: float = Field(10, ge=0, description="Least speed of annotating the test cells.")
    max_bundle_mb: float = Field(500, gt=0, description="Largest size of a model's files, MB.")
    n_draws: int = Field(2000, ge=100, description="Draws of the bootstrap that compares the two.")


class QualityOptions(StageConfig):
    """What preprocess removes, and which genes it keeps."""

    preset: Literal["", "seed"] = Field(
        "",
        description="seed repeats the notebook that this began with: doublets before quality, its thresholds,"
        " panel chosen on all cells; test cells then have a say in the panel, runs are tagged leaky=true.",
    )
    labels: str = Field(
        "", description="csv or tsv table with barcodes and labels; empty takes the labels from obs."
    )
    similar_labels: Literal["warn", "merge", "refuse"] = Field(
        "warn",
        description="What to do with labels that differ only by case, spaces, invisible characters or "
        "Unicode's normal form; merge takes the most frequent spelling.",
    )
    min_cells_per_label: int = Field(
        0,
        ge=0,
        description="Labels with fewer cells are reported and left out; 0 refuses the input.",
    )
    allow_pickle: bool = Field(
        False, description="Read a .npy input, which runs whatever code it holds; for trusted files only."
    )
    n_genes_key: str = Field(
        "", description="obs column with each cell's expressed genes, for files cut to some genes."
    )
    min_genes: int = Field(200, ge=0, description="Cells with fewer expressed genes are removed.")
    min_counts: int = Field(0, ge=0, description="Cells with fewer counts are removed.")
    max_pct_mito: float = Field(
        100, ge=0, le=100, description="Cells with a larger mitochondrial share (percent) are removed."
    )
    n_mads: float = Field(
        0, ge=0, description="Cells more MADs from the median (counts, genes, mito) are removed; 0 for none."
    )
    min_cells: int = Field(10, ge=0, description="Genes expressed in fewer cells are removed.")
    doublets: Literal["solo", "scrublet", "none"] = Field(
        "solo", description="Doublet caller; each lane is called alone."
    )
    lane_key: str = Field(
        "", description="obs column with the lane (10x run) of each cell; empty takes each file as one lane."
    )
    doublet_epochs: int = Field(
        0, ge=0, description="Epochs of each of SOLO's two networks; 0 takes enough for the number of cells."
    )
    doublet_rate: float = Field(
        0.008,
        ge=0,
        le=1,
        description="Expected share of doublets per 1,000 cells of a lane, up to 10,000; bounds the calls.",
    )
    doublet_label_limit: float = Field(
        3.0,
        ge=0,
        allow_inf_nan=False,
        description="Multiple of the expected doublets that a label may lose, others are kept; 0: no limit.",
    )
    reuse: bool = Field(
        True, description="Take the doublet-free cells of an earlier run with the same inputs and settings."
    )
    split: Literal["stratified", "group", "cluster"] = Field(
        "stratified",
        description="Sides by cell within each label, by whole groups, or by clusters of similar cells.",
    )
    group_key: str = Field(
        "",
        description="obs column with the donor or batch that stays on one side, or source (the file).",
    )
    cluster_resolution: float = Field(
        20.0, gt=0, description="Leiden resolution of --split cluster; the higher, the smaller the clusters."
    )
    val_fraction: float = Field(0.1, gt=0, lt=0.5, description="Share of the validation cells.")
    test_fraction: float = Field(0.2, gt=0, lt=0.5, description="Share of the test cells.")
    n_folds: int = Field(
        3, ge=2, le=20, description="Cross-validation folds of the training and validation cells."
    )
    panel_method: Literal["seurat", "seurat_v3", "cell_ranger", "f_test"] = Field(
        "seurat",
        description="How training cells choose the gene panel: variability, or f_test between labels.",
    )
    n_top_genes: int = Field(1200, ge=0, description="Genes in the panel; 0 takes all.")


class StudyOptions(StageConfig):
    """Where the trials of a search are kept, and for how long it goes on."""

    timeout: float = Field(
        0, ge=0, description="Seconds after which no further trial of a model begins; 0 for no limit."
    )
    storage: str = Field(
        "",
        description="SQLite file or database address of Optuna's studies, which several processes may share;"
        " empty takes optuna.db beside the tracking store's SQLite file, or in the working folder.",
    )
    warm_start: bool = Field(
        True, description="Go on with the trials of the same dataset, or work on them with other processes."
    )


class TuningOptions(StudyOptions):
    """How the baselines are tuned."""

    kinds: str = Field(
        "logistic_regression,random_forest",
        min_length=1,
        description="Baselines, separated by commas: logistic_regression, random_forest, linear_svm.",
    )
    n_trials: int = Field(
        8,
        ge=1,
        description="Optuna trials of each baseline, those of other processes and earlier runs included.",
    )


class ConfidenceOptions(StageConfig):
    """What a model's confidence is to mean."""

    conformal_alpha: float = Field(
        0.1, gt=0, lt=1, description="Share of a label's cells whose prediction sets may lack it."
    )
    min_precision: float = Field(
        0.9,
        ge=0,
        le=1,
        description="Share of right labels, by label, among cells that are not called unassigned.",
    )
    ood_rate: float = Field(
        0.01, gt=0, lt=1, description="Share of known cells that may be called out of distribution."
    )


class BundleOptions(ConfidenceOptions):
    """What a model keeps besides what it was fitted to."""

    ontology: str = Field(
        "",
        description="csv with columns label and cell_type_ontology_term_id: terms that the model gives its"
        " labels.",
    )
