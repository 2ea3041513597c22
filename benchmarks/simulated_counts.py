"""A labelled h5ad file of UMI-like counts, as large as asked for, written without ever holding it whole.

    python benchmarks/simulated_counts.py FILE --cells 68579 [--genes 32738] [--marker-fold 8]
        [--compression gzip] [--seed 0]

Every cell is a sample of molecules, its depth log-normal, from the gene frequencies of its label. These are
log-normal too, so most counts are 1 and a few are large; a third of the genes is never expressed. About 700
genes are expressed in a cell, as in the 68k PBMC data of Zheng et al. 2017 (*Nature Communications* 8,
14049), whose shape is the default. Each label has markers, which it expresses ``--marker-fold`` times as
strongly as the others do: 8 leaves no doubt of any cell's label, 3 about as much as there is in sorted PBMC.

Cells are drawn in blocks, each from a random stream of its own: the same seed gives the same file, and a
smaller file is the beginning of a larger one.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from anndata.io import sparse_dataset, write_elem
from scipy.sparse import csr_matrix

N_CELLS = 68_579
N_GENES = 32_738
LABEL_KEY = "cell_type"

_LABEL_SHARES = 0.8 ** np.arange(11)
_SILENT_SHARE = 0.35
_SPREAD_OF_GENES = 2.4
_N_MARKERS = 80
MARKER_FOLD = 8.0
_MEAN_DEPTH = 1_290.0
_SPREAD_OF_DEPTH = 0.35
_N_SLOTS = 1 << 20
_BLOCK = 1_024
_BARCODE_LENGTH = 16


@dataclass(frozen=True)
class CountModel:
    """What the cells are drawn from.

    Attributes
    ----------
    gene_of_slot
        Gene of each of ``_N_SLOTS`` equally likely slots, by label, ``(n_labels, n_slots)``: drawing a slot
        draws a gene by its frequency, in one look-up.
    n_genes
        Genes, expressed or not.
    seed
        Seed of every block.
    """

    gene_of_slot: np.ndarray
    n_genes: int
    seed: int


@dataclass(frozen=True)
class CellBlock:
    """Some cells in a row: counts ``(n_cells, n_genes)`` and codes of the labels ``(n_cells,)``."""

    counts: csr_matrix
    codes: np.ndarray


def make_model(n_genes: int = N_GENES, *, seed: int = 0, marker_fold: float = MARKER_FOLD) -> CountModel:
    """Draw the gene frequencies of each label."""
    rng = np.random.default_rng(seed)
    frequencies = rng.lognormal(sigma=_SPREAD_OF_GENES, size=n_genes)
    frequencies[rng.permutation(n_genes)[: int(n_genes * _SILENT_SHARE)]] = 0.0
    candidates = np.argsort(frequencies)[-(n_genes // 5) : -(n_genes // 200)]
    middles = (np.arange(_N_SLOTS) + 0.5) / _N_SLOTS
    tables = []
    for _ in _LABEL_SHARES:
        own = frequencies.copy()
        own[rng.choice(candidates, min(_N_MARKERS, len(candidates)), replace=False)] *= marker_fold
        edges = np.cumsum(own)
        tables.append(np.searchsorted(edges, middles * edges[-1], side="right"))
    gene_of_slot = np.stack(tables).astype(np.min_scalar_type(n_genes - 1))
    return CountModel(gene_of_slot=gene_of_slot, n_genes=n_genes, seed=seed)


def simulate_blocks(model: CountModel, n_cells: int) -> Iterator[CellBlock]:
    """Draw the cells block by block, in order."""
    for number, start in enumerate(range(0, n_cells, _BLOCK)):
        yield _simulate_block(model, number, min(_BLOCK, n_cells - start))


def write_counts(
    path: Path,
    n_cells: int,
    n_genes: int = N_GENES,
    *,
    seed: int = 0,
    marker_fold: float = MARKER_FOLD,
    compression: str | None = None,
) -> None:
    """Write simulated cells as h5ad: counts as float32 CSR in ``X``, labels in ``obs["cell_type"]``."""
    model = make_model(n_genes, seed=seed, marker_fold=marker_fold)
    codes = []
    with h5py.File(path, "w") as file:
        for block in simulate_blocks(model, n_cells):
            if "X" in file:
                sparse_dataset(file["X"]).append(block.counts)
            else:
                write_elem(file, "X", block.counts, dataset_kwargs=_choose_layout(compression))
            codes.append(block.codes)
        names = [f"type {code:02d}" for code in range(len(_LABEL_SHARES))]
        labels = pd.Categorical.from_codes(np.concatenate(codes), categories=names)
        write_elem(file, "obs", pd.DataFrame({LABEL_KEY: labels}, index=_make_barcodes(n_cells)))
        write_elem(file, "var", pd.DataFrame(index=[f"GENE{gene:05d}" for gene in range(n_genes)]))
        file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})


def _simulate_block(model: CountModel, number: int, n_cells: int) -> CellBlock:
    """Draw a whole block and keep its first cells, so that its size does not change them."""
    rng = np.random.default_rng([model.seed, number])
    codes = rng.choice(len(_LABEL_SHARES), size=_BLOCK, p=_LABEL_SHARES / _LABEL_SHARES.sum())
    mean = np.log(_MEAN_DEPTH) - _SPREAD_OF_DEPTH**2 / 2
    depth = np.maximum(rng.lognormal(mean, _SPREAD_OF_DEPTH, size=_BLOCK).astype(np.int64), 1)
    slots = rng.integers(_N_SLOTS, size=depth.sum(), dtype=np.uint32)
    cell_of_molecule = np.repeat(np.arange(_BLOCK, dtype=np.uint32), depth)
    genes = model.gene_of_slot[codes[cell_of_molecule], slots]
    places = np.sort(cell_of_molecule * np.uint32(model.n_genes) + genes)
    starts = np.flatnonzero(np.diff(places, prepend=np.uint32(_BLOCK * model.n_genes)))
    rows, columns = np.divmod(places[starts], np.uint32(model.n_genes))
    counts = csr_matrix(
        (
            np.diff(starts, append=len(places)).astype(np.float32),
            columns.astype(np.int32),
            np.searchsorted(rows, np.arange(_BLOCK + 1)),
        ),
        shape=(_BLOCK, model.n_genes),
    )
    return CellBlock(counts=counts[:n_cells], codes=codes[:n_cells])


def _choose_layout(compression: str | None) -> dict[str, object]:
    """Name the HDF5 settings of the matrix; chunks of 256 kB, row pointers that may pass 2**31."""
    layout: dict[str, object] = {"indptr_dtype": np.dtype(np.int64), "chunks": (1 << 16,)}
    return layout | ({"compression": compression} if compression else {})


def _make_barcodes(n_cells: int) -> np.ndarray:
    """Make distinct barcodes, ``(n_cells,)``; an odd factor permutes the numbers below a power of two."""
    numbers = np.arange(n_cells, dtype=np.uint64) * np.uint64(0x9E3779B1) % np.uint64(4**_BARCODE_LENGTH)
    digits = numbers[:, None] >> np.arange(0, 2 * _BARCODE_LENGTH, 2, dtype=np.uint64) & np.uint64(3)
    letters = np.frombuffer(b"ACGT", dtype="S1")[digits]
    return np.char.add(letters.view(f"S{_BARCODE_LENGTH}").ravel().astype(str), "-1").astype(object)


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("path", type=Path)
    parser.add_argument("--cells", type=int, default=N_CELLS)
    parser.add_argument("--genes", type=int, default=N_GENES)
    parser.add_argument("--marker-fold", type=float, default=MARKER_FOLD)
    parser.add_argument("--compression", choices=["gzip"])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    write_counts(
        options.path,
        options.cells,
        options.genes,
        seed=options.seed,
        marker_fold=options.marker_fold,
        compression=options.compression,
    )


if __name__ == "__main__":
    main()
