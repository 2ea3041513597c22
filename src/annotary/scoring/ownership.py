"""What in a file is annotary's, element by element: a record with hashes says so; all else is kept."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd

from annotary import keys
from annotary.data.damage import UNREADABLE
from annotary.data.hashing import hash_strings
from annotary.data.hdf5 import open_hdf5, read_element
from annotary.scoring.written import KEPT_SUFFIX, CellOrder, Written, is_sealed, read_record_of

_INDEX, _ORDER = "_index", "column-order"
_MANY_COLUMNS = 3000  # an attribute of 64 KiB names 4,095
_TOO_LARGE = "object header message is too large"


@dataclass
class Room:
    """Room made in a file for what is to be written.

    Attributes
    ----------
    moved
        Where that is now which was there, by its place.
    replaced
        Places of what was annotary's, and is gone.
    earlier
        Hashes of what an earlier run wrote, and this one does not, by place.
    """

    moved: dict[str, str] = field(default_factory=dict)
    replaced: list[str] = field(default_factory=list)
    earlier: dict[str, tuple[str, str]] = field(default_factory=dict)


def make_room(file: h5py.File, places: list[str], order: CellOrder, *, prefix: str) -> Room:
    """Remove what annotary wrote under some names, and rename everything else that has them.

    Parameters
    ----------
    file
        The file, open for writing.
    places
        What is to be written, such as ``obs/conf_score``; the record's place is among them.
    order
        The file's cells.
    prefix
        Whose record says what is annotary's.
    """
    room = Room()
    unchanged = _list_unchanged(file, order, prefix)
    for place in places:
        slot, name = place.split("/", 1)
        if name not in file.get(slot, {}):
            continue
        if place in unchanged:
            del file[slot][name]
            room.replaced.append(place)
        else:
            room.moved[place] = f"{slot}/{_move_aside(file[slot], name)}"
    room.earlier = {place: hashes for place, hashes in unchanged.items() if place not in places}
    return room


def _list_unchanged(file: h5py.File, order: CellOrder, prefix: str) -> dict[str, tuple[str, str]]:
    """List what is as the prefix's record says, with its hashes; the record itself among it."""
    record = read_record_of(file, prefix)
    if record is None:
        return {}
    own = {} if is_sealed(record) is False else {f"uns/{prefix}{keys.RECORD}": ("", "")}
    written = Written.from_record(record)
    if written is None:
        return own | _list_old_labels(file, order, record, prefix)
    for place, hashes in written.elements.items():
        slot, _, name = place.partition("/")
        if name in file.get(slot, {}):
            found = order.hash(read_quietly(file[slot][name]))
            if found[0] == hashes[0] or found[1] == hashes[1]:
                own[place] = found
    return own


def _list_old_labels(
    file: h5py.File, order: CellOrder, record: Mapping[str, Any], prefix: str
) -> dict[str, tuple[str, str]]:
    """Take the labels of a record that has their hash alone."""
    name = f"{prefix}{keys.PREDICTED_LABELS}"
    if name not in file["obs"]:
        return {}
    content = read_quietly(file["obs"][name])
    labels = pd.Series(content).astype(str)
    is_same = hash_strings(labels) == record.get("labels_hash")
    return {f"obs/{name}": order.hash(content)} if is_same else {}


def read_quietly(element: h5py.Group | h5py.Dataset) -> Any:
    """Read an element; None where anndata cannot, which no hash is the hash of."""
    try:
        return read_element(element, path=Path(element.file.filename))
    except UNREADABLE:
        return None


def _move_aside(group: h5py.Group, name: str) -> str:
    """Give an element a free name, and tell the table of it: a column, or the names of the cells."""
    kept = find_free_name(group, name)
    group.move(name, kept)
    if _text(group.attrs.get(_INDEX, "")) == name:
        group.attrs[_INDEX] = kept
    if _ORDER in group.attrs:
        order = [kept if _text(one) == name else _text(one) for one in group.attrs[_ORDER]]
        write_order(group.file, order)
    return kept


def find_free_name(group: h5py.Group, name: str) -> str:
    """Find a name that is not taken."""
    kept, number = f"{name}{KEPT_SUFFIX}", 1
    while kept in group:
        number += 1
        kept = f"{name}{KEPT_SUFFIX}_{number}"
    return kept


def choose_layout(path: Path) -> tuple[str, str] | None:
    """Choose the oldest and newest HDF5 layout of what is added to a file; None leaves it to HDF5.

    More columns than an attribute of the oldest layout can name need that of HDF5 1.8 (2008).
    """
    with open_hdf5(path) as file:
        many = len(file["obs"].attrs.get(_ORDER, ())) > _MANY_COLUMNS if "obs" in file else False
    return ("v108", "latest") if many else None


def write_order(file: h5py.File, order: list[str]) -> None:
    """Store the order of the columns of obs as anndata does, however many there are.

    An attribute of more than 64 KiB needs a group of HDF5's newer layout, to which the columns are linked
    then; the file must have been opened as :func:`choose_layout` says.
    """
    names = np.array(order, dtype=object)
    try:
        file["obs"].attrs.create(_ORDER, names, dtype=h5py.string_dtype())
        return
    except OSError as error:
        if _TOO_LARGE not in str(error):
            raise
    old, spare = file["obs"], find_free_name(file, "obs")
    new = file.create_group(spare)
    for name in old:
        new[name] = old[name]
    for name, value in old.attrs.items():
        if name != _ORDER:
            new.attrs[name] = value
    new.attrs.create(_ORDER, names, dtype=h5py.string_dtype())
    del file["obs"]
    file.move(spare, "obs")


def _text(value: Any) -> str:
    """Give an attribute's text."""
    return value.decode() if isinstance(value, bytes) else str(value)
