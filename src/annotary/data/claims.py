"""Sizes that a file only claims, set against the bytes that it stores, before memory is taken for them."""

from collections.abc import Iterator
from math import prod

import h5py

from annotary.data.hdf5_filters import refuse_missing_filters
from annotary.errors import InputFileError

MOST_UNCHECKED = 1 << 28
"""Bytes that an element, or one chunk of it, may take whatever is stored of it."""
MOST_PER_BYTE = 50
"""Bytes that each stored byte may stand for, beyond that; tables and counts that are real stay far below."""

_MOST_UNSTORED = 1 << 24
_MOST_PACKED = 2_000
"""Bytes that a filter can make of one; deflate's best is 1,032."""
_LEAST_TEXT = 16
"""Bytes of a text of any length on the disk, without its letters."""


def refuse_claims(element: h5py.Dataset | h5py.Group, place: str, *, is_whole: bool = True) -> None:
    """Refuse an element that would take far more memory than is stored of it, or whose filter is missing.

    Parameters
    ----------
    element
        An array, or a group of them such as a table.
    place
        File and element, for the message.
    is_whole
        Whether it will be read at once, and not in stretches.

    Raises
    ------
    InputFileError
        Naming the array with the largest claim.
    """
    unstored, claimed, worst = 0, 0, (0, "", element)
    for name, array in _list_arrays(element):
        refuse_missing_filters(array, f"{place}{name}")
        _refuse_chunks(array, f"{place}{name}")
        size, stored = _measure(array), array.id.get_storage_size()
        packed = _MOST_PACKED if array.id.get_create_plist().get_nfilters() else 1
        unstored += max(0, size - packed * stored)
        claimed += size
        worst = max(worst, (size, name, array), key=lambda one: one[0])
    limit = max(MOST_UNCHECKED, MOST_PER_BYTE * element.file.id.get_filesize())
    if unstored > _MOST_UNSTORED or (is_whole and claimed > limit):
        size, name, array = worst
        raise describe_claim(f"{place}{name}", array.shape, size, stored=array.id.get_storage_size())


def describe_claim(place: str, shape: tuple[int, ...], size: int, *, stored: int) -> InputFileError:
    """Describe an array that says it is far larger than what is stored of it."""
    return InputFileError(
        place,
        expected="about as many values as are stored of it",
        found=f"a claim of {' x '.join(f'{one:,}' for one in shape) or 1} values ({size:,} bytes), "
        f"of which {stored:,} bytes are stored",
        remedy="Write the file again; it is damaged, or was made to fill the memory.",
    )


def _refuse_chunks(array: h5py.Dataset, place: str) -> None:
    """Refuse chunks of which one would fill the memory: to read one value, all of its chunk is unpacked."""
    if array.chunks is None:
        return
    size = prod(array.chunks) * max(array.dtype.itemsize, _LEAST_TEXT if array.dtype.hasobject else 0)
    stored = array.id.get_storage_size()
    if size > max(MOST_UNCHECKED, MOST_PER_BYTE * stored):
        raise describe_claim(f"{place} (one chunk of it)", array.chunks, size, stored=stored)


def _measure(array: h5py.Dataset) -> int:
    """Measure the bytes that an array takes once it is read, without the letters of texts of any length."""
    if array.shape is None:
        return 0
    return prod(array.shape) * max(array.dtype.itemsize, _LEAST_TEXT if array.dtype.hasobject else 0)


def _list_arrays(element: h5py.Dataset | h5py.Group) -> Iterator[tuple[str, h5py.Dataset]]:
    """List the arrays of an element, with their addresses in it; links to outside were refused before."""
    if isinstance(element, h5py.Dataset):
        yield "", element
        return
    groups, seen = [("", element)], set()
    while groups:
        above, group = groups.pop()
        address = h5py.h5o.get_info(group.id).addr
        if address in seen:
            continue
        seen.add(address)
        for name in group:
            item = group[name]
            if isinstance(item, h5py.Group):
                groups.append((f"{above}/{name}", item))
            elif isinstance(item, h5py.Dataset):
                yield f"{above}/{name}", item
