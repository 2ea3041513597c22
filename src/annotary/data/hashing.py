"""Content hashes: the same content gives the same hash, in whatever order it is stored."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

_READ_BYTES = 1 << 20


def hash_file(path: Path) -> str:
    """Compute the SHA-256 of a file's bytes, as hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_READ_BYTES):
            digest.update(block)
    return digest.hexdigest()


def hash_source(path: Path) -> str:
    """Compute the SHA-256 of a file's bytes, or of a folder's names and files."""
    if not path.is_dir():
        return hash_file(path)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return hash_strings(f"{file.relative_to(path).as_posix()}\t{hash_file(file)}" for file in files)


def hash_strings(values: Iterable[str]) -> str:
    """Compute the SHA-256 of a sequence of strings; their order counts."""
    digest = hashlib.sha256()
    for value in values:
        encoded = value.encode()
        digest.update(len(encoded).to_bytes(8, "little"))
        digest.update(encoded)
    return digest.hexdigest()


def hash_cell_ids(cell_ids: pd.Index, depth: np.ndarray) -> np.ndarray:
    """Hash each cell's id and depth: enough to tell later whether a model has seen the cell.

    Parameters
    ----------
    cell_ids
        Ids, ``(n_cells,)``; barcodes alone repeat between experiments.
    depth
        Counts of each cell over all its genes, ``(n_cells,)``.

    Returns
    -------
    ``(n_cells,)``, int64.
    """
    digests = [
        hashlib.blake2b(f"{cell_id}\x1f{total:.0f}".encode(), digest_size=8).digest()
        for cell_id, total in zip(cell_ids, depth, strict=True)
    ]
    return np.frombuffer(b"".join(digests), dtype="<i8")


def hash_cells(counts: csr_matrix, cell_ids: pd.Index, gene_ids: pd.Index, *, obs: pd.DataFrame) -> str:
    """Hash counts with their ids, whatever the order of cells, genes, and stored values.

    Parameters
    ----------
    counts
        Raw counts, ``(n_cells, n_genes)``.
    cell_ids, gene_ids
        Unique ids of the rows ``(n_cells,)`` and columns ``(n_genes,)``.
    obs
        What else belongs to each cell (its label, its depth), ``(n_cells, any)``.

    Returns
    -------
    SHA-256 as hexadecimal.
    """
    gene_order = np.argsort(gene_ids.to_numpy(dtype=str), kind="stable")
    ordered = counts[:, gene_order].tocsr()
    ordered.sum_duplicates()
    ordered.eliminate_zeros()
    columns = ordered.indices.astype("<i8")
    values = ordered.data.astype("<i8")
    extras = obs.astype(str).agg("\x1f".join, axis=1).to_numpy()
    cells = []
    for row, cell_id in enumerate(cell_ids.astype(str)):
        span = slice(ordered.indptr[row], ordered.indptr[row + 1])
        digest = hashlib.blake2b(f"{cell_id}\x1f{extras[row]}\x1f".encode(), digest_size=32)
        digest.update(columns[span].tobytes())
        digest.update(values[span].tobytes())
        cells.append(digest.digest())
    whole = hashlib.sha256(hash_strings(gene_ids.to_numpy(dtype=str)[gene_order]).encode())
    for cell in sorted(cells):
        whole.update(cell)
    return whole.hexdigest()
