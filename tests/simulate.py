"""Simulated counts for tests: three cell types with marker genes, one of them rare."""

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

LABELS = ("B cell", "NK cell", "T cell")


def simulate_cells(
    n_cells: int = 240,
    n_genes: int = 300,
    *,
    labels: tuple[str, ...] = LABELS,
    shares: tuple[float, ...] = (0.5, 0.35, 0.15),
    seed: int = 0,
) -> anndata.AnnData:
    """Make raw counts with labels in ``obs["cell_type"]``; each has 20 marker genes."""
    rng = np.random.default_rng(seed)
    codes = rng.choice(len(labels), size=n_cells, p=shares)
    rates = np.tile(rng.gamma(0.6, 1.0, size=n_genes), (len(labels), 1))
    for code in range(len(labels)):
        rates[code, code * 20 : code * 20 + 20] += 3.0
    counts = rng.poisson(rates[codes] * rng.uniform(0.7, 1.3, size=(n_cells, 1)))
    return anndata.AnnData(
        X=csr_matrix(counts.astype(np.float32)),
        obs=pd.DataFrame(
            {"cell_type": np.array(labels)[codes]}, index=[f"cell{cell:04d}" for cell in range(n_cells)]
        ),
        var=pd.DataFrame(index=[f"GENE{gene:04d}" for gene in range(n_genes)]),
    )


def write_cells(path: Path, **options: int) -> Path:
    """Write simulated cells as h5ad."""
    simulate_cells(**options).write_h5ad(path)
    return path
