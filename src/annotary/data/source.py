"""Labelled counts as preprocess takes them: one file or several, read once, in row chunks."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from annotary import keys
from annotary.data import embedded
from annotary.data.counts import count_genes_per_cell, move_columns, sum_depth
from annotary.data.discovery import Source
from annotary.data.genes import (
    choose_gene_column,
    clean_gene_ids,
    find_mito_columns,
    find_shared_genes,
    note_restored,
)
from annotary.data.h5ad import CountsFile, open_counts
from annotary.data.hashing import hash_rows
from annotary.data.labels import read_label_table, read_labels
from annotary.data.obs import read_depth, read_obs_names, read_obs_numbers
from annotary.data.scratch import CHUNK_SIZE, CountsStore, StoredCounts, open_store
from annotary.errors import InputFileError, list_some
from annotary.log import say
from annotary.progress import track

DEFAULT_LABEL_KEY = "cell_type"

ROW_HASH = "row_hash"
"""obs column of :class:`Cells`: a quick hash of the cell's counts, 0 where it has few genes."""

_SAME_COUNTS_MIN_GENES = 100
_MOST_NAMED = 5


@dataclass(frozen=True)
class Columns:
    """Which obs columns of an input mean what; empty ones are worked out from the counts.

    Attributes
    ----------
    label, depth, n_genes, group, lane
        Label, counts over all genes, expressed genes, group and lane of a cell; without a label's column
        cells have no label.
    """

    label: str
    depth: str
    n_genes: str
    group: str
    lane: str


@dataclass(frozen=True)
class Cells:
    """Cells whose counts lie on disk.

    Attributes
    ----------
    counts
        Raw counts, ``(n_cells, n_genes)``.
    obs
        ``label`` (None where a cell has none), ``source``, ``lane``, ``total_counts``,
        ``n_genes_by_counts``, ``pct_counts_mt``, and where they are known ``group``,
        ``doublet_probability`` and ``doublet``; indexed by unique cell id, ``(n_cells, 6 or more)``.
    gene_ids
        Unique ids in alphabetical order, ``(n_genes,)``.
    place
        File and element, for messages.
    inputs
        File and element of the counts, with its size, of each input; for people.
    n_genes_read
        Genes of the input that has most.
    notes
        What a person should know of the inputs.
    """

    counts: StoredCounts
    obs: pd.DataFrame
    gene_ids: pd.Index
    place: str
    inputs: tuple[str, ...] = ()
    n_genes_read: int = 0
    notes: tuple[str, ...] = ()

    def take(self, kept: np.ndarray) -> "Cells":
        """Keep some cells, by a mask ``(n_cells,)`` or ascending positions."""
        positions = np.flatnonzero(kept) if kept.dtype == bool else kept
        return replace(self, counts=self.counts.take_rows(positions), obs=self.obs.iloc[positions])

    def take_genes(self, kept: np.ndarray) -> "Cells":
        """Keep some genes, by a mask ``(n_genes,)``; the depth of cells stays."""
        return replace(self, counts=self.counts.take_columns(kept), gene_ids=self.gene_ids[kept])

    def iter_chunks(self) -> Iterator[tuple[slice, csr_matrix]]:
        """Read counts in row chunks, each with the positions of its cells."""
        start = 0
        for chunk in self.counts.iter_chunks():
            yield slice(start, start + chunk.shape[0]), chunk
            start += chunk.shape[0]


def name_columns(
    *, is_embedded: bool, label_key: str, depth_key: str, n_genes_key: str, group_key: str, lane_key: str
) -> Columns:
    """Fill in the default columns of a file or of the embedded data."""
    return Columns(
        label=label_key or (embedded.LABEL_KEY if is_embedded else DEFAULT_LABEL_KEY),
        depth=depth_key or (embedded.DEPTH_KEY if is_embedded else ""),
        n_genes=n_genes_key or (embedded.N_GENES_KEY if is_embedded else ""),
        group=group_key,
        lane=lane_key,
    )


@contextlib.contextmanager
def read_cells(
    sources: list[Source],
    columns: Columns,
    folder: Path,
    *,
    counts_layer: str,
    label_table: Path | None,
) -> Iterator[Cells]:
    """Read and check every cell of one or more sources, joined on the genes that all of them have.

    Parameters
    ----------
    sources
        What to read.
    columns
        Which obs columns mean what.
    folder
        Where the counts lie until the block ends.
    counts_layer
        Layer with the counts; empty looks for them.
    label_table
        csv or tsv table with barcodes and labels; None takes the labels from obs.

    Raises
    ------
    InputFileError, CountsError, LabelError, GeneOverlapError
        If a source, its counts or its labels cannot be used, or they share too few genes.
    """
    with contextlib.ExitStack() as stores:
        yield _read_all(sources, columns, folder, stores, counts_layer=counts_layer, label_table=label_table)


