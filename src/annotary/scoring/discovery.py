"""Which files to annotate, and which of them still wait."""

import codecs
import os
import time
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Self
from urllib.parse import urlsplit

from annotary.data.discovery import (
    CONVERTED_SUFFIX,
    check_readable,
    is_input_name,
    is_matrix_folder,
    list_folder,
    split_list,
    strip_ending,
)
from annotary.data.pickles import is_pickle
from annotary.data.special_files import name_link, refuse_special_files
from annotary.errors import InputFileError, printable
from annotary.log import warn
from annotary.paths import is_remote
from annotary.scoring.globbing import find_matches
from annotary.scoring.identity import Identity, identify
from annotary.scoring.remote import identify_remote, list_remote

LIST_SUFFIX = ".txt"
"""Ending of a file that lists inputs."""

_GLOB = "*?["
_MOST_NESTED = 20


@dataclass(frozen=True)
class ScoreInput:
    """A file (or folder of one matrix) to annotate.

    Attributes
    ----------
    address
        Absolute path, or remote address, as it is told, stored and hashed.
    name
        Its name without ending; behind the folders below a folder that was searched.
    is_named
        Whether a person named it, and not a folder that holds it.
    spelled
        The path or address itself, where it is no UTF-8 and so differs from what is told of it.
    """

    address: str
    name: str
    is_named: bool = True
    spelled: str = ""

    @classmethod
    def of(cls, path: Path, *, name: str = "", is_named: bool) -> Self:
        """Make an input of a path."""
        return cls.spell(str(path.absolute()), name=name or _name(path), is_named=is_named)

    @classmethod
    def spell(cls, text: str, *, name: str, is_named: bool) -> Self:
        """Make an input of a path or address as it is spelled."""
        address = printable(text)
        return cls(address, _to_file_name(name), is_named, "" if address == text else text)

    @property
    def path(self) -> Path:
        """Where a file of this machine lies."""
        return Path(self.spelled or self.address)

    @property
    def is_remote(self) -> bool:
        """Whether it must be fetched first."""
        return is_remote(self.address)

    def identify(self) -> Identity:
        """Ask the file system, or the server, what it says of the file.

        Raises
        ------
        InputFileError
            If it is not there.
        """
        if self.is_remote:
            return identify_remote(self.spelled or self.address)
        try:
            refuse_special_files(self.path)
            return identify(self.path)
        except (OSError, RecursionError, ValueError) as error:  # folders without end; a name that none may be
            raise InputFileError(
                self.address,
                expected="to be a file that can be read",
                found=(getattr(error, "strerror", None) or str(error)).lower() + name_link(self.path),
                remedy="Check the path; relative paths start from the folder of the call.",
            ) from error


@dataclass
class Found:
    """What an input means.

    Attributes
    ----------
    by_address
        Files to annotate, each once.
    empty
        Folders and globs without any.
    lists
        Lists that were read, and whether they are still being read.
    """

    by_address: dict[str, ScoreInput] = field(default_factory=dict)
    empty: list[str] = field(default_factory=list)
    lists: dict[Path, bool] = field(default_factory=dict)

    @property
    def inputs(self) -> list[ScoreInput]:
        """Files to annotate."""
        return list(self.by_address.values())

    def add(self, one: ScoreInput) -> None:
        """Add an input, unless it is there already."""
        self.by_address.setdefault(one.spelled or one.address, one)


@dataclass(frozen=True)
class Search:
    """How folders are searched.

    Attributes
    ----------
    recursive
        Whether folders below a folder are searched too.
    skipped
        Folders below one that hold what runs wrote: the output, the quarantine.
    """

    recursive: bool = False
    skipped: frozenset[Path] = frozenset()


def find_inputs(text: str, search: Search = Search()) -> Found:
    """List what to annotate, in the order of the text and by name within a folder.

    Parameters
    ----------
    text
        One of these, or several separated by commas: a file; a folder; a glob (``**`` for folders at
        any depth); a list, ``NAME.txt`` with one of these a line, from whose folder relative
        paths start; an address that fsspec opens.
    search
        How folders are searched.

    Raises
    ------
    InputFileError
        If something that is named is not there.
    """
    found = Found()
    for part in [text] if is_remote(text) and "," not in text else _split(text):
        _add(found, part, search, base=Path())
    return found


def wait_for(one: ScoreInput, identity: Identity, settle_seconds: float) -> float:
    """Tell for how many seconds a file is still taken for one that is being written; 0 if it is not.

    A file that a person named is not waited for. A time in the future is no sign of writing:
    the clock was set back, or another machine's differs.
    """
    if one.is_named or identity.changed is None:
        return 0.0
    age = time.time() - identity.changed
    return settle_seconds - age if 0 <= age < settle_seconds else 0.0


