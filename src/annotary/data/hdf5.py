"""Opening HDF5 files that may be damaged, claim what they do not hold, or point outside themselves.

Every reader of HDF5 goes through here: :func:`open_hdf5` for the file, :func:`read_element` for what anndata
wrote in it.
"""

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anndata
import anndata.io
import h5py

from annotary.data.claims import refuse_claims
from annotary.data.damage import READERS_RAISE, describe_damage, is_not_the_file
from annotary.errors import InputFileError

_DEEPEST = 64
"""Groups within groups; anndata's files have about five."""


@contextlib.contextmanager
def open_hdf5(path: Path, *, shown_as: Path | None = None, kind: str = "h5ad file") -> Iterator[h5py.File]:
    """Open a file for reading.

    Parameters
    ----------
    path
        The file.
    shown_as
        Its name in messages; None takes the path.
    kind
        What it should be, such as ``h5ad file``.

    Raises
    ------
    InputFileError
        If it is missing, unreadable, no HDF5, damaged, or takes content from other files.
    """
    shown_as = shown_as or path
    problem = None
    if not path.exists():
        problem = "no such file"
    elif path.is_dir():
        problem = "a folder"
    elif not path.is_file():
        problem = "a pipe or a device"  # to open it would wait for another program
    else:
        try:
            path.open("rb").close()
        except OSError as error:
            problem = f"one that cannot be opened ({error.strerror})"
        else:
            if not h5py.is_hdf5(path):
                problem = f"a file of {path.stat().st_size} bytes that is not HDF5"
    if problem:
        raise InputFileError(
            shown_as,
            expected=f"to be an {kind}" if kind[0] in "aeh" else f"to be a {kind}",
            found=problem,
            remedy="Check the path; relative paths start from the folder of the call.",
        )
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        if is_not_the_file(error):
            raise
        raise describe_damage(shown_as, error, kind=kind) from error
    with file:
        try:
            refuse_outside_content(file, shown_as)
        except READERS_RAISE as error:
            raise describe_damage(shown_as, error, kind=kind) from error
        yield file


def read_element(element: h5py.Dataset | h5py.Group, *, path: Path, name: str = "") -> Any:
    """Read what anndata wrote, once its sizes are known to be true.

    Parameters
    ----------
    element
        A table, a column, a mapping, an array.
    path
        Name of the file in messages.
    name
        Its name in messages; empty takes its address in the file.

    Raises
    ------
    InputFileError
        If it is damaged, of an encoding that this anndata does not know, or far larger than what is stored.
    """
    name = name or element.name.lstrip("/")
    try:
        refuse_claims(element, f"{path}: {name}")
        return anndata.io.read_elem(element)
    except READERS_RAISE as error:
        raise describe_damage(path, error, element=name) from error


def read_anndata(path: Path, *, shown_as: Path | None = None, backed: bool = False) -> anndata.AnnData:
    """Read a whole h5ad file, or all of it but the matrices; of any version of anndata.

    Raises
    ------
    InputFileError
        As :func:`open_hdf5` and :func:`read_element` do.
    """
    shown_as = shown_as or path
    with open_hdf5(path, shown_as=shown_as) as file:
        for name in file:
            is_read = not backed or name not in ("X", "layers", "raw", "raw.X")
            refuse_claims(file[name], f"{shown_as}: {name}", is_whole=is_read)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # anndata wants old layouts written again
            return anndata.read_h5ad(path, backed="r" if backed else None)
    except READERS_RAISE as error:
        raise describe_damage(shown_as, error) from error


def list_top(path: Path) -> dict[str, str]:
    """List what lies at the top of a file: ``group``, ``records`` or ``array`` of each name.

    Returns
    -------
    Nothing where the file cannot be opened, which its reader will tell.
    """
    kinds = {}
    try:
        with h5py.File(path, "r") as file:
            for name in file:
                if isinstance(file.get(name, getlink=True), h5py.HardLink):
                    item = file[name]
                    has_names = isinstance(item, h5py.Dataset) and item.dtype.names
                    kinds[name] = (
                        "group" if isinstance(item, h5py.Group) else "records" if has_names else "array"
                    )
    except READERS_RAISE:
        return {}
    return kinds


def refuse_outside_content(file: h5py.File, path: Path) -> None:
    """Refuse links and datasets whose content lies in other files: a hash of this one says nothing of them.

    Raises
    ------
    InputFileError
        Naming the first such element, or one that lies deeper than any that anndata writes.
    """
    groups, seen = [("", 0, file["/"])], set()
    while groups:
        name, depth, group = groups.pop()
        address = h5py.h5o.get_info(group.id).addr
        if address in seen:  # hard links may run in a circle
            continue
        seen.add(address)
        if depth > _DEEPEST:
            raise InputFileError(
                f"{path}: {name.split('/')[1]}",
                expected=f"at most {_DEEPEST} groups within each other",
                found="more",
                remedy="Write the file again as a whole with anndata's write_h5ad.",
            )
        groups += [(f"{name}/{one}", depth + 1, item) for one, item in _list_groups(group, f"{path}: {name}")]


def _list_groups(group: h5py.Group, above: str) -> list[tuple[str, h5py.Group]]:
    """List the groups in a group, refusing elements whose content is not their own."""
    groups = []
    for name in group:
        link = group.get(name, getlink=True)
        place = f"{above}/{name}"
        if isinstance(link, h5py.ExternalLink):
            raise _describe_outside(place, f"an external link to {link.filename!r}")
        if isinstance(link, h5py.SoftLink):
            raise _describe_outside(place, f"a soft link to {link.path!r}")
        item = group[name]
        if isinstance(item, h5py.Group):
            groups.append((name, item))
        elif isinstance(item, h5py.Dataset):
            if item.is_virtual:
                raise _describe_outside(place, "a virtual dataset")
            if item.external:
                raise _describe_outside(place, f"an external dataset, stored in {item.external[0][0]!r}")
    return groups


def _describe_outside(place: str, found: str) -> InputFileError:
    """Describe an element whose content is not its own."""
    return InputFileError(
        place,
        expected="to hold its own content",
        found=found,
        remedy="Write the file again as a whole with anndata's write_h5ad.",
    )
