"""The registered form of a model: a folder of safe files that explains itself.

``bundle.json`` holds the model's kind, label names, InputSpec, provenance,
and the SHA-256 of every other file; ``weights/`` holds what the model saved,
``seen_cells.safetensors`` which cells it has seen.
Nothing in it is a pickle.
"""

import importlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors.numpy import load_file, save_file
from scipy.sparse import csr_matrix

from annotary.data.counts import count_genes_per_cell, validate_counts
from annotary.data.genes import check_overlap, clean_gene_ids
from annotary.data.hashing import hash_file
from annotary.errors import BundleError, CountsError
from annotary.models.base import Annotator
from annotary.quality.prepare import InputSpec

_FORMAT = 1
MANIFEST = "bundle.json"
_WEIGHTS = "weights"
_SEEN_FILE = "seen_cells.safetensors"
_SEEN_CELLS = "seen_cells"

# Classes are named, not imported: loading one kind never imports another's libraries.
_CLASSES = {
    "logistic_regression": "annotary.models.baselines:LogisticRegressionAnnotator",
    "random_forest": "annotary.models.baselines:RandomForestAnnotator",
    "linear_svm": "annotary.models.baselines:LinearSvmAnnotator",
    "transformer": "annotary.models.transformer.classifier:TransformerAnnotator",
}


@dataclass(frozen=True)
class Provenance:
    """What a model was made from.

    Attributes
    ----------
    dataset_hash, split_hash
        Hashes of the dataset and its split.
    run_id
        MLflow run that trained the model.
    config
        Resolved configuration of the training stage with tuned values, as JSON.
    package_version
        annotary's version.
    """

    dataset_hash: str
    split_hash: str
    run_id: str
    config: str
    package_version: str


@dataclass(frozen=True)
class Annotation:
    """What a model says of some cells.

    Attributes
    ----------
    probabilities
        ``(n_cells, n_classes)``, float32.
    low_information
        Cells with fewer expressed panel genes than any training cell, ``(n_cells,)``.
    """

    probabilities: np.ndarray
    low_information: np.ndarray

    @property
    def codes(self) -> np.ndarray:
        """Most probable label of each cell, ``(n_cells,)``."""
        return self.probabilities.argmax(axis=1)

    @property
    def confidence(self) -> np.ndarray:
        """Probability of the most probable label, ``(n_cells,)``."""
        return self.probabilities.max(axis=1)


@dataclass(frozen=True)
class Bundle:
    """A model with everything that scoring needs.

    Attributes
    ----------
    model
        The trained model.
    spec
        How its input is prepared.
    label_names
        Names of the columns of its probabilities, ``(n_classes,)``.
    provenance
        What it was made from.
    seen_cells
        Hashes of the cells it was trained or tuned on, ``(n_seen,)``, int64, as
        :func:`annotary.data.hashing.hash_cell_ids` gives them.
    """

    model: Annotator
    spec: InputSpec
    label_names: tuple[str, ...]
    provenance: Provenance
    seen_cells: np.ndarray

    def annotate(
        self,
        counts: csr_matrix,
        gene_ids: pd.Index,
        *,
        depth: np.ndarray | None = None,
        device: str = "auto",
    ) -> Annotation:
        """Annotate raw counts.

        Parameters
        ----------
        counts
            Raw counts of all genes, ``(n_cells, n_input_genes)``, sparse or dense.
        gene_ids
            Ids of the columns, ``(n_input_genes,)``.
        depth
            Counts of each cell over all its genes, ``(n_cells,)``; None sums the columns.
        device
            Where a network computes.

        Raises
        ------
        CountsError
            If the counts are no raw counts, or do not go with the ids.
        GeneOverlapError
            If too few of the model's genes are there.
        """
        counts, gene_ids = csr_matrix(counts), clean_gene_ids(pd.Index(gene_ids))
        if counts.shape[1] != len(gene_ids) or (depth is not None and len(depth) != counts.shape[0]):
            raise CountsError(
                "counts",
                expected="one column for each gene id, and one row for each depth",
                found=f"{counts.shape[0]} x {counts.shape[1]} counts, {len(gene_ids)} gene ids, "
                f"{counts.shape[0] if depth is None else len(depth)} depths",
                remedy="Pass cells as rows.",
            )
        cell_ids = pd.RangeIndex(counts.shape[0])
        validate_counts(counts, place="counts", cell_ids=cell_ids, gene_ids=gene_ids)
        check_overlap(gene_ids, self.spec.panel, min_overlap=self.spec.min_overlap, place="counts")
        return self.annotate_checked(counts, gene_ids, depth=depth, device=device)

    def annotate_checked(
        self,
        counts: csr_matrix,
        gene_ids: pd.Index,
        *,
        depth: np.ndarray | None = None,
        device: str = "auto",
    ) -> Annotation:
        """Annotate counts that were validated, and genes that were matched, where they were read.

        Parameters and result are those of :meth:`annotate`; a file's chunks go this way,
        so that nothing is checked twice.
        """
        cells = self.spec.prepare(counts, gene_ids, depth=depth)
        return Annotation(
            probabilities=self.model.predict_proba(cells, device=device),
            low_information=count_genes_per_cell(cells.counts) < self.spec.min_panel_genes,
        )


