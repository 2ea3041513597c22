"""A model with everything that scoring needs, and what it says of cells."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from annotary.data.counts import count_genes_per_cell, validate_counts
from annotary.data.genes import check_overlap, clean_gene_ids, restore_names
from annotary.errors import CountsError
from annotary.models.base import Annotator
from annotary.models.confidence.confidence import Confidence
from annotary.models.profile import TrainingProfile
from annotary.quality.prepare import InputSpec, PreparedCells, log_normalize


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
    label_source
        Where the labels come from: input, and the column or table with them.
    libraries
        Versions of Python and of the libraries that trained the model, by name.
    """

    dataset_hash: str
    split_hash: str
    run_id: str
    config: str
    package_version: str
    label_source: str
    libraries: dict[str, str]


@dataclass(frozen=True)
class Annotation:
    """What a model says of some cells; no cell's row depends on the others.

    Attributes
    ----------
    probabilities
        Calibrated, ``(n_cells, n_classes)``, float32.
    low_information
        Cells with fewer expressed panel genes than any training cell, ``(n_cells,)``, bool.
    unassigned
        Cells whose most probable label is below its threshold, ``(n_cells,)``, bool.
    prediction_sets
        Labels that are plausible for each cell, ``(n_cells, n_classes)``, bool; the most probable is
        always one of them.
    ood_score
        How unlike known cells each cell is, ``(n_cells,)``, float32; above 1 it is stranger than nearly
        all of them.
    """

    probabilities: np.ndarray
    low_information: np.ndarray
    unassigned: np.ndarray
    prediction_sets: np.ndarray
    ood_score: np.ndarray

    @property
    def codes(self) -> np.ndarray:
        """Most probable label of each cell, ``(n_cells,)``."""
        return self.probabilities.argmax(axis=1)

    @property
    def confidence(self) -> np.ndarray:
        """Probability of the most probable label, ``(n_cells,)``."""
        return self.probabilities.max(axis=1)

    @property
    def ood(self) -> np.ndarray:
        """Cells that may be of a kind that the model was not fitted to, ``(n_cells,)``, bool."""
        return self.ood_score > 1

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        """Put the annotations of one model's cells, part after part, together."""
        names = [field.name for field in fields(cls)]
        return cls(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


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
    label_counts
        Cells of each label that it was fitted to, ``(n_classes,)``.
    confidence
        Calibration, thresholds and limits.
    provenance
        What it was made from.
    seen_cells
        Hashes of the cells it was trained or tuned on, ``(n_seen,)``, int64, as
        :func:`annotary.data.hashing.hash_cell_ids` gives them.
    profile
        What its cells looked like; None where the model does not tell.
    terms
        Cell Ontology's term of each label that has one; None where no table of them was given.
    """

    model: Annotator
    spec: InputSpec
    label_names: tuple[str, ...]
    label_counts: tuple[int, ...]
    confidence: Confidence
    provenance: Provenance
    seen_cells: np.ndarray
    profile: TrainingProfile | None = None
    terms: Mapping[str, str] | None = None

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
        counts = csr_matrix(counts)
        gene_ids = restore_names(clean_gene_ids(pd.Index(gene_ids)), self.spec.panel)
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
        cells = self.spec.prepare(counts, gene_ids, depth=depth)
        return self.annotate_prepared(cells, device=device)

    def annotate_prepared(self, cells: PreparedCells, *, device: str = "auto") -> Annotation:
        """Annotate cells that ``spec`` prepared from counts and genes that were checked where they were read.

        A file's chunks go this way, so that nothing is checked twice.
        """
        confidence = self.confidence
        probabilities = confidence.calibrate(self.model.predict_proba(cells, device=device))
        log_expr = log_normalize(cells, target_sum=self.spec.target_sum)
        return Annotation(
            probabilities=probabilities,
            low_information=count_genes_per_cell(cells.counts) < self.spec.min_panel_genes,
            unassigned=confidence.find_unassigned(probabilities),
            prediction_sets=confidence.make_sets(probabilities),
            ood_score=confidence.score_novelty(log_expr, probabilities),
        )
