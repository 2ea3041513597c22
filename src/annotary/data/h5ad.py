"""Raw counts of an h5ad file, read in row chunks."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import anndata.io
import h5py
import numpy as np
import pandas as pd
from anndata.abc import CSRDataset
from scipy.sparse import csr_matrix

from annotary import keys
from annotary.data.counts import validate_counts
from annotary.errors import CountsError, InputFileError, summarize

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
    _matrix: h5py.Dataset | CSRDataset | csr_matrix
    _is_gene: np.ndarray

    @property
    def n_cells(self) -> int:
        """Cells in the file."""
        return len(self.obs)

    def iter_chunks(self, chunk_size: int) -> Iterator[tuple[int, csr_matrix]]:
        """Read validated counts, ``chunk_size`` cells at a time.

        Yields
        ------
        First cell's position, and counts ``(at most chunk_size, n_genes)`` as float32.

        Raises
        ------
        CountsError
            If a value is no raw count.
        InputFileError
            If the file ends early or is damaged.
        """
        for start in range(0, self.n_cells, chunk_size):
            stop = min(start + chunk_size, self.n_cells)
            counts = self._read_rows(start, stop)
            validate_counts(
                counts, place=self.place, cell_ids=self.obs.index[start:stop], gene_ids=self.var.index
            )
            yield start, counts.astype(np.float32)

    def probe(self) -> None:
        """Check the first cells.

        Raises
        ------
        CountsError
            If a value is no raw count.
        """
        for _ in self.iter_chunks(_PROBE_CELLS):
            return

    def _read_rows(self, start: int, stop: int) -> csr_matrix:
        """Read rows in their own dtype, without columns that are no genes."""
        try:
            rows = csr_matrix(self._matrix[start:stop])
            rows.check_format(full_check=True)  # indices of a damaged file may point anywhere
        except (OSError, RuntimeError, ValueError, IndexError) as error:
            raise describe_damage(self.path, error) from error
        return rows if self._is_gene.all() else rows[:, self._is_gene]


@contextlib.contextmanager
def open_counts(path: Path, *, counts_layer: str = "", shown_as: Path | None = None) -> Iterator[CountsFile]:
    """Open the raw counts of an h5ad file.

    Parameters
    ----------
    path
        The file.
    counts_layer
        Layer that holds them; empty takes the first of ``layers["counts"]``,
        ``.raw``, ``X`` that holds counts.
    shown_as
        Name of the file in messages, where ``path`` is a temporary copy.

    Raises
    ------
    InputFileError
        If the file is missing, is no h5ad file, or is damaged.
    CountsError
        If no place in it holds raw counts.
    """
    with _open_hdf5(path, shown_as or path) as file:
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
        refusals = []
        for name, address, var_address in places:
            counts = _read_place(file, path, name=name, address=address, var_address=var_address)
            try:
                counts.probe()
            except CountsError as error:
                refusals.append((name, error))
                continue
            yield counts
            return
        if len(refusals) == 1:
            raise refusals[0][1]
        raise CountsError(
            path,
            expected="raw counts (non-negative integers) in " + " or ".join(name for name, _ in refusals),
            found="; ".join(f"{error.found} in {name}" for name, error in refusals),
            remedy="Name the raw-count layer with --counts-layer.",
        )


@contextlib.contextmanager
def _open_hdf5(path: Path, shown_as: Path) -> Iterator[h5py.File]:
    """Open a file that must be an h5ad file."""
    problem = None
    if not path.exists():
        problem = "no such file"
    elif path.is_dir():
        problem = "a folder"
    elif not h5py.is_hdf5(path):
        problem = f"a file of {path.stat().st_size} bytes that is not HDF5"
    if problem:
        raise InputFileError(
            shown_as,
            expected="to be an h5ad file",
            found=problem,
            remedy="Check the path; relative paths start from the folder of the call.",
        )
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise describe_damage(shown_as, error) from error
    with file:
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
            ("X", "X", "var"),
        ]
    return [place for place in places if place[1] in file]


def _read_place(file: h5py.File, path: Path, *, name: str, address: str, var_address: str) -> CountsFile:
    """Open one matrix of the file with its tables, checking that their shapes agree."""
    try:
        obs = anndata.io.read_elem(file["obs"])
        var = anndata.io.read_elem(file[var_address])
        element = file[address]
        matrix = element if isinstance(element, h5py.Dataset) else anndata.io.sparse_dataset(element)
        if not isinstance(matrix, h5py.Dataset | CSRDataset):
            matrix = csr_matrix(matrix.to_memory())  # CSC on disk has no cheap rows
        shape = tuple(matrix.shape)
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise describe_damage(path, error) from error
    if shape != (len(obs), len(var)):
        raise InputFileError(
            f"{path}: {name}",
            expected=f"{len(obs)} cells x {len(var)} genes, as its obs and var tables say",
            found=" x ".join(map(str, shape)),
            remedy="Write the file again with anndata's write_h5ad.",
        )
    for axis, size in zip(("cell", "gene"), shape, strict=True):
        if size == 0:
            raise InputFileError(
                f"{path}: {name}",
                expected=f"at least one {axis}",
                found=f"{shape[0]} cells x {shape[1]} genes",
                remedy="Check how the file was written.",
            )
    is_gene = np.ones(len(var), dtype=bool)
    if keys.FEATURE_TYPES in var:
        is_gene = (var[keys.FEATURE_TYPES] == keys.GENE_EXPRESSION).to_numpy()
    if not is_gene.any():
        raise InputFileError(
            f"{path}: var[{keys.FEATURE_TYPES!r}]",
            expected=f"features of the type {keys.GENE_EXPRESSION!r}",
            found=", ".join(sorted(map(str, var[keys.FEATURE_TYPES].unique()))),
            remedy="Give a file with gene expression.",
        )
    return CountsFile(
        path=path,
        place=f"{path}: {name}",
        obs=obs,
        var=var[is_gene],
        _matrix=matrix,
        _is_gene=is_gene,
    )


def describe_damage(path: Path, error: Exception, *, kind: str = "h5ad file") -> InputFileError:
    """Describe a file that its reader cannot read."""
    return InputFileError(
        path,
        expected=f"to be a whole {kind}",
        found=f"an unreadable one ({summarize(error)})",
        remedy="Copy or write it again; it may have been cut short.",
    )