def _read_all(
    sources: list[Source],
    columns: Columns,
    folder: Path,
    stores: contextlib.ExitStack,
    *,
    counts_layer: str,
    label_table: Path | None,
) -> Cells:
    """Read the sources into a store; of the files, nothing stays in memory but what the result holds."""
    with contextlib.ExitStack() as stack:
        files = [
            stack.enter_context(
                open_counts(
                    source.h5ad,
                    counts_layer=counts_layer,
                    depth_key=columns.depth,
                    shown_as=source.path,
                    scratch=folder,
                )
            )
            for source in sources
        ]
        obs = pd.concat(
            [
                _read_obs(file, source.name, columns, has_table=label_table is not None, n_files=len(files))
                for file, source in zip(files, sources, strict=True)
            ]
        )
        for name in (keys.SOURCE, keys.LANE):
            obs[name] = obs[name].astype("category")  # several files' columns lose it
        if label_table:
            obs[keys.LABEL] = read_label_table(label_table, obs.index, columns.label).to_numpy()
        obs = obs.set_index(_make_unique(obs))
        gene_ids = _name_genes(files)
        shared = find_shared_genes(gene_ids, places=[file.place for file in files])
        is_mito = [find_mito_columns(file.var, ids) for file, ids in zip(files, gene_ids, strict=True)]
        store = stores.enter_context(open_store(folder, len(shared)))
        for name, values in _measure_all(files, gene_ids, is_mito, shared, columns, store).items():
            obs[name] = values
        place = (
            files[0].place
            if len(files) == 1
            else list_some([source.name for source in sources], most=_MOST_NAMED)
        )
        return Cells(
            counts=store.view(),
            obs=obs,
            gene_ids=shared,
            place=place,
            inputs=tuple(_describe(file, source) for file, source in zip(files, sources, strict=True)),
            n_genes_read=max(ids.nunique() for ids in gene_ids),
            notes=tuple(
                note
                for file, ids, mask in zip(files, gene_ids, is_mito, strict=True)
                for note in _list_notes(file, ids, mask)
            ),
        )


def _describe(file: CountsFile, source: Source) -> str:
    """Say where the counts of a source were found, and how many."""
    place = file.place.removeprefix(f"{source.path.parent}/")
    return f"{place}, {file.n_cells:,} cells x {len(file.var):,} genes"


def _list_notes(file: CountsFile, gene_ids: pd.Index, is_mito: np.ndarray) -> list[str]:
    """List what a person should know of a file that was read."""
    notes = file.list_notes()
    notes += note_restored(file.var, gene_ids, place=file.place, whose="first file's")
    if not is_mito.any():
        notes.append(
            f"{file.place}: none of its {len(gene_ids):,} genes has the name of a mitochondrial one (MT-CO1, "
            "mt-Co1, MT.CO1): the mitochondrial share of its cells is taken as 0."
        )
    return notes


def find_repeated_cells(cells: Cells) -> np.ndarray:
    """Find cells that are in the data twice: the same counts of the same 100 genes or more.

    Of such cells the one whose id comes first stays, whatever their order.

    Returns
    -------
    Id of the cell that stays for each other one, empty for the rest, ``(n_cells,)``.
    """
    hashes = cells.obs[ROW_HASH].to_numpy()
    originals = np.full(len(hashes), "", dtype=object)
    _, group, sizes = np.unique(hashes, return_inverse=True, return_counts=True)
    suspects = np.flatnonzero((hashes != 0) & (sizes[group] > 1))
    if not len(suspects):
        return originals
    rows = cells.counts.take_rows(suspects).load()
    first: dict[bytes, str] = {}
    ids = cells.obs.index[suspects].to_numpy(dtype=str)
    for position in np.argsort(ids, kind="stable"):
        span = slice(rows.indptr[position], rows.indptr[position + 1])
        content = rows.indices[span].tobytes() + rows.data[span].tobytes()
        originals[suspects[position]] = first.setdefault(content, ids[position])
    originals[suspects[originals[suspects] == ids]] = ""
    return originals


