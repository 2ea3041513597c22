"""Raw counts of an h5ad file, read in row chunks."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from annotary import keys
from annotary.data.counts import validate_counts
from annotary.data.damage import READERS_RAISE, describe_damage
from annotary.data.h5ad_elements import find_genes, open_matrix, read_table, refuse_sizes
from annotary.data.hdf5 import open_hdf5
from annotary.data.modalities import refuse_modalities
from annotary.data.recover import Log1pScale, find_scale, recover_counts
from annotary.data.sparse import RowsOnDisk, split_rows
from annotary.errors import CountsError, InputFileError

_PROBE_CELLS = 64


@dataclass(frozen=True)
class CountsFile:
    """Raw counts of an open h5ad file, with the tables that belong to them.

    Attributes
    ----------
    path
        The file.
    place
        File and element, for messages.
    obs
        Cell table, ``(n_cells, any)``.
    var
        Gene table of the counts' columns, ``(n_genes, any)``; gene expression only.
    """

    path: Path
    place: str
    obs: pd.DataFrame
    var: pd.DataFrame
    _matrix: RowsOnDisk
    _is_gene: np.ndarray
    _scale: Log1pScale | None = None
    _depth: np.ndarray | None = None

    @property
    def n_cells(self) -> int:
        """Cells in the file."""
        return len(self.obs)

    @property
    def is_recovered(self) -> bool:
        """Whether the file holds log1p values, from which the counts are recovered."""
        return self._scale is not None

    def iter_chunks(self, chunk_size: int) -> Iterator[tuple[int, csr_matrix]]:
        """Read validated counts, ``chunk_size`` cells at a time; fewer where they would get large.

        Yields
        ------
        First cell's position, and counts ``(at most chunk_size, n_genes)`` as float32.

        Raises
        ------
        CountsError
            If a value is no raw count, or the counts cannot be recovered from it.
        InputFileError
            If the file ends early or is damaged.
        """
        for start, stop in split_rows(self._matrix, chunk_size):
            counts = self._read_rows(start, stop)
            cell_ids, gene_ids = self.obs.index[start:stop], self.var.index
            if self._scale is None:
                validate_counts(counts, place=self.place, cell_ids=cell_ids, gene_ids=gene_ids)
            else:
                counts = recover_counts(
                    counts,
                    depth=None if self._depth is None else self._depth[start:stop],
                    place=self.place,
                    cell_ids=cell_ids,
                    gene_ids=gene_ids,
                    scale=self._scale,
                )
            yield start, counts.astype(np.float32, copy=False)

    def probe(self) -> None:
        """Check the first cells.

        Raises
        ------
        CountsError
            If a value is no raw count.
        """
        for _ in self.iter_chunks(_PROBE_CELLS):
            return

    def recover(self, depth_key: str) -> "CountsFile":
        """Take the values as log1p values, and try the first cells.

        Raises
        ------
        CountsError
            If they are no log1p values of scaled counts.
        """
        depth = None
        if depth_key in self.obs:
            depth = pd.to_numeric(self.obs[depth_key], errors="coerce").to_numpy(dtype=np.float64)
        stop = min(_PROBE_CELLS, self.n_cells)
        scale = find_scale(
            self._read_rows(0, stop),
            depth=None if depth is None else depth[:stop],
            place=self.place,
            cell_ids=self.obs.index[:stop],
            gene_ids=self.var.index,
        )
        return replace(self, place=f"{self.place} (log1p, counts recovered)", _scale=scale, _depth=depth)

    def _read_rows(self, start: int, stop: int) -> csr_matrix:
        """Read rows in their own dtype, without columns that are no genes."""
        try:
            rows = self._matrix[start:stop]
        except READERS_RAISE as error:
            element = self.place.removeprefix(f"{self.path}: ")
            raise describe_damage(self.path, error, element=element) from error
        return rows if self._is_gene.all() else rows[:, self._is_gene]


@contextlib.contextmanager
def open_counts(
    path: Path,
    *,
    counts_layer: str = "",
    depth_key: str = "",
    shown_as: Path | None = None,
    scratch: Path | None = None,
) -> Iterator[CountsFile]:
    """Open the raw counts of an h5ad file.

    Where no place holds raw counts, the first of log1p values that give them back
    exactly is taken.

    Parameters
    ----------
    path
        The file.
    counts_layer
        Layer that holds them; empty takes the first of ``layers["counts"]``,
        ``.raw``, ``X`` that holds counts.
    depth_key
        obs column with each cell's counts over all genes, to recover counts with;
        one that is absent or unusable is passed over.
    shown_as
        Name of the file in messages, where ``path`` is a temporary copy.
    scratch
        Folder for a working copy of counts that are stored by gene; None takes the system's.

    Raises
    ------
    InputFileError
        If the file is missing, is no h5ad file, or is damaged.
    CountsError
        If no place in it holds raw counts or gives them back.
    """
    with _open_h5ad(path, shown_as or path) as file:
        path = shown_as or path
        places = _list_places(file, counts_layer)
        if not places:
            wanted = f'layers["{counts_layer}"]' if counts_layer else 'layers["counts"], .raw or X'
            layers = ", ".join(file.get("layers", {})) or "none"
            raise CountsError(
                path,
                expected=f"raw counts in {wanted}",
                found=f"no such matrix (layers: {layers})",
                remedy="Name the raw-count layer with --counts-layer.",
            )
        candidates = (
            (
                name,
                _read_place(file, path, name=name, address=address, var_address=var_address, scratch=scratch),
            )
            for name, address, var_address in places
        )
        yield _choose_place(path, candidates, depth_key)


def _choose_place(path: Path, candidates: Iterator[tuple[str, CountsFile]], depth_key: str) -> CountsFile:
    """Choose the first place with raw counts, or else the first that gives them back."""
    refused = []
    for name, counts in candidates:
        try:
            counts.probe()
        except CountsError as error:
            refused.append((name, counts, error))
            continue
        return counts
    found = []
    for _, counts, refusal in refused:
        try:
            return counts.recover(depth_key)
        except CountsError as error:
            same = error.found == refusal.found
            found.append(refusal.found + ("" if same else f" (as log1p values: {error.found})"))
    if len(refused) == 1:
        [(_, counts, refusal)] = refused
        raise CountsError(counts.place, expected=refusal.expected, found=found[0], remedy=refusal.remedy)
    names = [name for name, _, _ in refused]
    raise CountsError(
        path,
        expected="raw counts (non-negative integers) in " + " or ".join(names),
        found="; ".join(f"{text} in {name}" for text, name in zip(found, names, strict=True)),
        remedy="Name the raw-count layer with --counts-layer.",
    )


@contextlib.contextmanager
def _open_h5ad(path: Path, shown_as: Path) -> Iterator[h5py.File]:
    """Open a file that must hold AnnData's tables."""
    with open_hdf5(path, shown_as=shown_as, kind="h5ad file") as file:
        refuse_modalities(file, shown_as)
        for name in ("obs", "var"):
            if name not in file:
                raise InputFileError(
                    shown_as,
                    expected=f"an AnnData file's {name!r} table",
                    found=", ".join(file) or "an empty file",
                    remedy="Write the file with anndata's write_h5ad.",
                )
        yield file


