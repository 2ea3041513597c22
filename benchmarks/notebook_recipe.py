"""Preprocess the way the notebook does that this project grew from: a dense array first.

    python benchmarks/notebook_recipe.py FILE CELLS FOLDER

The array of cells x genes lives as long as the notebook does. Leaving out doublets makes a view of it, which
becomes a copy at the first filter; the second filter copies again. Then come the sparse matrix, the file that
is written and read back, a copy of the counts, log counts, highly variable genes, the split by cells and the
dense training and test cells. Doublets are not looked for: no cell is left out for that.
"""

import argparse
from pathlib import Path

import anndata
import h5py
import numpy as np
import scanpy as sc
from anndata.io import read_elem, sparse_dataset
from scipy.sparse import csr_matrix
from sklearn.model_selection import train_test_split

LABEL_KEY = "cell_type"


def preprocess(source: Path, n_cells: int, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return log counts of the chosen genes in the training and the test cells."""
    with h5py.File(source) as file:
        expression = csr_matrix(sparse_dataset(file["X"])[:n_cells]).toarray()
        obs, var = read_elem(file["obs"]).iloc[:n_cells], read_elem(file["var"])
    cells = anndata.AnnData(X=expression, obs=obs, var=var)
    cells = cells[np.ones(n_cells, dtype=bool)]
    sc.pp.filter_cells(cells, min_genes=200)
    sc.pp.filter_genes(cells, min_cells=10)
    cells.X = csr_matrix(cells.X)
    path = folder / "notebook.h5ad"
    cells.write_h5ad(path)

    cells = anndata.read_h5ad(path)
    counts = cells.copy()
    sc.pp.normalize_total(cells, target_sum=1e4)
    sc.pp.log1p(cells)
    sc.pp.highly_variable_genes(cells, n_top_genes=1200)
    chosen = cells.var["highly_variable"].to_numpy()
    cells, counts = cells[:, chosen], counts[:, chosen]
    train, test = train_test_split(
        np.arange(cells.n_obs), test_size=0.2, stratify=cells.obs[LABEL_KEY], random_state=42
    )
    return cells[train].X.toarray(), cells[test].X.toarray()


def main() -> None:
    """Preprocess and say what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("cells", type=int)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    train, test = preprocess(options.source, options.cells, options.folder)
    print(f"training {train.shape}, test {test.shape}")


if __name__ == "__main__":
    main()