def _read_obs(
    file: CountsFile, name: str, columns: Columns, *, has_table: bool, n_files: int
) -> pd.DataFrame:
    """Read what a file's cell table says of its cells."""
    if file.is_recovered:
        say(f"read {file.place}")
    obs = pd.DataFrame(index=_check_cell_ids(file))
    if columns.label and not has_table:
        obs[keys.LABEL] = read_labels(file.obs, columns.label, place=str(file.path)).to_numpy()
    obs[keys.SOURCE] = name
    if columns.lane:
        lane = read_obs_names(file, columns.lane, option="--lane-key")
        obs[keys.LANE] = lane if n_files == 1 else [f"{name}:{one}" for one in lane]
    else:
        obs[keys.LANE] = name
    if columns.group == keys.SOURCE and keys.SOURCE not in file.obs:
        obs[keys.GROUP] = name
    elif columns.group:
        obs[keys.GROUP] = read_obs_names(file, columns.group, option="--group-key")
    return obs.astype({keys.SOURCE: "category", keys.LANE: "category"})


def _check_cell_ids(file: CountsFile) -> pd.Index:
    """Refuse cell ids that occur twice: splits and reports go by them."""
    cell_ids = file.obs.index.astype(str)
    if not cell_ids.is_unique:
        repeated = cell_ids[cell_ids.duplicated()]
        raise InputFileError(
            f"{file.path}: obs",
            expected="a different id for each cell",
            found=f"{len(repeated)} repeated ids such as {repeated[0]!r}",
            remedy="Make them unique, for instance with adata.obs_names_make_unique().",
        )
    return cell_ids


def _make_unique(obs: pd.DataFrame) -> pd.Index:
    """Add the source to ids that several sources use."""
    if obs.index.is_unique:
        return obs.index
    is_shared = obs.index.duplicated(keep=False)
    say(f"{is_shared.sum()} cells of different sources have the same id; their source is added to it")
    named = obs.index + "-" + obs[keys.SOURCE].astype(str)
    return pd.Index(np.where(is_shared, named, obs.index))


def _name_genes(files: list[CountsFile]) -> list[pd.Index]:
    """Name each file's genes by the same kind of ids: those of the first file's index."""
    first = clean_gene_ids(files[0].var.index)
    return [first, *(choose_gene_column(file.var, first.unique()) for file in files[1:])]


def _measure_all(
    files: list[CountsFile],
    gene_ids: list[pd.Index],
    is_mito: list[np.ndarray],
    shared: pd.Index,
    columns: Columns,
    store: CountsStore,
) -> dict[str, np.ndarray]:
    """Append all files to the store, and measure their cells, ``(n_cells,)`` each."""
    n_cells = sum(file.n_cells for file in files)
    measured = {name: np.empty(n_cells) for name in (keys.DEPTH, keys.N_GENES, keys.PCT_MITO)}
    measured[ROW_HASH] = np.empty(n_cells, dtype=np.uint64)
    first = 0
    for file, ids, mask in zip(files, gene_ids, is_mito, strict=True):
        rows = slice(first, first + file.n_cells)
        target = shared.get_indexer(ids).astype(np.int32)
        _append(file, target, mask, store, {name: values[rows] for name, values in measured.items()})
        if columns.depth:
            measured[keys.DEPTH][rows] = read_depth(file, columns.depth)
        if columns.n_genes:
            measured[keys.N_GENES][rows] = read_obs_numbers(file, columns.n_genes, option="--n-genes-key")
        first = rows.stop
    return measured


def _append(
    file: CountsFile,
    target: np.ndarray,
    is_mito: np.ndarray,
    store: CountsStore,
    into: dict[str, np.ndarray],
) -> None:
    """Append a file's counts to the store, and measure its cells over all of its genes."""
    is_mito = is_mito.astype(np.float64)
    with track(None, f"reading {file.path.name}", total=file.n_cells, unit="cell") as bar:
        for start, chunk in file.iter_chunks(CHUNK_SIZE):
            aligned = move_columns(chunk, target, n_columns=store.n_genes)
            if not aligned.data.all():
                aligned.eliminate_zeros()
            store.append(aligned)
            is_rich = np.diff(aligned.indptr) >= _SAME_COUNTS_MIN_GENES
            rows = slice(start, start + chunk.shape[0])
            into[ROW_HASH][rows] = hash_rows(aligned) * is_rich
            for name, values in _measure(chunk, is_mito).items():
                into[name][rows] = values
            bar.update(chunk.shape[0])


def _measure(counts: csr_matrix, is_mito: np.ndarray) -> dict[str, np.ndarray]:
    """Measure cells by scanpy's QC metrics, ``(n_cells,)`` each."""
    depth = sum_depth(counts)
    mito = counts @ is_mito
    return {
        keys.DEPTH: depth,
        keys.N_GENES: count_genes_per_cell(counts),
        keys.PCT_MITO: 100 * np.divide(mito, depth, out=np.zeros_like(depth), where=depth > 0),
    }
