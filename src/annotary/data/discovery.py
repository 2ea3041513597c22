"""Which files a person means by an input: a file, a folder, or several of them."""

import errno
import os
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from annotary.data.hashing import hash_source
from annotary.data.special_files import name_link
from annotary.data.tenx import MATRIX_NAMES
from annotary.errors import InputFileError

ZARR = ".zarr"
_ENDINGS = (".h5ad", ".h5ad.gz", ".h5", ".h5mu", ZARR, ".npy")
ANNOTATED_SUFFIX = ".annotated.h5ad"
"""Ending of the files that scoring writes; they are no inputs."""
CONVERTED_SUFFIX = ".converted.h5ad"
"""Ending of the h5ad copies of other formats; in a folder they are no inputs beside their originals."""

KEPT_FILE_SUFFIX = ".before_annotary"
"""Before the ending of what had an output's name and was kept; in a folder it is no input."""


@dataclass(frozen=True)
class Source:
    """One file (or folder of one matrix) of an input.

    Attributes
    ----------
    name
        Its name without ending, different from the other sources' names.
    path
        Where it lies.
    h5ad
        h5ad file with its content: itself, or what it was converted to.
    """

    name: str
    path: Path
    h5ad: Path

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of its bytes, or of the names and files of a folder."""
        return hash_source(self.path)


def split_list(text: str) -> list[Path]:
    """Split a comma-separated list of paths; a path that exists as it stands is one."""
    whole = Path(text)
    if os.path.exists(whole) or "," not in text:  # no error where a folder is closed, or a list too long
        return [whole]
    return [Path(part.strip()) for part in text.split(",") if part.strip()]


def find_sources(text: str) -> list[Source]:
    """List the sources of an input, in the order of the list and by name within a folder.

    Parameters
    ----------
    text
        A file, a folder with files of any known format, or several of them separated by commas.

    Raises
    ------
    InputFileError
        If a folder holds nothing readable, or a file is named twice.
    """
    paths = [path for part in split_list(text) for path in _open_folder(part)]
    for position, path in enumerate(paths):
        if os.path.realpath(path) in {os.path.realpath(other) for other in paths[:position]}:
            raise InputFileError(
                path, expected="to be named once", found="it twice", remedy="Name each file once."
            )
    names = [strip_ending(path.name) for path in paths]
    names = [
        f"{path.absolute().parent.name}/{name}" if names.count(name) > 1 else name
        for path, name in zip(paths, names, strict=True)
    ]
    names = [f"{name}-{position}" if names.count(name) > 1 else name for position, name in enumerate(names)]
    return [Source(name=name, path=path, h5ad=path) for name, path in zip(names, paths, strict=True)]


def _open_folder(path: Path) -> list[Path]:
    """List the sources of a folder; a matrix folder, a zarr store or a file is one itself."""
    check_readable(path)
    if not path.is_dir() or is_matrix_folder(path):
        return [path]
    found = list_folder(path)
    if not found:
        raise InputFileError(
            path,
            expected=f"files ending in {', '.join(_ENDINGS)}, or 10x matrix folders",
            found=f"{len(list(path.iterdir()))} files of other kinds",
            remedy="Name another folder or file with --input.",
        )
    for inner in found:
        check_readable(inner)
    return found


def list_folder(
    folder: Path, *, recursive: bool = False, skipped: Collection[Path] = frozenset()
) -> list[Path]:
    """List what a folder holds of the known formats, by name, without what scoring wrote there.

    Parameters
    ----------
    folder
        Where to look.
    recursive
        Whether to look into the folders below, but for links and hidden ones.
    skipped
        Folders below that are not looked into; resolved paths.
    """
    found = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not path.is_dir():
            found += [path] if is_input_name(path.name) and find_ending(path.name) != ZARR else []
        elif is_matrix_folder(path):
            found.append(path)
        elif recursive and not path.is_symlink() and path.resolve() not in skipped:
            found += list_folder(path, recursive=True, skipped=skipped)  # a link may lead back here
    return found


def is_input_name(name: str) -> bool:
    """Tell by its name a file of a known format that neither is hidden nor was written by scoring."""
    last = name.rstrip("/").rsplit("/", 1)[-1].lower()
    return (
        bool(find_ending(last))
        and not last.startswith(".")
        and not last.endswith((ANNOTATED_SUFFIX, CONVERTED_SUFFIX, f"{KEPT_FILE_SUFFIX}.h5ad"))
    )


def find_ending(name: str) -> str:
    """Tell the ending of a known format that a name has, in small letters; empty where it has none."""
    found = [ending for ending in _ENDINGS if name.lower().endswith(ending)]
    return max(found, key=len, default="")


def check_readable(path: Path) -> None:
    """Refuse what is not there, cannot be opened, or is neither file nor folder.

    Raises
    ------
    InputFileError
        With the reason.
    """
    try:
        if path.is_dir():
            if not os.access(path, os.R_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            return
        if path.exists() and not path.is_file():  # opening a pipe would wait for another program
            raise OSError(errno.EINVAL, "a pipe or a device")
        path.open("rb").close()
    except (OSError, ValueError) as error:  # the latter for a name with a character that none may have
        raise InputFileError(
            path,
            expected=f"to be a {'folder' if os.path.isdir(path) else 'file'} that can be read",
            found=f"no such file{name_link(path)}"
            if isinstance(error, FileNotFoundError)
            else (getattr(error, "strerror", None) or str(error)).lower(),
            remedy=_choose_remedy(error),
        ) from error


def _choose_remedy(error: Exception) -> str:
    """Say what to do about a path that cannot be opened."""
    if isinstance(error, PermissionError):
        return "Ask for the right to read it, for instance with chmod u+r."
    return "Check the path; relative paths start from the folder of the call."


def is_matrix_folder(folder: Path) -> bool:
    """Tell a folder that holds one matrix."""
    return find_ending(folder.name) == ZARR or any((folder / name).exists() for name in MATRIX_NAMES)


def strip_ending(name: str) -> str:
    """Drop the ending of a known format."""
    return name[: len(name) - len(find_ending(name))]
