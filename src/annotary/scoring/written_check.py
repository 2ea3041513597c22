"""What a file holds under one prefix, against what a run says that it wrote."""

from collections.abc import Iterator, Mapping
from typing import Any

import h5py
import numpy as np
import pandas as pd

from annotary import keys
from annotary.data.hashing import hash_strings
from annotary.scoring.findings import Finding
from annotary.scoring.ownership import read_quietly
from annotary.scoring.written import CellOrder, Written, is_sealed, show_place

_MOST_NAMED = 5


def check_labels(
    file: h5py.File, record: Mapping[str, Any], obs: pd.DataFrame, prefix: str
) -> Iterator[Finding]:
    """Compare labels and confidence with the probabilities beside them, and labels with their hash.

    Parameters
    ----------
    file
        The annotated file.
    record
        The record of the prefix.
    obs
        The cell table, ``(n_cells, n_columns)``.
    prefix
        Put before every name.
    """
    name = f"{prefix}{keys.PREDICTED_LABELS}"
    what = show_place(f"obs/{name}")
    if name not in obs:
        yield Finding(what, False, "the column is gone")
        return
    labels = obs[name].astype(str)
    probabilities = _read_probabilities(file, record, prefix, n_cells=len(obs))
    if probabilities is None:
        is_same = hash_strings(labels) == record.get("labels_hash")
        yield Finding(
            what, is_same, "as written" if is_same else "altered, or cells were removed or reordered"
        )
        return
    best = np.asarray(record["probability_columns"], dtype=object)[probabilities.argmax(axis=1)]
    other = np.flatnonzero(labels.to_numpy(dtype=object) != best)
    if other.size:
        named = ", ".join(
            f"{labels.index[row]!r} says {labels.iloc[row]!r}, not {best[row]!r}"
            for row in other[:_MOST_NAMED]
        )
        yield Finding(
            what, False, f"{other.size} of {len(labels)} cells do not fit their probabilities: {named}"
        )
    elif hash_strings(labels) == record.get("labels_hash"):
        yield Finding(
            what, True, f"{len(labels)} labels as they were written, and as their probabilities say"
        )
    else:
        yield Finding(
            what, False, "altered, or cells were removed or reordered; the labels fit their probabilities"
        )
    yield from _check_confidence(obs, probabilities, prefix)


def _check_confidence(obs: pd.DataFrame, probabilities: np.ndarray, prefix: str) -> Iterator[Finding]:
    """Compare each cell's confidence with its largest probability; told only where it does not fit."""
    name = f"{prefix}{keys.CONF_SCORE}"
    if name not in obs:
        return  # the comparison with what was written tells
    found = pd.to_numeric(obs[name], errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    n_other = int((~np.isclose(found, probabilities.max(axis=1), rtol=1e-5, atol=1e-6)).sum())
    if n_other:
        says = f"{n_other} of {len(obs)} cells do not have their largest probability"
        yield Finding(show_place(f"obs/{name}"), False, says)


def _read_probabilities(
    file: h5py.File, record: Mapping[str, Any], prefix: str, *, n_cells: int
) -> np.ndarray | None:
    """Read the probabilities, ``(n_cells, n_classes)``; None where they are gone or fit no labels."""
    name = f"{prefix}{keys.PROBABILITIES}"
    names = record.get("probability_columns")
    if name not in file.get("obsm", {}) or not isinstance(names, list):
        return None
    found = read_quietly(file["obsm"][name])
    if not isinstance(found, np.ndarray) or found.dtype.kind != "f" or found.shape != (n_cells, len(names)):
        return None
    return found


def check_seal(record: Mapping[str, Any], prefix: str) -> Finding | None:
    """Compare a record with its own hash; None where it holds."""
    what = show_place(f"uns/{prefix}{keys.RECORD}")
    if is_sealed(record) is False:
        return Finding(what, False, "fields of the record were changed since it was written")
    return None


def check_record(record: Mapping[str, Any], held: Mapping[str, Any], prefix: str) -> Finding:
    """Compare a record with the one that the scoring run holds."""
    what = show_place(f"uns/{prefix}{keys.RECORD}")
    names = sorted({*record, *held})
    changed = [name for name in names if repr(record.get(name)) != repr(held.get(name))]
    if not changed:
        return Finding(what, True, "the record that the scoring run holds")
    named = ", ".join(
        f"{name} is {_shorten(record.get(name))}, the scoring run holds {_shorten(held.get(name))}"
        for name in changed[:_MOST_NAMED]
    )
    return Finding(what, False, f"{len(changed)} fields were changed: {named}")


def _shorten(value: Any) -> str:
    """Show the start of a value."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def check_elements(file: h5py.File, written: Written, order: CellOrder) -> Iterator[Finding]:
    """Compare cells, columns and matrices with what was written.

    Parameters
    ----------
    file
        The annotated file.
    written
        What was written, as the registry or the file's own record says.
    order
        The file's cells.
    """
    if order.n_cells != written.n_cells:
        more = "added, or written more than once" if order.n_cells > written.n_cells else "removed"
        yield Finding(
            "cells", False, f"{order.n_cells} cells, {written.n_cells} were written: cells were {more}"
        )
        return
    found = {place: _hash_place(file, place, order) for place in written.elements}
    n_same = [
        sum(one is not None and one[way] == written.elements[place][way] for place, one in found.items())
        for way in (0, 1)
    ]
    way = 1 if order.in_order != written.ids and n_same[1] > n_same[0] else 0
    yield _check_cells(order, written, is_moved=way == 1)
    altered = [
        place for place, one in found.items() if one is None or one[way] != written.elements[place][way]
    ]
    for place in altered:
        gone = "is gone, or cannot be read" if found[place] is None else "was changed"
        yield Finding(show_place(place), False, f"{gone} ({order.n_cells} cells)")
    if not altered:
        yield Finding("columns and matrices", True, f"{len(found)} as they were written")


def _check_cells(order: CellOrder, written: Written, *, is_moved: bool) -> Finding:
    """Compare ids and their order."""
    if order.in_order == written.ids:
        return Finding("cells", True, f"{order.n_cells} ids in the order in which they were written")
    if order.by_name != written.ids_by_name:
        doubled = order.n_cells - order.n_different
        also = f"; {doubled} ids stand there more than once" if doubled else ""
        return Finding("cells", False, f"ids were changed, or other cells have taken their place{also}")
    if is_moved:
        return Finding("cells", False, "the cells were reordered")
    return Finding("cells", False, "ids were given to other cells: the values stand where they stood")


def _hash_place(file: h5py.File, place: str, order: CellOrder) -> tuple[str, str] | None:
    """Hash what stands at a place; None where nothing does that could be hashed."""
    slot, _, name = place.partition("/")
    if name not in file.get(slot, {}):
        return None
    content = read_quietly(file[slot][name])
    if content is None or np.shape(content)[:1] != (order.n_cells,):
        return None
    return order.hash(content)
