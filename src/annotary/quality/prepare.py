"""How cells are prepared for a model: one code for training and for scoring."""

import json
from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from annotary.data.counts import move_columns, sum_depth
from annotary.data.genes import check_overlap, choose_gene_column
from annotary.data.hashing import hash_strings

TARGET_SUM = 1e4
LOG1P = "log1p"
COUNTS = "counts"
MIN_OVERLAP = 0.5


@dataclass(frozen=True)
class PreparedCells:
    """Cells as every model takes them.

    Attributes
    ----------
    counts
        Raw counts of the panel genes, ``(n_cells, n_panel)``, float32.
    depth
        Counts of each cell over all its genes, ``(n_cells,)``, float64.
    """

    counts: csr_matrix
    depth: np.ndarray

    def __len__(self) -> int:
        return self.counts.shape[0]

    def __getitem__(self, rows: slice | np.ndarray) -> "PreparedCells":
        return PreparedCells(counts=self.counts[rows], depth=self.depth[rows])


@dataclass(frozen=True)
class InputSpec:
    """What a model needs of its input; it travels inside the model.

    Attributes
    ----------
    gene_ids
        Panel genes in the model's order, ``(n_panel,)``.
    id_type
        ``symbol`` or ``ensembl``.
    target_sum
        Counts that each cell is scaled to before log1p.
    transform
        What the model takes: ``log1p`` of scaled counts, or ``counts``, which it makes tokens of. How far
        a cell is from others is measured on ``log1p`` whatever the model takes.
    min_overlap
        Smallest share of the panel that a file must have, 0 to 1.
    min_panel_genes
        Expressed panel genes of the poorest training cell; cells below are flagged.
    """

    gene_ids: tuple[str, ...]
    id_type: str
    min_panel_genes: int
    target_sum: float = TARGET_SUM
    transform: str = LOG1P
    min_overlap: float = MIN_OVERLAP

    @cached_property
    def panel(self) -> pd.Index:
        """Panel genes, ``(n_panel,)``."""
        return pd.Index(self.gene_ids)

    @property
    def panel_hash(self) -> str:
        """SHA-256 of the panel genes in their order."""
        return hash_panel(self.panel)

    def match_genes(self, var: pd.DataFrame, *, place: str) -> pd.Index:
        """Find the ids of a file's genes that match the panel, in its index or a column.

        Returns
        -------
        Ids of the file's genes, ``(n_input_genes,)``.

        Raises
        ------
        GeneOverlapError
            If too few panel genes are there.
        """
        gene_ids = choose_gene_column(var, self.panel)
        check_overlap(gene_ids, self.panel, min_overlap=self.min_overlap, place=place)
        return gene_ids

    def prepare(
        self, counts: csr_matrix, gene_ids: pd.Index, *, depth: np.ndarray | None = None
    ) -> PreparedCells:
        """Bring raw counts to the panel.

        Parameters
        ----------
        counts
            Raw counts of all genes, ``(n_cells, n_input_genes)``.
        gene_ids
            Ids of the columns without version suffixes, ``(n_input_genes,)``.
        depth
            Counts of each cell over all its genes, ``(n_cells,)``; None sums the columns.
        """
        return self.prepare_found(counts, self.find_genes(gene_ids), depth=depth)

    def find_genes(self, gene_ids: pd.Index) -> np.ndarray:
        """Find the panel position of each input gene, ``(n_input_genes,)``; -1 where the panel has it not."""
        return self.panel.get_indexer(gene_ids)

    def prepare_found(
        self, counts: csr_matrix, positions: np.ndarray, *, depth: np.ndarray | None = None
    ) -> PreparedCells:
        """Bring raw counts to the panel, as :meth:`prepare` does, by what :meth:`find_genes` found."""
        if depth is None:
            depth = sum_depth(counts)
        panel_counts = move_columns(counts, positions, n_columns=len(self.panel))
        return PreparedCells(
            counts=panel_counts.astype(np.float32, copy=False), depth=np.asarray(depth, np.float64)
        )

    def to_json(self) -> str:
        """Write as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "InputSpec":
        """Read what :meth:`to_json` wrote."""
        values = json.loads(text)
        return cls(**values | {"gene_ids": tuple(values["gene_ids"])})


def hash_panel(panel: pd.Index) -> str:
    """Hash panel genes in their order."""
    return hash_strings(panel)


def log_normalize(cells: PreparedCells, *, target_sum: float) -> csr_matrix:
    """Scale each cell to ``target_sum`` counts over all its genes, then take log1p.

    Returns
    -------
    Log-normalised values, ``(n_cells, n_panel)``, float32. A cell without counts stays zero.
    """
    scale = np.divide(target_sum, cells.depth, out=np.zeros_like(cells.depth), where=cells.depth > 0)
    log_expr = cells.counts.astype(np.float32, copy=True)
    log_expr.data *= np.repeat(scale, np.diff(log_expr.indptr)).astype(np.float32)
    np.log1p(log_expr.data, out=log_expr.data)
    return log_expr
