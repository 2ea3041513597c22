"""Choosing the matrix of a file that holds its raw counts, by looking at some cells of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np

from annotary.data.counts import find_non_count, round_values
from annotary.data.damage import UNREADABLE
from annotary.data.places import PlaceFigures, choose_most_complete, find_flaw, list_doubts
from annotary.errors import CountsError, InputFileError

if TYPE_CHECKING:
    from annotary.data.h5ad import CountsFile

PROBE_CELLS = 64
"""Cells of each matrix that are looked at."""

_N_BLOCKS = 4
_N_STRETCHES = 16
_STRETCH = 256
_UNUSABLE: tuple[type[Exception], ...] = (*UNREADABLE, CountsError)
_NAME_IT = "Name the raw-count layer with --counts-layer."


@dataclass(frozen=True)
class Place:
    """A matrix that may hold the counts.

    Attributes
    ----------
    name
        Its name for people.
    element
        Where it is stored.
    n_genes
        Counts its genes.
    open
        Opens it; turning one that is stored by gene to rows takes a pass over all of it.
    """

    name: str
    element: h5py.Dataset | h5py.Group
    n_genes: Callable[[], int]
    open: Callable[[], CountsFile]


@dataclass
class _Candidate:
    """A place whose values are counts, as far as was looked at; not opened where that costs much."""

    place: Place
    figures: PlaceFigures
    counts: CountsFile | None


@dataclass(frozen=True)
class _Refused:
    """A place whose values are no counts."""

    place: Place
    counts: CountsFile
    error: CountsError


def spread_probe(n_cells: int) -> list[slice]:
    """Spread the cells that are looked at over a file: its first ones may be empty, or of one kind."""
    if n_cells <= PROBE_CELLS:
        return [slice(0, n_cells)]
    size = PROBE_CELLS // _N_BLOCKS
    starts = np.linspace(0, n_cells - size, _N_BLOCKS).astype(int)
    return [slice(int(start), int(start) + size) for start in starts]


def choose_place(path: Path, places: list[Place], depth_key: str) -> CountsFile:
    """Choose the place with the most complete raw counts, or else the first that gives them back.

    Parameters
    ----------
    path
        The file, for messages.
    places
        Where counts may be, the preferred one first.
    depth_key
        obs column with each cell's depth, to recover counts with.

    Raises
    ------
    CountsError
        If no place holds raw counts or gives them back, or none has any count.
    """
    candidates, refused = _look_at_all(places)
    while candidates:
        best, notes = choose_most_complete([one.figures for one in candidates])
        chosen = candidates[best]
        counts, figures = chosen.counts, chosen.figures
        try:
            if counts is None:
                counts = chosen.place.open()
                figures = _measure(chosen.place, counts)
        except (CountsError, InputFileError):
            del candidates[best]
            continue
        return _finish(path, counts, figures, refused, notes=notes, depth_key=depth_key)
    return _recover(path, refused, depth_key)


def refuse_worse_place(named: CountsFile, name: str, others: list[Place]) -> None:
    """Refuse a place that a person named, where another one shows that its values are no raw counts.

    Raises
    ------
    CountsError
        Naming the other place.
    """
    place = Place(name, named.element, lambda: len(named.var), lambda: named)
    figures = _measure(place, named)
    has_counts = figures.has_counts
    is_sparse = has_counts is not None and bool((~has_counts).mean() > 0.1)
    if not (figures.is_empty or figures.is_binary or is_sparse):
        return
    candidates, _ = _look_at_all(others)
    if not candidates:
        return
    best, _ = choose_most_complete([one.figures for one in candidates])
    flaw = find_flaw(figures, candidates[best].figures, is_serious=True)
    if flaw:
        raise CountsError(
            named.place,
            expected="raw counts, as --counts-layer says",
            found=f"none that can be relied on: {flaw}",
            remedy=f"Name {candidates[best].place.name} with --counts-layer, or leave the option out.",
        )


def _look_at_all(places: list[Place]) -> tuple[list[_Candidate], list[_Refused]]:
    """Look at each place: those that may hold counts, and those that do not."""
    candidates: list[_Candidate] = []
    refused: list[_Refused] = []
    for place in places:
        if candidates and _is_stored_by_gene(place.element):
            figures = _look_at_columns(place)
            if figures is not None:
                candidates.append(_Candidate(place, figures, None))
            continue
        try:
            counts = place.open()
        except InputFileError:
            if not candidates:
                raise
            continue  # what is not needed may be damaged
        try:
            candidates.append(_Candidate(place, _measure(place, counts), counts))
        except InputFileError:
            if not candidates:
                raise
        except CountsError as error:
            refused.append(_Refused(place, counts, error))
    return candidates, refused


def _measure(place: Place, counts: CountsFile) -> PlaceFigures:
    """Measure some cells of a place, checking that they hold counts."""
    rows = counts.probe()
    return PlaceFigures(
        name=place.name,
        n_genes=len(counts.var),
        n_stored=_count_stored(place.element) if counts.is_all_genes else None,
        largest=float(rows.data.max(initial=0)),
        rows=rows,
        is_whole=rows.shape[0] == counts.n_cells,
    )


def _is_stored_by_gene(element: h5py.Dataset | h5py.Group) -> bool:
    """Tell a matrix whose rows cost a pass over all of it."""
    if isinstance(element, h5py.Dataset):
        return False
    kind = element.attrs.get("encoding-type", element.attrs.get("h5sparse_format", ""))
    return "csc" in str(kind.decode() if isinstance(kind, bytes) else kind)


def _count_stored(element: h5py.Dataset | h5py.Group) -> int | None:
    """Count the stored values of a sparse matrix; None for a dense one."""
    return None if isinstance(element, h5py.Dataset) else int(element["data"].shape[0])


def _look_at_columns(place: Place) -> PlaceFigures | None:
    """Look at some values of a matrix that is stored by gene; None where they are no counts or unreadable."""
    try:
        data = place.element["data"]
        starts = np.linspace(0, max(len(data) - _STRETCH, 0), _N_STRETCHES).astype(int)
        values = np.concatenate([data[start : start + _STRETCH] for start in np.unique(starts)])
        n_genes = place.n_genes()
    except _UNUSABLE:
        return None
    values = round_values(values)
    if values.dtype.kind not in "buif" or find_non_count(values) is not None:
        return None
    largest = float(values.max(initial=0))
    return PlaceFigures(place.name, n_genes, n_stored=len(data), largest=largest, rows=None)


def _finish(
    path: Path,
    counts: CountsFile,
    figures: PlaceFigures,
    refused: list[_Refused],
    *,
    notes: list[str],
    depth_key: str,
) -> CountsFile:
    """Hold the chosen place against those that may give counts back, and refuse one without any count."""
    notes = notes + [
        f"counts are taken from {figures.name}, not from {one.place.name}: {one.error.found} there"
        for one in refused
        if one.place.name.startswith("layers[")
    ]
    for one in refused:
        if not (figures.is_empty or figures.is_binary or len(one.counts.var) > figures.n_genes):
            continue
        try:
            recovered = one.counts.recover(depth_key)
            others = _measure(one.place, recovered)
        except CountsError:
            continue
        flaw = find_flaw(figures, others, is_serious=True)
        if flaw:
            notes.append(f"counts are recovered from {one.place.name}, not taken from {figures.name}: {flaw}")
            return replace(recovered, notes=_name_file(path, notes) + recovered.notes)
        flaw = find_flaw(figures, others)
        if flaw:
            notes.append(
                f"counts are taken from {figures.name}: {flaw}, as log1p values that give counts back; to "
                f"take those, pass --counts-layer {one.place.name}"
            )
    if figures.is_surely_empty:
        raise CountsError(
            counts.place,
            expected="cells with counts",
            found=f"no count above 0 in {counts.n_cells} cells x {len(counts.var)} genes",
            remedy="Check how the file was written, or name the raw-count layer with --counts-layer.",
        )
    notes += [f"{figures.name} {doubt}" for doubt in list_doubts(figures)]
    return replace(counts, notes=_name_file(path, notes) + counts.notes)


def _name_file(path: Path, notes: list[str]) -> tuple[str, ...]:
    """Put the file before what is said of it."""
    return tuple(f"{path}: {note}." for note in notes)


def _recover(path: Path, refused: list[_Refused], depth_key: str) -> CountsFile:
    """Take the first place of log1p values that give counts back, or say what each holds."""
    found = []
    for one in refused:
        try:
            return one.counts.recover(depth_key)
        except CountsError as error:
            same = error.found == one.error.found
            found.append(one.error.found + ("" if same else f" (as log1p values: {error.found})"))
    if len(refused) == 1:
        [only] = refused
        raise CountsError(
            only.counts.place, expected=only.error.expected, found=found[0], remedy=only.error.remedy
        )
    names = [one.place.name for one in refused]
    reasons = [
        f"{name}: {reason}"
        for name, one in zip(names, refused, strict=True)
        if (reason := one.error.remedy.removeprefix(_NAME_IT).strip())
    ]
    raise CountsError(
        path,
        expected="raw counts (non-negative integers) in " + " or ".join(names),
        found="; ".join(f"{text} in {name}" for text, name in zip(found, names, strict=True)),
        remedy=" ".join([_NAME_IT, *reasons]),
    )
