"""Opening HDF5 files that may be damaged, or point outside themselves."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import h5py

from annotary.errors import InputFileError, summarize


@contextlib.contextmanager
def open_hdf5(path: Path, *, shown_as: Path, kind: str) -> Iterator[h5py.File]:
    """Open a file for reading.

    Parameters
    ----------
    path
        The file.
    shown_as
        Its name in messages.
    kind
        What it should be, such as ``h5ad file``.

    Raises
    ------
    InputFileError
        If it is missing, unreadable, no HDF5, damaged, or takes content from other files.
    """
    problem = None
    if not path.exists():
        problem = "no such file"
    elif path.is_dir():
        problem = "a folder"
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
            expected=f"to be an {kind}" if kind.startswith("h5ad") else f"to be a {kind}",
            found=problem,
            remedy="Check the path; relative paths start from the folder of the call.",
        )
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise describe_damage(shown_as, error, kind=kind) from error
    with file:
        try:
            refuse_outside_content(file, shown_as)
        except (OSError, RuntimeError, KeyError) as error:
            raise describe_damage(shown_as, error, kind=kind) from error
        yield file


def refuse_outside_content(file: h5py.File, path: Path) -> None:
    """Refuse links and datasets whose content lies in other files: a hash of this one says nothing of them.

    Raises
    ------
    InputFileError
        Naming the first such element.
    """
    groups, seen = [file["/"]], set()
    while groups:
        group = groups.pop()
        address = h5py.h5o.get_info(group.id).addr
        if address not in seen:  # hard links may run in a circle
            seen.add(address)
            groups += _list_groups(group, path)


def _list_groups(group: h5py.Group, path: Path) -> list[h5py.Group]:
    """List the groups in a group, refusing elements whose content is not their own."""
    groups = []
    for name in group:
        link = group.get(name, getlink=True)
        place = f"{path}: {group.name.rstrip('/')}/{name}"
        if isinstance(link, h5py.ExternalLink):
            raise _describe_outside(place, f"an external link to {link.filename!r}")
        if isinstance(link, h5py.SoftLink):
            raise _describe_outside(place, f"a soft link to {link.path!r}")
        item = group[name]
        if isinstance(item, h5py.Group):
            groups.append(item)
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


def describe_damage(
    path: Path, error: Exception, *, kind: str = "h5ad file", element: str = ""
) -> InputFileError:
    """Describe a file, or one element of it, that its reader cannot read."""
    return InputFileError(
        f"{path}: {element}" if element else path,
        expected=f"to be {'part of ' if element else ''}a whole {kind}",
        found=f"an unreadable {'element' if element else 'one'} ({summarize(error)})",
        remedy="Copy or write it again; it may have been cut short.",
    )
