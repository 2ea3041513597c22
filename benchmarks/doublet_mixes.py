"""Cells with known doublets among them, scored by both callers, and what a rule takes of them.

A known doublet is the sum of the counts of two cells of a file.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix, vstack

from annotary import keys
from annotary.data.discovery import Source
from annotary.data.labels import read_labels
from annotary.data.source import name_columns, read_cells
from annotary.quality import scrublet, solo
from annotary.quality.doublet_limits import (
    RATE_PER_1000_CELLS,
    count_explained,
    expect_rate,
    find_excess,
    raise_threshold,
)
from annotary.quality.doublets import N_TOP_GENES
from annotary.quality.variable_genes import find_variable_genes

LABEL_KEY = "cell_type"
SEED = 42
LABEL_LIMIT = 3.0
SOLO_HALF, SOLO, SOLO_TWICE, SCRUBLET_ITS_OWN, SCRUBLET = (
    "SOLO, above 0.5",
    "SOLO, bounded",
    "SOLO, bounded by twice the rate",
    "Scrublet, its threshold",
    "Scrublet, bounded",
)
RULES = (SOLO_HALF, SOLO, SOLO_TWICE, SCRUBLET_ITS_OWN, SCRUBLET)
CELL, ACROSS, WITHIN = "cell", "across", "within"
_MIN_GENES = 200


@dataclass(frozen=True)
class Mix:
    """What is mixed into which cells.

    Attributes
    ----------
    file
        Labelled counts.
    rate
        Share of doublets among all cells, half of them of two labels, half of one; 0 mixes in none.
    seed
        Seed of the draw and of the callers.
    """

    file: Path
    rate: float
    seed: int

    @property
    def name(self) -> str:
        """Name of the file that its scores are kept in."""
        return f"{self.file.stem}_{self.rate:g}_{self.seed}.csv"


def score_mix(mix: Mix, folder: Path) -> pd.DataFrame:
    """Score every cell by both callers, or read the scores of an earlier run.

    Returns
    -------
    ``label`` (a doublet has that of its richer cell), ``kind`` (``cell``, ``across`` or ``within`` labels),
    ``solo``, ``scrublet`` and the latter's ``threshold``, ``(n_cells, 5)``.
    """
    path = folder / mix.name
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        _score(make_mix(mix), mix.seed).to_csv(path, index_label="cell_id")
    return pd.read_csv(path, index_col="cell_id", float_precision="round_trip")


def choose_rate(file: Path) -> float:
    """Choose the rate of doublets to mix in: that of a lane with a file's cells."""
    return round(expect_rate(len(make_mix(Mix(file, 0, SEED)).obs)), 4)


def take_doublets(table: pd.DataFrame, rule: str) -> np.ndarray:
    """Say which cells a rule takes for doublets, ``(n_cells,)``: as by default, or unbounded."""
    is_solo = rule in (SOLO_HALF, SOLO, SOLO_TWICE)
    score = table["solo" if is_solo else "scrublet"].to_numpy()
    threshold = 0.5 if is_solo else float(table["threshold"].iloc[0])
    if rule in (SOLO_HALF, SCRUBLET_ITS_OWN):
        return score > threshold
    rate_per_1000 = (2 if rule == SOLO_TWICE else 1) * RATE_PER_1000_CELLS
    rate = expect_rate(len(table), rate_per_1000=rate_per_1000)
    called = score > raise_threshold(score, threshold, most=count_explained(len(table), rate))
    rates = np.full(len(table), rate)
    return called & ~find_excess(called, score, table[keys.LABEL], rates, multiple=LABEL_LIMIT)


def make_mix(mix: Mix) -> anndata.AnnData:
    """Read a file's good, labelled cells, and append doublets to them."""
    adata = anndata.read_h5ad(mix.file)
    labels = read_labels(adata.obs, LABEL_KEY, place=mix.file.name)
    counts = csr_matrix(adata.X)
    good = labels.notna().to_numpy() & (np.diff(counts.indptr) >= _MIN_GENES)
    counts, labels = counts[good], labels[good].to_numpy(dtype=object)
    n_doublets = round(mix.rate * len(labels) / (1 - mix.rate))
    first, second, kinds = _draw_pairs(labels, n_doublets, np.random.default_rng(mix.seed))
    depth = counts.sum(axis=1).A1
    richer = np.where(depth[first] >= depth[second], first, second)
    obs = pd.DataFrame(
        {
            LABEL_KEY: np.concatenate([labels, labels[richer]]),
            "kind": np.concatenate([np.full(len(labels), CELL), kinds]),
        },
        index=[f"cell{number}" for number in range(len(labels) + n_doublets)],
    )
    mixed = vstack([counts, counts[first] + counts[second]], format="csr")
    return anndata.AnnData(X=mixed, obs=obs, var=pd.DataFrame(index=adata.var_names))


def _draw_pairs(
    labels: np.ndarray, n_pairs: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw pairs of cells at random, and keep as many of two labels as of one: cells and kind of each."""
    kinds = np.where(np.arange(n_pairs) % 2 == 0, ACROSS, WITHIN).astype(object)
    pairs = np.empty((n_pairs, 2), dtype=np.int64)
    for number, kind in enumerate(kinds):
        one, other = rng.choice(len(labels), size=2, replace=False)
        while (labels[one] == labels[other]) != (kind == WITHIN):
            one, other = rng.choice(len(labels), size=2, replace=False)
        pairs[number] = one, other
    return pairs[:, 0], pairs[:, 1], kinds


def _score(adata: anndata.AnnData, seed: int) -> pd.DataFrame:
    """Score cells as preprocess does, all as one lane."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mixed.h5ad"
        adata.write_h5ad(path)
        source = Source(name=path.stem, path=path, h5ad=path)
        columns = name_columns(
            is_embedded=False, label_key=LABEL_KEY, depth_key="", n_genes_key="", group_key="", lane_key=""
        )
        with read_cells([source], columns, Path(folder), counts_layer="", label_table=None) as cells:
            counts = cells.take_genes(find_variable_genes(cells, n_top_genes=N_TOP_GENES)).counts.load()
            order = cells.obs.index
    counts = csr_matrix(counts, dtype=np.float32)
    by_scrublet = scrublet.call_lane(counts, seed=seed)
    by_solo = solo.call_lane(counts, max_epochs=0, seed=seed)
    table = adata.obs.loc[order].rename(columns={LABEL_KEY: keys.LABEL})
    return table.assign(
        solo=by_solo.probability, scrublet=by_scrublet.probability, threshold=by_scrublet.threshold
    )
