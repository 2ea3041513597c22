"""The row chunks of one file, annotated one after the other."""

import contextlib

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from annotary.data.genes import find_mito_genes
from annotary.data.h5ad import CountsFile
from annotary.models.bundle import Annotation, Bundle
from annotary.progress import track
from annotary.pulse import computing, reading
from annotary.quality.prepare import PreparedCells
from annotary.scoring.cell_quality import flag_quality
from annotary.scoring.reading_ahead import read_ahead
from annotary.scoring.survey import CellSample, Survey


class FileChunks:
    """Annotates a file chunk by chunk, and keeps what is to be known of all its cells.

    Parameters
    ----------
    bundle
        The model.
    gene_ids
        Ids of the file's genes, ``(n_input_genes,)``.
    depth
        Counts of each cell over all its genes, ``(n_cells,)``; None where the file has all of them.
    device
        Where a network computes.
    source
        Name of the file, for a sample of its cells; empty for no sample.

    Attributes
    ----------
    has_gene
        Panel genes that the file has, ``(n_panel,)``, bool.
    annotations, flags
        Annotation of each chunk, and its quality where the model has thresholds.
    survey
        Which genes all cells express, and some of the cells; None before the first chunk.
    """

    def __init__(
        self, bundle: Bundle, gene_ids: pd.Index, *, depth: np.ndarray | None, device: str, source: str
    ) -> None:
        self.depth = depth
        self.has_gene: np.ndarray = bundle.spec.panel.isin(gene_ids)
        self.annotations: list[Annotation] = []
        self.flags: list[pd.Categorical] = []
        self.survey: Survey | None = None
        self._bundle = bundle
        self._positions = bundle.spec.find_genes(gene_ids)
        self._is_mito = find_mito_genes(gene_ids).astype(np.float64)
        self._device = device
        self._source = source
        self._rng = np.random.default_rng(0)

    def annotate_all(self, counts_file: CountsFile, chunk_size: int) -> None:
        """Annotate all chunks in order, while the next one is read and checked."""
        with (
            track(None, counts_file.path.name, total=counts_file.n_cells, unit="cell") as bar,
            contextlib.closing(read_ahead(reading(counts_file.iter_chunks(chunk_size)))) as chunks,
        ):
            for start, counts in chunks:
                self._annotate(counts, slice(start, start + counts.shape[0]))
                bar.update(counts.shape[0])

    def _annotate(self, counts: csr_matrix, rows: slice) -> None:
        """Annotate the next rows, ``(n_chunk, n_input_genes)``."""
        depth = None if self.depth is None else self.depth[rows]
        cells = self._bundle.spec.prepare_found(counts, self._positions, depth=depth)
        with computing():
            annotation = self._bundle.annotate_prepared(cells, device=self._device)
        self.annotations.append(annotation)
        if self._bundle.profile:
            flags = flag_quality(
                counts,
                cells.depth,
                thresholds=self._bundle.profile.thresholds,
                is_mito=self._is_mito,
                is_cut=depth is not None,
            )
            self.flags.append(flags)
        found = Survey.count(cells, self.has_gene, self._sample(cells, annotation))
        self.survey = self.survey.join(found) if self.survey else found

    def _sample(self, cells: PreparedCells, annotation: Annotation) -> CellSample | None:
        """Draw a lot for each cell, if a sample is wanted."""
        if not self._source:
            return None
        sources = np.full(len(cells), self._source, dtype=object)
        return CellSample(cells, annotation.codes, sources, lots=self._rng.random(len(cells)))
