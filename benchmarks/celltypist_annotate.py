"""CellTypist as its users run it: train a model, or annotate a file of raw counts and write it again.

    python benchmarks/celltypist_annotate.py train COUNTS MODEL
    python benchmarks/celltypist_annotate.py annotate COUNTS MODEL ANNOTATED

It needs ``pip install celltypist``. CellTypist 1.7 trains with a parameter that scikit-learn dropped in 1.8.
It is left out here, which makes one multinomial model of many binary ones; both have as many weights.
"""

import sys
from pathlib import Path

import anndata
import celltypist
import scanpy
from sklearn.linear_model import LogisticRegression

N_GENES = 1_200
"""As many as the champion's panel has."""


def read_normalised(path: Path) -> anndata.AnnData:
    """Read counts as CellTypist wants them: 10,000 a cell, log1p."""
    adata = anndata.read_h5ad(path)
    scanpy.pp.normalize_total(adata, target_sum=1e4)
    scanpy.pp.log1p(adata)
    return adata


def make_classifier(multi_class: str = "", **options: object) -> LogisticRegression:
    """Make the classifier that CellTypist asks for."""
    return LogisticRegression(**options)


def main() -> None:
    """Train or annotate."""
    action, counts, model, *rest = sys.argv[1:]
    adata = read_normalised(Path(counts))
    if action == "train":
        sys.modules["celltypist.train"].LogisticRegression = make_classifier
        scanpy.pp.highly_variable_genes(adata, n_top_genes=N_GENES, subset=True)
        celltypist.train(adata, labels="cell_type", check_expression=False).write(model)
    else:
        found = celltypist.annotate(adata, model=celltypist.Model.load(model))
        found.to_adata().write_h5ad(rest[0])


if __name__ == "__main__":
    main()
