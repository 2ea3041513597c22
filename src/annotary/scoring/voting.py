"""Majority voting: each over-cluster gets the label that most of its cells have, as in CellTypist."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from annotary import keys
from annotary.config import ScoreConfig
from annotary.data.h5ad import CountsFile, open_counts
from annotary.data.obs import read_depth
from annotary.errors import InputFileError
from annotary.models.bundle import Bundle
from annotary.pulse import computing, reading
from annotary.quality.prepare import log_normalize
from annotary.scoring.annotate import AnnotatedCells
from annotary.scoring.over_clustering import over_cluster

HETEROGENEOUS = "Heterogeneous"


def vote(labels: pd.Categorical, clusters: pd.Categorical, *, min_prop: float) -> pd.Categorical:
    """Give each cell the label of most cells of its cluster.

    Parameters
    ----------
    labels
        Predicted labels, ``(n_cells,)``.
    clusters
        Over-clusters, ``(n_cells,)``; a cell without one keeps its own label.
    min_prop
        Clusters in which no label has this share (0 to 1) become ``Heterogeneous``.

    Returns
    -------
    ``(n_cells,)``. Of labels with as many votes, the first in the alphabet wins.
    """
    order = np.argsort(np.asarray(labels.categories, dtype=str), kind="stable")
    names = [str(labels.categories[code]) for code in order]
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    codes, has_cluster = rank[labels.codes], clusters.codes >= 0
    shape = (len(clusters.categories), len(names))
    pairs = clusters.codes[has_cluster].astype(np.int64) * shape[1] + codes[has_cluster]
    votes = np.bincount(pairs, minlength=shape[0] * shape[1]).reshape(shape)
    share = votes.max(axis=1, initial=0) / np.maximum(votes.sum(axis=1), 1)
    winner = np.where(share < min_prop, len(names), votes.argmax(axis=1))
    result = codes.copy()
    result[has_cluster] = winner[clusters.codes[has_cluster]]
    found = pd.Categorical.from_codes(result, categories=[*names, HETEROGENEOUS])
    return found if len(names) in result else found.remove_categories([HETEROGENEOUS])


def add_votes(cells: AnnotatedCells, bundle: Bundle, path: Path, config: ScoreConfig) -> AnnotatedCells:
    """Add the columns ``over_clustering`` and ``majority_voting``.

    Raises
    ------
    InputFileError
        If the column with over-clusters is not there.
    """
    with open_counts(path, counts_layer=config.counts_layer, depth_key=config.depth_key) as counts_file:
        if config.cluster_key:
            clusters = _read_clusters(counts_file, config.cluster_key, cells.place)
        else:
            with computing():
                numbers = over_cluster(
                    lambda: reading(_iter_log_expr(counts_file, bundle, config)), counts_file.n_cells
                )
            clusters = pd.Categorical(numbers.astype(str))
    majority = vote(cells.predicted_labels, clusters, min_prop=config.min_prop)
    added = {keys.OVER_CLUSTERING: clusters, keys.MAJORITY_VOTING: majority}
    return replace(cells, more_columns={**cells.more_columns, **added})


def _read_clusters(counts_file: CountsFile, key: str, place: str) -> pd.Categorical:
    """Read over-clusters from a column of obs, ``(n_cells,)``, as text."""
    if key not in counts_file.obs:
        raise InputFileError(
            f"{place.rsplit(': ', 1)[0]}: obs[{key!r}]",
            expected="to be a column of clusters",
            found="no such column among " + (", ".join(map(str, counts_file.obs.columns)) or "none"),
            remedy="Name another column with --cluster-key, or leave it out.",
        )
    column = counts_file.obs[key]
    return pd.Categorical(column.astype(str).where(column.notna()))


def _iter_log_expr(counts_file: CountsFile, bundle: Bundle, config: ScoreConfig) -> Iterator[csr_matrix]:
    """Read log-normalised expression of the model's genes, ``(n_chunk, n_panel)`` at a time."""
    gene_ids = bundle.spec.match_genes(counts_file.var, place=counts_file.place)
    depth = read_depth(counts_file, config.depth_key)
    for start, counts in counts_file.iter_chunks(config.chunk_size):
        rows = slice(start, start + counts.shape[0])
        prepared = bundle.spec.prepare(counts, gene_ids, depth=None if depth is None else depth[rows])
        yield log_normalize(prepared, target_sum=bundle.spec.target_sum)