def _list_places(file: h5py.File, counts_layer: str) -> list[tuple[str, str, str]]:
    """List where counts may be: name for people, address of the matrix, address of its gene table."""
    if counts_layer == "X":
        places = [("X", "X", "var")]
    elif counts_layer:
        places = [(f'layers["{counts_layer}"]', f"layers/{counts_layer}", "var")]
    else:
        places = [
            (f'layers["{keys.COUNTS_LAYER}"]', f"layers/{keys.COUNTS_LAYER}", "var"),
            (".raw", "raw/X", "raw/var"),
            (".raw", "raw.X", "raw.var"),  # anndata 0.6
            ("X", "X", "var"),
        ]
    return [place for place in places if place[1] in file]


def _read_place(
    file: h5py.File, path: Path, *, name: str, address: str, var_address: str, scratch: Path | None
) -> CountsFile:
    """Open one matrix of the file with its tables, checking that their shapes agree."""
    place = f"{path}: {name}"
    refuse_sizes(file, address, var_address, place=place)
    obs = read_table(file, "obs", path=path)
    var = read_table(file, var_address, path=path)
    matrix = open_matrix(file, address, (len(obs), len(var)), place=place, path=path, scratch=scratch)
    is_gene = find_genes(var, path)
    return CountsFile(path=path, place=place, obs=obs, var=var[is_gene], _matrix=matrix, _is_gene=is_gene)
