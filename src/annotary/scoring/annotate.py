"""Annotating one file: counts in row chunks, labels and probabilities out."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from pandas.api.types import union_categoricals

from annotary import keys
from annotary.data.genes import find_mito_columns, note_restored
from annotary.data.h5ad import CountsFile, open_counts
from annotary.data.obs import read_depth
from annotary.models.bundle import Annotation, Bundle
from annotary.scoring.cell_quality import PASS
from annotary.scoring.chunks import FileChunks
from annotary.scoring.survey import Survey

CHUNK_SIZE = 2048
FEW_GENES = 5000
"""A file with fewer genes than this was probably cut to some of them."""
GOOD_OVERLAP = 0.9
"""With a smaller share of the panel, a result is worth a warning (0 to 1)."""


@dataclass(frozen=True)
class AnnotatedCells:
    """Annotation of every cell of a file, in the file's order.

    Attributes
    ----------
    cell_ids
        The file's cell ids, ``(n_cells,)``.
    label_names
        Names of the probability columns, ``(n_classes,)``.
    annotation
        Probabilities and flags, ``(n_cells, ...)``.
    place
        File and element the counts came from.
    n_panel_genes_found
        Genes of the model's panel that the file has.
    warnings
        What a person should know of the input.
    more_columns
        What else is known of each cell, by the name of its column, each ``(n_cells,)``.
    survey
        Which genes the cells express, and some of the cells; None where they came from no file.
    """

    cell_ids: pd.Index
    label_names: tuple[str, ...]
    annotation: Annotation
    place: str
    n_panel_genes_found: int
    warnings: tuple[str, ...]
    more_columns: Mapping[str, pd.Categorical] = field(default_factory=dict)
    survey: Survey | None = None

    @property
    def predicted_labels(self) -> pd.Categorical:
        """Most probable label of each cell, ``(n_cells,)``, with every label as a category."""
        return pd.Categorical.from_codes(self.annotation.codes, categories=list(self.label_names))

    def measure(self) -> dict[str, int | float]:
        """Measure the annotation: cells, mean confidence (0 to 1), flagged cells, panel genes found."""
        quality = self.more_columns.get(keys.QUALITY)
        return {
            "n_cells": len(self.cell_ids),
            "mean_confidence": float(np.mean(self.annotation.confidence, dtype=np.float64)),
            "n_low_information": int(self.annotation.low_information.sum()),
            "n_unassigned": int(self.annotation.unassigned.sum()),
            "n_ood": int(self.annotation.ood.sum()),
            "n_panel_genes_found": self.n_panel_genes_found,
            **({} if quality is None else {"n_poor_quality": int((quality != PASS).sum())}),
        }


def annotate_file(
    bundle: Bundle,
    path: Path,
    *,
    counts_layer: str = "",
    depth_key: str = "",
    device: str = "auto",
    chunk_size: int = CHUNK_SIZE,
    shown_as: Path | None = None,
    scratch: Path | None = None,
    is_sampled: bool = False,
) -> AnnotatedCells:
    """Annotate every cell of an h5ad file.

    Parameters
    ----------
    bundle
        The model.
    path
        h5ad file with raw counts, or log1p values that give them back; never written to.
    counts_layer
        Layer with the counts; empty looks in ``layers["counts"]``, ``.raw``, ``X``.
    depth_key
        obs column with each cell's counts over all genes; empty sums the file's genes.
    device
        Where a network computes.
    chunk_size
        Cells read at a time; the result does not depend on it.
    shown_as
        Name of the file in messages, where ``path`` is a temporary copy.
    scratch
        Folder for a working copy of counts that are stored by gene; None takes the system's.
    is_sampled
        Whether some of the cells are kept for a picture.

    Raises
    ------
    InputFileError, CountsError
        If the file or its counts cannot be used.
    GeneOverlapError
        If it has too few of the model's genes.
    """
    with open_counts(
        path, counts_layer=counts_layer, depth_key=depth_key, shown_as=shown_as, scratch=scratch
    ) as counts_file:
        gene_ids = bundle.spec.match_genes(counts_file.var, place=counts_file.place)
        chunks = FileChunks(
            bundle,
            gene_ids,
            is_mito=find_mito_columns(counts_file.var, gene_ids),
            depth=read_depth(counts_file, depth_key),
            device=device,
            source=str(shown_as or path) if is_sampled else "",
        )
        chunks.annotate_all(counts_file, chunk_size)
        return _collect(chunks, counts_file, bundle, gene_ids)


def _collect(
    chunks: FileChunks, counts_file: CountsFile, bundle: Bundle, gene_ids: pd.Index
) -> AnnotatedCells:
    """Put a file's chunks together."""
    n_found = int(chunks.has_gene.sum())
    warnings = [
        *counts_file.list_notes(),
        *note_restored(counts_file.var, gene_ids, place=counts_file.place, whose="model's"),
        *_list_warnings(counts_file, bundle, n_found=n_found, has_depth=chunks.depth is not None),
    ]
    return AnnotatedCells(
        cell_ids=counts_file.obs.index,
        label_names=bundle.label_names,
        annotation=Annotation.join(chunks.annotations),
        place=counts_file.place,
        n_panel_genes_found=n_found,
        warnings=tuple(warnings),
        more_columns={keys.QUALITY: union_categoricals(chunks.flags)} if chunks.flags else {},
        survey=chunks.survey,
    )


def _list_warnings(
    counts_file: CountsFile, bundle: Bundle, *, n_found: int, has_depth: bool
) -> Iterator[str]:
    """List what may make the result worse than the user expects."""
    n_genes, n_panel = len(counts_file.var), len(bundle.spec.panel)
    if n_found < GOOD_OVERLAP * n_panel:
        yield (
            f"{counts_file.place} has {n_found} of the model's {n_panel} genes ({n_found / n_panel:.1%}): "
            "labels and confidence are worse than the model's evaluation says."
        )
    if not has_depth and n_genes < FEW_GENES:
        yield (
            f"{counts_file.place} has only {n_genes} genes: if it was cut to some genes, its cells look "
            "shallower than they are; name the obs column with their whole depth with --depth-key."
        )
