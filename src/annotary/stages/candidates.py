"""What training stages share: a model's input spec, the cells its confidence is learned from, its bundle."""

import json
import platform
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd

from annotary import __version__, keys
from annotary.config import BundleOptions
from annotary.data.counts import count_genes_per_cell
from annotary.data.dataset import Dataset, DatasetRecord, DatasetTables
from annotary.data.hashing import hash_cell_ids
from annotary.data.ontology import UNKNOWN, read_terms
from annotary.errors import InputFileError
from annotary.log import warn
from annotary.models.base import Annotator
from annotary.models.bundle import Bundle, Provenance
from annotary.models.confidence.confidence import Confidence, ConfidenceSettings
from annotary.models.confidence.held_out import FittedCells, HeldOutCells, calibrate_probabilities
from annotary.models.confidence.novelty import LabelGaussians
from annotary.models.profile import TrainingProfile
from annotary.quality.prepare import COUNTS, InputSpec, log_normalize
from annotary.quality.qc import QualityThresholds
from annotary.tracking import to_json

_LIBRARIES = ("anndata", "mlflow", "numpy", "pandas", "scanpy", "scikit-learn", "scipy", "torch")


def make_spec(dataset: Dataset, panel: pd.Index) -> InputSpec:
    """Fix how a network's cells are prepared for a panel ``(n_panel,)``, from the training cells."""
    training = dataset.take(keys.TRAIN)
    spec = InputSpec(
        gene_ids=tuple(panel), id_type=dataset.record.id_type, min_panel_genes=0, transform=COUNTS
    )
    expressed = count_genes_per_cell(
        spec.prepare(training.counts, dataset.var.index, depth=training.depth).counts
    )
    return replace(spec, min_panel_genes=max(1, int(expressed.min())))


def take_fitted(spec: InputSpec, dataset: Dataset, *sides: str) -> FittedCells:
    """Take the cells of the sides that a model was fitted to."""
    cells = dataset.take(*sides)
    prepared = spec.prepare(cells.counts, dataset.var.index, depth=cells.depth)
    log_expr = log_normalize(prepared, target_sum=spec.target_sum)
    return FittedCells(log_expr=log_expr, codes=cells.codes)


def hold_out_validation(said: np.ndarray, spec: InputSpec, dataset: Dataset) -> HeldOutCells:
    """Take the validation cells, for a model that does not calibrate itself.

    Parameters
    ----------
    said
        Probabilities of the validation cells by a model that was fitted to the training cells alone,
        ``(n_cells, n_classes)``.
    spec, dataset
        How its cells are prepared, and where they are.
    """
    cells = dataset.take(keys.VALIDATION)
    prepared = spec.prepare(cells.counts, dataset.var.index, depth=cells.depth)
    probabilities, temperature = calibrate_probabilities(said, cells.codes, cells.folds)
    training = take_fitted(spec, dataset, keys.TRAIN)
    gaussians = LabelGaussians.fit(training.log_expr, training.codes)
    return HeldOutCells(
        probabilities=probabilities,
        codes=cells.codes,
        distances=gaussians.measure_distance(log_normalize(prepared, target_sum=spec.target_sum)),
        temperature=temperature,
    )


def read_label_terms(table: str, label_names: tuple[str, ...]) -> dict[str, str] | None:
    """Read the Cell Ontology's terms of a dataset's labels, and tell of those without one.

    Returns
    -------
    The term of each label that has one; None where no table is named.

    Raises
    ------
    InputFileError
        If it is no table of terms, or has none of the labels.
    """
    if not table:
        return None
    terms = {label: term for label, term in read_terms(Path(table)).items() if label in label_names}
    missing = [name for name in label_names if name not in terms]
    if not terms:
        raise InputFileError(
            table,
            expected=f"to have terms of the dataset's labels, such as {label_names[0]!r}",
            found="none of them",
            remedy="Write the labels as they stand in the dataset.",
        )
    if missing:
        warn(f"{table}: no term, so {UNKNOWN}, for {', '.join(missing)}")
    return terms


def make_bundle(
    model: Annotator,
    spec: InputSpec,
    dataset: DatasetTables,
    *,
    held_out: HeldOutCells,
    fitted: FittedCells,
    options: BundleOptions,
    terms: Mapping[str, str] | None,
    run_id: str,
    settings: dict[str, object],
) -> Bundle:
    """Put a trained model together with what scoring needs and what it was made from.

    Parameters
    ----------
    model
        The trained model.
    spec
        How its cells are prepared.
    dataset
        What it was trained on; the counts are not needed.
    held_out
        Cells that thresholds and prediction sets are learned from.
    fitted
        Cells that the model was fitted to: what it knows.
    options
        What its confidence is to mean.
    terms
        Cell Ontology's term of each label that has one; None for no table of them.
    run_id
        MLflow run that trained it.
    settings
        Resolved configuration of the stage with tuned values.
    """
    record = dataset.record
    seen = dataset.obs[dataset.obs[keys.SPLIT] != keys.TEST]
    return Bundle(
        model=model,
        spec=spec,
        label_names=record.label_names,
        label_counts=tuple(np.bincount(fitted.codes, minlength=len(record.label_names)).tolist()),
        confidence=Confidence.fit(held_out, fitted, _take_settings(options)),
        provenance=Provenance(
            dataset_hash=record.dataset_hash,
            split_hash=record.split_hash,
            run_id=run_id,
            config=to_json(settings),
            package_version=__version__,
            label_source=f"{record.label_key} of {record.source}",
            libraries={"python": platform.python_version()} | {name: version(name) for name in _LIBRARIES},
        ),
        seen_cells=hash_cell_ids(seen.index, seen[keys.DEPTH].to_numpy(dtype=np.float64)),
        profile=TrainingProfile.measure(held_out, fitted, _read_thresholds(record)),
        terms=terms,
    )


def _take_settings(options: BundleOptions) -> ConfidenceSettings:
    """Take what confidence is to mean."""
    return ConfidenceSettings(
        conformal_alpha=options.conformal_alpha,
        min_precision=options.min_precision,
        ood_rate=options.ood_rate,
    )


def _read_thresholds(record: DatasetRecord) -> QualityThresholds:
    """Read what preprocess asked of a cell."""
    asked = json.loads(record.config)
    return QualityThresholds(
        min_genes=asked["min_genes"], min_counts=asked["min_counts"], max_pct_mito=asked["max_pct_mito"]
    )
