"""Raw counts of an h5ad file, read in row chunks."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix, vstack

from annotary import keys
from annotary.data.choice import Place, choose_place, refuse_worse_place, spread_probe
from annotary.data.counts import locate, validate_counts
from annotary.data.damage import READERS_RAISE, describe_damage
from annotary.data.features import find_features
from annotary.data.h5ad_elements import open_matrix, read_table, refuse_sizes
from annotary.data.hdf5 import open_hdf5
from annotary.data.modalities import refuse_modalities
from annotary.data.recover import Log1pScale, find_scale, recover_counts
from annotary.data.sparse import RowsOnDisk, split_rows
from annotary.errors import CountsError, InputFileError


@dataclass
class _Rounding:
    """What was rounded while the counts were read."""

    n_cells: int = 0
    example: str = ""

    def note(self, before: csr_matrix, after: csr_matrix, cell_ids: pd.Index, gene_ids: pd.Index) -> None:
        """Note the cells of a chunk, ``(n_cells, n_genes)``, whose values were rounded."""
        is_rounded = before.data != after.data
        rows = np.repeat(np.arange(before.shape[0]), np.diff(before.indptr))
        self.n_cells += len(np.unique(rows[is_rounded]))
        if not self.example:
            at = int(np.argmax(is_rounded))
            cell, gene = locate(before, at, cell_ids=cell_ids, gene_ids=gene_ids)
            self.example = f"{before.data[at]!s} at cell {cell!r}, gene {gene!r}"


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
    element
        Where the matrix is stored.
    notes
        Why this place was chosen, and what was left aside, where a person should know.
    """

    path: Path
    place: str
    obs: pd.DataFrame
    var: pd.DataFrame
    element: h5py.Dataset | h5py.Group
    _matrix: RowsOnDisk
    _is_gene: np.ndarray
    _scale: Log1pScale | None = None
    _depth: np.ndarray | None = None
    notes: tuple[str, ...] = ()
    _rounding: _Rounding = field(default_factory=_Rounding)

    @property
    def n_cells(self) -> int:
        """Cells in the file."""
        return len(self.obs)

    @property
    def is_recovered(self) -> bool:
        """Whether the file holds log1p values, from which the counts are recovered."""
        return self._scale is not None

    @property
    def is_all_genes(self) -> bool:
        """Whether every column of the matrix is a gene."""
        return bool(self._is_gene.all())

    def list_notes(self) -> list[str]:
        """List what a person should know of the counts, with what reading them has shown so far."""
        if not self._rounding.n_cells:
            return list(self.notes)
        return [
            *self.notes,
            f"{self.place}: values that are integers but for floating-point noise were rounded in "
            f"{self._rounding.n_cells:,} cells, such as {self._rounding.example}.",
        ]

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
            stored = self._read_rows(start, stop)
            counts = self._check(stored, np.arange(start, stop))
            if self._scale is None and counts is not stored:
                self._rounding.note(stored, counts, self.obs.index[start:stop], self.var.index)
            yield start, counts.astype(np.float32, copy=False)

    def probe(self) -> csr_matrix:
        """Read some cells from all over the file, ``(n_probed, n_genes)``, checked.

        Raises
        ------
        CountsError
            If a value is no raw count, or the counts cannot be recovered from it.
        """
        rows, cells = self._read_probe()
        counts = self._check(rows, cells)
        return counts if counts.data.all() else csr_matrix(counts.multiply(counts > 0))

    def _check(self, rows: csr_matrix, cells: np.ndarray) -> csr_matrix:
        """Check rows, or recover their counts; ``cells`` are their positions."""
        cell_ids, gene_ids = self.obs.index[cells], self.var.index
        if self._scale is None:
            return validate_counts(rows, place=self.place, cell_ids=cell_ids, gene_ids=gene_ids)
        return recover_counts(
            rows,
            depth=None if self._depth is None else self._depth[cells],
            place=self.place,
            cell_ids=cell_ids,
            gene_ids=gene_ids,
            scale=self._scale,
        )

    def _read_probe(self) -> tuple[csr_matrix, np.ndarray]:
        """Read the cells that are looked at, and give their positions."""
        spans = spread_probe(self.n_cells)
        rows = vstack([self._read_rows(span.start, span.stop) for span in spans], format="csr")
        return rows, np.concatenate([np.arange(span.start, span.stop) for span in spans])

    def recover(self, depth_key: str) -> "CountsFile":
        """Take the values as log1p values, and try some cells from all over the file.

        Raises
        ------
        CountsError
            If they are no log1p values of scaled counts.
        """
        depth = None
        if depth_key in self.obs:
            depth = pd.to_numeric(self.obs[depth_key], errors="coerce").to_numpy(dtype=np.float64)
        rows, cells = self._read_probe()
        scale = find_scale(
            rows,
            depth=None if depth is None else depth[cells],
            place=self.place,
            cell_ids=self.obs.index[cells],
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

    Of ``layers["counts"]``, ``.raw`` and ``X`` the first with raw counts is taken, unless another one holds
    them more completely; what was passed over, and why, is among the notes. Where no place holds raw counts,
    the first of log1p values that give them back exactly is taken.

    Parameters
    ----------
    path
        The file.
    counts_layer
        Layer that holds them, or ``X`` or ``.raw``; empty chooses among ``layers["counts"]``,
        ``.raw`` and ``X``.
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
        If no place in it holds raw counts or gives them back, or the named one holds worse ones than another.
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
        counts = choose_place(path, _make_places(file, path, places, scratch), depth_key)
        if counts_layer and not counts.is_recovered:
            others = [place for place in _list_places(file, "") if place[1] != places[0][1]]
            refuse_worse_place(counts, places[0][0], _make_places(file, path, others, scratch))
        yield counts


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
    raw = [
        (".raw", "raw/X", "raw/var"),
        (".raw", "raw.X", "raw.var"),  # anndata 0.6
    ]
    if counts_layer == "X":
        places = [("X", "X", "var")]
    elif counts_layer in (".raw", "raw") and f"layers/{counts_layer}" not in file:
        places = raw
    elif counts_layer:
        places = [(f'layers["{counts_layer}"]', f"layers/{counts_layer}", "var")]
    else:
        places = [
            (f'layers["{keys.COUNTS_LAYER}"]', f"layers/{keys.COUNTS_LAYER}", "var"),
            *raw,
            ("X", "X", "var"),
        ]
    return [place for place in places if place[1] in file]


def _make_places(
    file: h5py.File, path: Path, places: list[tuple[str, str, str]], scratch: Path | None
) -> list[Place]:
    """Make places that are opened when they are looked at; each table is read once."""

    @cache
    def read(name: str) -> pd.DataFrame:
        return read_table(file, name, path=path)

    return [
        Place(
            name=name,
            element=file[address],
            n_genes=partial(_count_genes, read, path, var_address),
            open=partial(
                _read_place,
                file,
                path,
                read,
                name=name,
                address=address,
                var_address=var_address,
                scratch=scratch,
            ),
        )
        for name, address, var_address in places
    ]


def _count_genes(read: Callable[[str], pd.DataFrame], path: Path, var_address: str) -> int:
    """Count the genes of a gene table."""
    return int(find_features(read(var_address), path).is_gene.sum())


def _read_place(
    file: h5py.File,
    path: Path,
    read: Callable[[str], pd.DataFrame],
    *,
    name: str,
    address: str,
    var_address: str,
    scratch: Path | None,
) -> CountsFile:
    """Open one matrix of the file with its tables, checking that their shapes agree."""
    place = f"{path}: {name}"
    refuse_sizes(file, address, var_address, place=place)
    obs, var = read("obs"), read(var_address)
    matrix = open_matrix(file, address, (len(obs), len(var)), place=place, path=path, scratch=scratch)
    features = find_features(var, path)
    return CountsFile(
        path=path,
        place=place,
        obs=obs,
        var=var[features.is_gene],
        element=file[address],
        _matrix=matrix,
        _is_gene=features.is_gene,
        notes=features.notes,
    )
