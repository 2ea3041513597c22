"""Content hashes: the same content gives the same hash, in whatever order it is stored."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from annotary.data.counts import move_columns
from annotary.data.special_files import refuse_special_files

_READ_BYTES = 1 << 20
_DIGEST_BYTES = 32


def hash_file(path: Path) -> str:
    """Compute the SHA-256 of a file's bytes, as hexadecimal.

    Raises
    ------
    InputFileError
        If it is a pipe or a device, which may have no end.
    """
    refuse_special_files(path)
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


class CellHasher:
    """Hashes counts with their ids, chunk by chunk, whatever the order of cells, genes, and stored values.

    Parameters
    ----------
    gene_ids
        Unique ids of the columns, ``(n_genes,)``.
    """

    def __init__(self, gene_ids: pd.Index) -> None:
        names = gene_ids.to_numpy(dtype=str)
        order = np.argsort(names, kind="stable")
        self._whole = hashlib.sha256(hash_strings(names[order]).encode())
        self._target = np.empty(len(names), dtype=np.int32)
        self._target[order] = np.arange(len(names), dtype=np.int32)
        self._digests = bytearray()

    def add(self, counts: csr_matrix, cell_ids: pd.Index, *, obs: pd.DataFrame) -> None:
        """Add cells.

        Parameters
        ----------
        counts
            Raw counts, ``(n_cells, n_genes)``.
        cell_ids
            Unique ids, ``(n_cells,)``.
        obs
            What else belongs to each cell (its label, its depth), ``(n_cells, any)``.
        """
        ordered = move_columns(counts.tocsr(), self._target, n_columns=len(self._target))
        if not ordered.data.all():
            ordered.eliminate_zeros()
        columns, values = ordered.indices.astype("<i4"), ordered.data.astype("<i4")
        columns_of = [obs[name].astype(str) for name in obs]
        starts = ordered.indptr.tolist()
        for row, (cell_id, *belongs) in enumerate(zip(cell_ids.astype(str), *columns_of, strict=True)):
            first, last = starts[row], starts[row + 1]
            text = "\x1f".join([cell_id, *belongs, ""])
            digest = hashlib.blake2b(text.encode(), digest_size=_DIGEST_BYTES)
            digest.update(columns[first:last])
            digest.update(values[first:last])
            self._digests += digest.digest()

    def digest(self) -> str:
        """Give the SHA-256 of all cells, as hexadecimal."""
        cells = np.frombuffer(self._digests, dtype=f"S{_DIGEST_BYTES}")
        cells.sort()  # in place: the order in which cells were added is of no use
        whole = self._whole.copy()
        whole.update(cells.tobytes())
        return whole.hexdigest()


def hash_cells(counts: csr_matrix, cell_ids: pd.Index, gene_ids: pd.Index, *, obs: pd.DataFrame) -> str:
    """Hash cells that are all in memory, as :class:`CellHasher` does."""
    hasher = CellHasher(gene_ids)
    hasher.add(counts, cell_ids, obs=obs)
    return hasher.digest()


def hash_rows(counts: csr_matrix) -> np.ndarray:
    """Hash each row's columns and values, ``(n_rows,)``, uint64: equal rows have equal hashes.

    Quick and not for security: it finds rows that may be equal.
    """
    mixed = counts.indices.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed += counts.data.astype(np.uint64) * np.uint64(0xC2B2AE3D27D4EB4F)
    mixed ^= mixed >> np.uint64(29)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(32)
    sums = np.concatenate([np.zeros(1, dtype=np.uint64), np.cumsum(mixed, dtype=np.uint64)])
    return sums[counts.indptr[1:]] - sums[counts.indptr[:-1]]
