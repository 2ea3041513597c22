"""Which cell is on which side, by the way of splitting that was asked for."""

import numpy as np

from annotary import keys
from annotary.config import PreprocessConfig
from annotary.data.source import Cells
from annotary.data.splits import split_by_group, split_stratified
from annotary.log import say
from annotary.quality.gene_tally import tally_genes
from annotary.quality.panel import rank_genes
from annotary.quality.prepare import TARGET_SUM, PreparedCells, log_normalize


def split_cells(
    cells: Cells, codes: np.ndarray, config: PreprocessConfig, *, group_column: str
) -> tuple[np.ndarray, np.ndarray | None]:
    """Put each cell on a side.

    Parameters
    ----------
    cells, codes
        Cells ``(n_cells, n_genes)`` and their encoded labels ``(n_cells,)``.
    config
        Which way to split, fractions and seed.
    group_column
        Name of the group column in the input, for messages.

    Returns
    -------
    Side of each cell, ``(n_cells,)``, and its group or cluster, which is on one
    side as a whole; None for a stratified split.
    """
    if config.split == "stratified":
        return _split_stratified(cells, codes, config), None
    if config.split == "group":
        groups, place = cells.obs[keys.GROUP].to_numpy(dtype=str), f"{cells.place}: obs[{group_column!r}]"
    else:
        groups, place = _find_clusters(cells, codes, config), f"{cells.place}: clusters"
    sides = split_by_group(
        codes,
        groups,
        val_fraction=config.val_fraction,
        test_fraction=config.test_fraction,
        seed=config.seed,
        place=place,
    )
    return sides, groups


def _split_stratified(cells: Cells, codes: np.ndarray, config: PreprocessConfig) -> np.ndarray:
    """Split cells one by one within each label, ``(n_cells,)``."""
    return split_stratified(
        cells.obs.index,
        codes,
        val_fraction=config.val_fraction,
        test_fraction=config.test_fraction,
        rng=np.random.default_rng(config.seed),
    )


def _find_clusters(cells: Cells, codes: np.ndarray, config: PreprocessConfig) -> np.ndarray:
    """Cluster the cells by what a provisional training side says: genes and components, ``(n_cells,)``."""
    from annotary.quality.clusters import find_clusters  # numba and igraph take seconds to import

    is_training = _split_stratified(cells, codes, config) == keys.TRAIN
    depth = cells.obs[keys.DEPTH].to_numpy(dtype=np.float64)
    tally = tally_genes(cells, codes, is_training, method=config.panel_method)
    common = tally.n_expressing >= config.min_cells
    table = rank_genes(tally, cells.gene_ids, n_top_genes=config.n_top_genes, among=common)
    panel = np.flatnonzero(cells.gene_ids.isin(table.index[table[keys.IN_PANEL]]))
    counts = cells.take_genes(panel).counts.load()
    log_expr = log_normalize(PreparedCells(counts=counts, depth=depth), target_sum=TARGET_SUM)
    clusters = find_clusters(
        log_expr,
        cells.obs.index,
        is_training,
        resolution=config.cluster_resolution,
        seed=config.seed,
        codes=codes,
    )
    say(f"{len(np.unique(clusters))} clusters of similar cells, each on one side as a whole")
    return clusters
