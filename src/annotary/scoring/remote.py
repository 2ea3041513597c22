"""Inputs on servers and in object stores, through fsspec."""

from pathlib import Path
from typing import Any

import fsspec
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from annotary.data.discovery import is_input_name
from annotary.data.pickles import is_pickle
from annotary.data.special_files import refuse_special_files
from annotary.errors import InputFileError, summarize
from annotary.scoring.identity import Identity
from annotary.scoring.retry import PassingError

_WHAT_CHANGES = ("ETag", "etag", "LastModified", "last_modified", "mtime", "updated", "md5Hash")
_GLOB = "*?["
_REFUSALS = (400, 401, 403, 410)
"""HTTP's answers that will be the same next time."""


def list_remote(address: str, *, recursive: bool) -> list[str]:
    """List the files that an address means: itself, the files of a folder, or those that a glob matches.

    Raises
    ------
    InputFileError
        If there is nothing, or it cannot be asked for.
    """
    files, path = _open(address)
    try:
        if any(sign in address for sign in _GLOB):
            is_wanted = is_pickle if is_pickle(address) else is_input_name
            found = [one for one in files.glob(path) if is_wanted(one)]
        elif is_input_name(address) or is_pickle(address):
            found = [path] if files.exists(path) else []
        else:
            listed = files.find(path) if recursive else files.ls(path, detail=False)
            found = [one for one in listed if is_input_name(one)]
    except FileNotFoundError:
        found = []
    except Exception as error:
        raise _describe(address, error) from error
    if not found:
        raise InputFileError(
            address,
            expected="to be a file, a folder or a glob of files to annotate",
            found="nothing that can be read",
            remedy="Check the address, and that you may read it.",
        )
    return sorted(files.unstrip_protocol(one) for one in found)


def identify_remote(address: str) -> Identity:
    """Ask for size and version of a remote file.

    Raises
    ------
    InputFileError
        If it is not there.
    """
    files, path = _open(address)
    try:
        if isinstance(files, LocalFileSystem):
            refuse_special_files(Path(path))
        about = files.info(path)
    except InputFileError:
        raise
    except Exception as error:  # each protocol's library has errors of its own
        raise _describe(address, error) from error
    size = about.get("size")
    parts = [f"{name}={about[name]}" for name in _WHAT_CHANGES if about.get(name)]
    known = bool(parts) and size is not None
    return Identity(
        size=-1 if size is None else int(size),
        fingerprint=f"{size}-{'-'.join(parts)}" if known else "",
        changed=None,
    )


def fetch_remote(address: str, target: Path) -> None:
    """Download a remote file, or a folder such as a zarr store.

    Raises
    ------
    PassingError
        If the server is away, or breaks off.
    InputFileError
        If the file is not there.
    """
    files, path = _open(address)
    try:
        files.get(path, str(target), recursive=files.isdir(path))
    except Exception as error:  # each protocol's library has errors of its own
        raise _describe(address, error) from error


def _open(address: str) -> tuple[Any, str]:
    """Find the file system of an address."""
    try:
        files, path = url_to_fs(address)
    except (ImportError, ValueError) as error:
        known = ", ".join(sorted(fsspec.available_protocols())[:8])
        raise InputFileError(
            address,
            expected="an address that fsspec can open",
            found=summarize(error),
            remedy=f"Install the package that it names, or use another address ({known}, ...).",
        ) from error
    files.invalidate_cache()
    return files, path


def _describe(address: str, error: Exception) -> InputFileError:
    """Tell a file that is not there from a server that is away."""
    status = getattr(error, "status", 0)
    if isinstance(error, FileNotFoundError | PermissionError) or status in _REFUSALS:
        return InputFileError(
            address,
            expected="to be a remote file that can be read",
            found="no such file" if isinstance(error, FileNotFoundError) else summarize(error),
            remedy="Check the address, and that you may read it.",
        )
    return PassingError(
        address,
        expected="its server to answer",
        found=summarize(error),
        remedy="The next run tries it again.",
    )
