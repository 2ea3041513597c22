"""Annotating cells that are in memory: an AnnData object, or a table of counts."""

import tempfile
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from annotary import keys
from annotary.data.counts import validate_counts
from annotary.data.genes import count_shared
from annotary.errors import CountsError, InputFileError
from annotary.models.bundle import Annotation, Bundle
from annotary.scoring.annotate import CHUNK_SIZE, AnnotatedCells, annotate_file


def annotate_adata(
    bundle: Bundle,
    adata: anndata.AnnData,
    *,
    counts_layer: str = "",
    depth_key: str = "",
    device: str = "auto",
    chunk_size: int = CHUNK_SIZE,
) -> AnnotatedCells:
    """Annotate an AnnData object just as :func:`annotate_file` annotates its file.

    What of it can matter is written to a temporary file; the object is not changed. Parameters, result
    and errors are those of :func:`annotate_file`.
    """
    layers = [name for name in (counts_layer or keys.COUNTS_LAYER,) if name in adata.layers]
    slim = anndata.AnnData(
        X=adata.X,
        obs=adata.obs[[name for name in (depth_key,) if name in adata.obs]],
        var=adata.var,
        layers={name: adata.layers[name] for name in layers},
    )
    slim.raw = adata.raw.to_adata() if adata.raw is not None else None
    with tempfile.TemporaryDirectory(prefix="annotary-") as folder:
        path = Path(folder) / "cells.h5ad"
        slim.write_h5ad(path)
        return annotate_file(
            bundle,
            path,
            counts_layer=counts_layer,
            depth_key=depth_key,
            device=device,
            chunk_size=chunk_size,
            shown_as=Path("AnnData object"),
        )


def annotate_table(
    bundle: Bundle,
    table: pd.DataFrame,
    *,
    depth_key: str = "",
    device: str = "auto",
    chunk_size: int = CHUNK_SIZE,
) -> AnnotatedCells:
    """Annotate a table of raw counts.

    Parameters
    ----------
    bundle
        The model.
    table
        One row a cell, one column a gene, named by it, and perhaps the column ``depth_key``,
        ``(n_cells, n_input_genes)``; an empty value is no count.
    depth_key
        Column with each cell's counts over all genes; empty sums the row.
    device
        Where a network computes.
    chunk_size
        Cells annotated at a time; the result does not depend on it.

    Raises
    ------
    CountsError
        If a column holds anything but raw counts, or there is no cell.
    InputFileError
        If the depth column is missing or holds no counts.
    GeneOverlapError
        If too few of the model's genes are among the columns.
    """
    depth = _take_depth(table, depth_key) if depth_key else None
    genes = table.drop(columns=depth_key) if depth_key else table
    gene_ids = bundle.spec.match_genes(pd.DataFrame(index=genes.columns.astype(str)), place="table")
    parts = []
    for start in range(0, max(len(genes), 1), chunk_size):
        rows = slice(start, start + chunk_size)
        cells = bundle.spec.prepare(
            _read_counts(genes.iloc[rows]), gene_ids, depth=None if depth is None else depth[rows]
        )
        parts.append(bundle.annotate_prepared(cells, device=device))
    return AnnotatedCells(
        cell_ids=table.index,
        label_names=bundle.label_names,
        annotation=Annotation.join(parts),
        place="table",
        n_panel_genes_found=count_shared(gene_ids, bundle.spec.panel),
        warnings=(),
    )


def _read_counts(genes: pd.DataFrame) -> csr_matrix:
    """Read validated counts of a table, ``(n_cells, n_genes)``, float32."""
    try:
        values = genes.to_numpy(dtype=np.float64)
    except (TypeError, ValueError) as error:
        strays = [name for name, column in genes.items() if not pd.api.types.is_numeric_dtype(column)]
        raise CountsError(
            "table",
            expected="counts in every column but the one that --depth-key names",
            found=f"other values in the column {str(strays[0])!r}" if strays else str(error),
            remedy="Pass genes as columns, and cell ids as the index.",
        ) from error
    counts = csr_matrix(values)
    validate_counts(counts, place="table", cell_ids=genes.index, gene_ids=genes.columns)
    return counts.astype(np.float32)


def _take_depth(table: pd.DataFrame, depth_key: str) -> np.ndarray:
    """Take the column with each cell's depth, ``(n_cells,)``."""
    if depth_key not in table:
        found = "no such column"
    else:
        depth = pd.to_numeric(table[depth_key], errors="coerce").to_numpy(dtype=np.float64)
        if np.isfinite(depth).all() and (depth >= 0).all():
            return depth
        found = "values that are none"
    raise InputFileError(
        f"table: column {depth_key!r}",
        expected="each cell's counts over all its genes",
        found=found,
        remedy="Name another column with depth_key, or none.",
    )