def _split(text: str) -> list[str]:
    """Split at commas, unless it is one path as it stands."""
    if "://" in text:
        return [part.strip() for part in text.split(",") if part.strip()]
    return [str(path) for path in split_list(text)]


def _add(found: Found, text: str, search: Search, *, base: Path) -> None:
    """Add what one part of an input means."""
    if is_remote(text):
        named = is_input_name(text) or is_pickle(text)
        kept = _leave_pickles(list_remote(text, recursive=search.recursive), text)
        if not kept:
            found.empty.append(text)
        for address in kept:
            found.add(ScoreInput.spell(address, name=_name_remote(address), is_named=named))
        return
    path = base / text
    if not os.path.exists(path) and any(sign in text for sign in _GLOB):
        _add_glob(found, str(path))
    elif path.suffix.lower() == LIST_SUFFIX:
        _add_list(found, path, search)
    elif os.path.isdir(path) and not is_matrix_folder(path):
        _add_folder(found, path, search)
    else:
        found.add(ScoreInput.of(path, is_named=True))


def _add_glob(found: Found, pattern: str) -> None:
    """Add the files that a pattern matches."""
    matched = [name for name in sorted(find_matches(pattern)) if _is_input(Path(name), pattern)]
    kept = _leave_pickles(matched, pattern)
    if not kept:
        found.empty.append(pattern)
    for path in map(Path, kept):
        found.add(ScoreInput.of(path, is_named=False))


def _is_input(path: Path, pattern: str) -> bool:
    """Tell a file of a known format, a folder of one matrix, or a pickle that the pattern is about."""
    if path.is_dir():
        return is_matrix_folder(path)
    return is_input_name(path.name) or (is_pickle(pattern) and is_pickle(path.name))


def _add_list(found: Found, path: Path, search: Search) -> None:
    """Add what the lines of a list mean; empty lines and those that begin with # mean nothing."""
    check_readable(path)
    whole = path.resolve()
    if whole in found.lists:
        if not found.lists[whole]:
            return  # all that it names is there
        raise InputFileError(
            path,
            expected="a list of files that ends",
            found="one that names itself, by another list or directly",
            remedy="Remove the line.",
        )
    if sum(found.lists.values()) >= _MOST_NESTED:
        raise InputFileError(
            path,
            expected=f"at most {_MOST_NESTED} lists within each other",
            found="one more",
            remedy="Name the files themselves.",
        )
    found.lists[whole] = True
    for line in _read_lines(path):
        if line and not line.startswith("#"):
            _add(found, line, search, base=path.parent)
    found.lists[whole] = False


def _read_lines(path: Path) -> list[str]:
    """Read the lines of a list; a name that is no UTF-8 is one all the same."""
    content = path.read_bytes()
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        content = content.decode("utf-16", "replace").encode()
    if b"\0" in content:
        raise InputFileError(
            path,
            expected="a list of files, one a line",
            found="bytes that are no text",
            remedy="Write it as plain text.",
        )
    return [line.strip() for line in content.decode("utf-8-sig", "surrogateescape").splitlines()]


def _add_folder(found: Found, folder: Path, search: Search) -> None:
    """Add the files of a folder."""
    check_readable(folder)
    listed = list_folder(folder, recursive=search.recursive, skipped=search.skipped)
    kept = _leave_pickles(list(map(str, listed)), str(folder))
    if not kept:
        found.empty.append(str(folder))
    for path in map(Path, kept):
        below = path.parent.relative_to(folder)
        found.add(ScoreInput.of(path, name=(below / _name(path)).as_posix(), is_named=False))


def _leave_pickles(places: list[str], text: str) -> list[str]:
    """Leave out pickles that nobody named, and say so; those that a person named are refused one by one."""
    if is_pickle(text):
        return places
    left = [place for place in places if is_pickle(place.rstrip("/"))]
    if left:
        warn(
            f"{text}: left out {len(left)} files such as {PurePosixPath(left[0]).name}, which may be "
            "pickles: those run whatever code they hold when they are read"
        )
    return [place for place in places if place not in set(left)]


def _name(path: Path) -> str:
    """Name an input by its file."""
    is_converted = path.name.lower().endswith(CONVERTED_SUFFIX)
    plain = path.name[: -len(CONVERTED_SUFFIX)] if is_converted else path.name
    return strip_ending(plain).removesuffix(".annotated")


def _to_file_name(name: str) -> str:
    """Make a name for outputs that every file system and database takes."""
    return (
        name.encode("utf-8", "surrogateescape")
        .decode("utf-8", "replace")
        .replace("\N{REPLACEMENT CHARACTER}", "_")
    )


def _name_remote(address: str) -> str:
    """Name a remote input by the last part of its path."""
    return _name(Path(PurePosixPath(urlsplit(address).path).name))
