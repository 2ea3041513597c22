"""Whether all of an input is still in its annotated file: compared by content, by stretches of rows."""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd

from annotary.data.damage import READERS_RAISE, UNREADABLE
from annotary.data.h5ad_elements import open_rows, read_table
from annotary.data.hdf5 import open_hdf5
from annotary.data.sparse import holds_numbers, split_rows
from annotary.scoring.content import hash_content, hash_ids
from annotary.scoring.findings import Finding
from annotary.scoring.ownership import read_quietly
from annotary.scoring.written import KEPT_SUFFIX, show_place

_ROWS = 4096
_MAPPINGS = ("layers", "obsm", "varm", "obsp", "varp", "uns", "raw/varm")
_TABLES = ("obs", "var", "raw/var")


def check_content(
    annotated: Path, original: Path, *, replaced: Collection[str], scratch: Path
) -> list[Finding]:
    """Compare each element of an input with the annotated file.

    Parameters
    ----------
    annotated
        The annotated file.
    original
        The input, as an h5ad file.
    replaced
        Places of what an earlier run of annotary had written into the input, and a later one replaced.
    scratch
        Folder for what does not fit into memory.

    Returns
    -------
    One finding for each element that is gone or was changed, or one that says that there is none.
    """
    with open_hdf5(original) as before, open_hdf5(annotated) as after:
        comparison = _Comparison(before, after, scratch)
        findings, n_same = [], 0
        for place, name in comparison.iter_places():
            if place in replaced:
                continue
            found = comparison.compare(place)
            n_same += not found
            if found:
                findings.append(Finding(f"input's {name}", False, found))
    if not findings:
        findings.append(Finding("input's content", True, f"{n_same} elements are in the file as they were"))
    return findings


class _Comparison:
    """An input and its annotated file, both open.

    Parameters
    ----------
    before, after
        The two files.
    scratch
        Folder for what does not fit into memory.
    """

    def __init__(self, before: h5py.File, after: h5py.File, scratch: Path) -> None:
        self._before = before
        self._after = after
        self._scratch = scratch
        self._tables: dict[tuple[int, str], pd.DataFrame] = {}

    def iter_places(self) -> Iterator[tuple[str, str]]:
        """List the elements of the input, and their names for people."""
        for place in ("X", "raw/X"):
            if place in self._before:
                yield place, place
        for slot in _TABLES:
            if slot in self._before:
                yield f"{slot}/", f"names of {slot}"
                for column in self._table(0, slot).columns:
                    yield f"{slot}/{column}", show_place(f"{slot}/{column}".replace("raw/var", "raw.var"))
        for slot in _MAPPINGS:
            group = self._before.get(slot)
            if isinstance(group, h5py.Group):
                for name in group:
                    yield f"{slot}/{name}", show_place(f"{slot}/{name}".replace("raw/varm", "raw.varm"))

    def compare(self, place: str) -> str:
        """Say what became of an element; empty where it is as it was, or was kept under another name."""
        slot, _, name = place.rpartition("/")
        if slot in _TABLES:
            return self._compare_column(slot, name) if name else self._compare_names(slot)
        if place not in self._after:
            kept = self._list_kept(slot, name)
            return "" if any(self._is_same(place, one) for one in kept) else "is gone"
        if self._is_same(place, place) or any(
            self._is_same(place, one) for one in self._list_kept(slot, name)
        ):
            return ""
        return "was changed"

    def _table(self, side: int, slot: str) -> pd.DataFrame:
        """Read a table once."""
        if (side, slot) not in self._tables:
            file = self._after if side else self._before
            self._tables[side, slot] = read_table(file, slot, path=Path(file.filename))
        return self._tables[side, slot]

    def _compare_names(self, slot: str) -> str:
        """Compare the names of cells or genes, in their order."""
        if slot not in self._after:
            return "are gone"
        before, after = self._table(0, slot).index, self._table(1, slot).index
        if hash_ids(before) == hash_ids(after):
            return ""
        if len(before) != len(after):
            return f"were {len(before)}, and are {len(after)}"
        same = sorted(map(str, before)) == sorted(map(str, after))
        return "stand in another order" if same else "were changed"

    def _compare_column(self, slot: str, name: str) -> str:
        """Compare a column of a table."""
        if slot not in self._after:
            return "is gone"
        table = self._table(1, slot)
        names = [
            one for one in map(str, table.columns) if one == name or one.startswith(f"{name}{KEPT_SUFFIX}")
        ]
        wanted = hash_content(self._table(0, slot)[name])
        if any(hash_content(table[one]) == wanted for one in names):
            return ""
        return "was changed" if names else "is gone"

    def _list_kept(self, slot: str, name: str) -> list[str]:
        """List the places where an element may be that annotary moved aside."""
        group = self._after.get(slot) if slot else None
        names = group if isinstance(group, h5py.Group) else ()
        return [f"{slot}/{one}" for one in names if one.startswith(f"{name}{KEPT_SUFFIX}")]

    def _is_same(self, place: str, other: str) -> bool:
        """Compare two elements: matrices by stretches of rows, all else as a whole."""
        one, two = self._before[place], self._after[other]
        if _is_matrix(one) and _is_matrix(two):
            try:
                return self._is_same_matrix(one, two)
            except UNREADABLE:
                return False
        return _hash(read_quietly(one)) == _hash(read_quietly(two))

    def _is_same_matrix(self, one: h5py.Dataset | h5py.Group, two: h5py.Dataset | h5py.Group) -> bool:
        """Compare matrices however they are stored."""
        before, after = open_rows(one, self._scratch), open_rows(two, self._scratch)
        if before.shape != after.shape:
            return False
        for start, stop in split_rows(before, _ROWS):
            old, new = before[start:stop], after[start:stop]
            for matrix in (old, new):
                matrix.eliminate_zeros()
                matrix.sort_indices()
            if not (
                np.array_equal(old.indptr, new.indptr)
                and np.array_equal(old.indices, new.indices)
                and np.array_equal(old.data, new.data, equal_nan=True)
            ):
                return False
        return True


def _is_matrix(element: h5py.Dataset | h5py.Group) -> bool:
    """Tell a matrix of numbers from all else."""
    if isinstance(element, h5py.Group):
        return str(element.attrs.get("encoding-type", "")) in ("csr_matrix", "csc_matrix")
    return len(element.shape or ()) == 2 and holds_numbers(element.dtype)


def _hash(content: Any) -> str | None:
    """Hash a value of any kind; of one that cannot be hashed, what it looks like."""
    try:
        return hash_content(content)
    except READERS_RAISE:
        return repr(content)
