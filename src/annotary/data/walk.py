"""A walk through an h5ad file that touches all that HDF5 could hang or die on, and keeps nothing of it."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import h5py

from annotary import pulse
from annotary.data.claims import refuse_claims
from annotary.data.damage import READERS_RAISE
from annotary.data.h5ad_elements import read_table
from annotary.data.hdf5 import open_hdf5
from annotary.errors import AnnotaryError

TABLES = ("obs", "var", "raw/var", "raw.var")
_STRETCH = 10_000
"""Values of an array that are read at once."""


def walk_h5ad(path: Path, *, places: Sequence[str] = ()) -> None:
    """Go through a file; what is wrong with it, but does not end the walk, is left to who reads it.

    Tables and texts are read, and of each matrix the ends and the index of its chunks: damage to its numbers
    gives wrong numbers or an error, but none that a process could not survive.

    Parameters
    ----------
    path
        The file.
    places
        Addresses of the elements that will be read; none takes all of the file.
    """
    with contextlib.suppress(AnnotaryError, *READERS_RAISE), open_hdf5(path) as file:
        for place in places or list(file):
            with contextlib.suppress(AnnotaryError, *READERS_RAISE):
                if place in file:
                    _walk(file, place, path)


def _walk(file: h5py.File, place: str, path: Path) -> None:
    """Go through one element, and read it as a table where it is one."""
    refuse_claims(file[place], f"{path}: {place}", is_whole=False)
    for item in _list_items(file[place]):
        pulse.beat()
        with contextlib.suppress(*READERS_RAISE):
            _touch(item)
    for table in TABLES:
        if table == place or table.startswith(f"{place}/"):
            read_table(file, table, path=path)


def _list_items(element: h5py.Dataset | h5py.Group) -> Iterator[h5py.Dataset | h5py.Group]:
    """List an element and all that is below it, each once; links to outside were refused before."""
    waiting, seen = [element], set()
    while waiting:
        item = waiting.pop()
        address = h5py.h5o.get_info(item.id).addr
        if address in seen:
            continue
        seen.add(address)
        yield item
        if isinstance(item, h5py.Group):
            waiting += [item[name] for name in item]


def _touch(item: h5py.Dataset | h5py.Group) -> None:
    """Read the attributes of an item; of an array also the index of its chunks, texts, and both ends."""
    for name in item.attrs:
        with contextlib.suppress(*READERS_RAISE):  # the next one may be worse
            item.attrs[name]
    if not isinstance(item, h5py.Dataset) or not item.shape or not item.size:
        return
    if item.chunks is not None:
        item.id.get_num_chunks()
        item.id.chunk_iter(lambda _: pulse.beat())
    ends = [slice(0, 1), slice(item.shape[0] - 1, item.shape[0])]
    has_text = item.dtype.hasobject
    for rows in _split(item.shape[0]) if has_text else ends:
        pulse.beat()
        item[rows]


def _split(n_rows: int) -> list[slice]:
    """Split rows into stretches."""
    return [slice(start, start + _STRETCH) for start in range(0, n_rows, _STRETCH)]