def save_bundle(bundle: Bundle, folder: Path) -> None:
    """Write a bundle into a new folder."""
    weights = folder / _WEIGHTS
    weights.mkdir(parents=True)
    bundle.model.save(weights)
    save_file({_SEEN_CELLS: np.ascontiguousarray(bundle.seen_cells)}, folder / _SEEN_FILE)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    manifest = {
        "format": _FORMAT,
        "kind": bundle.model.kind,
        "label_names": list(bundle.label_names),
        "input_spec": asdict(bundle.spec),
        "panel_hash": bundle.spec.panel_hash,
        "provenance": asdict(bundle.provenance),
        "sha256": {path.relative_to(folder).as_posix(): hash_file(path) for path in files},
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1))


def load_bundle(folder: Path) -> Bundle:
    """Read a bundle and check its files.

    Raises
    ------
    BundleError
        If it has another format or kind, or a file is missing or altered.
    """
    manifest_path = folder / MANIFEST
    if not manifest_path.is_file():
        raise BundleError(
            folder,
            expected=f"to be a model bundle with {MANIFEST}",
            found="none",
            remedy="Use a model that annotary registered.",
        )
    manifest = json.loads(manifest_path.read_text())
    known = manifest.get("format") == _FORMAT and manifest.get("kind") in _CLASSES
    if not known:
        raise BundleError(
            folder,
            expected=f"bundle format {_FORMAT} and one of the kinds {', '.join(_CLASSES)}",
            found=f"format {manifest.get('format')!r}, kind {manifest.get('kind')!r}",
            remedy="Install the annotary version that made the model, or a newer one.",
        )
    for name, expected in manifest["sha256"].items():
        path = folder / name
        found = hash_file(path) if path.is_file() else "no file"
        if found != expected:
            raise BundleError(
                path,
                expected=f"SHA-256 {expected[:12]}",
                found=found[:12],
                remedy="The model's files were altered: roll back to another version.",
            )
    spec = InputSpec.from_json(json.dumps(manifest["input_spec"]))
    if spec.panel_hash != manifest["panel_hash"]:
        raise BundleError(
            manifest_path,
            expected=f"genes of panel hash {manifest['panel_hash'][:12]}",
            found=spec.panel_hash[:12],
            remedy="The model's files were altered: roll back to another version.",
        )
    return Bundle(
        model=_find_class(manifest["kind"]).load(folder / _WEIGHTS),
        spec=spec,
        label_names=tuple(manifest["label_names"]),
        provenance=Provenance(**manifest["provenance"]),
        seen_cells=load_file(folder / _SEEN_FILE)[_SEEN_CELLS],
    )


def _find_class(kind: str) -> type[Annotator]:
    """Import the class of a model kind."""
    module, name = _CLASSES[kind].split(":")
    found: type[Annotator] = getattr(importlib.import_module(module), name)
    return found
