"""Relative paths as the person who typed them meant them, and addresses without their passwords."""

import os
import re
from pathlib import Path

from annotary.launching import find_launcher
from annotary.sqlite_address import to_address

_REMOTE = re.compile(r"(runs|models|mlflow-artifacts|http|https|s3|gs|dbfs|file):|[a-z][a-z0-9+.-]+://")
_RUN_ID = re.compile(r"[0-9a-f]{32}")
_PASSWORD = re.compile(r"(\w://[^:/@\s]*:)[^/\s]*@")


def is_remote(address: str) -> bool:
    """Tell an address that MLflow or fsspec downloads from a path on this machine."""
    return _REMOTE.match(address) is not None


def is_run_id(text: str) -> bool:
    """Tell the id of an MLflow run from a path."""
    return _RUN_ID.fullmatch(text) is not None


def resolve_path(text: str) -> str:
    """Make a path absolute, starting from the folder of the call; empty and remote ones stay.

    Links are not followed: the link's own name says what a file is called and which format it has.
    """
    if not text or is_remote(text):
        return text
    return str(_climb(find_caller_folder() / _find_home(text)))


def resolve_paths(text: str) -> str:
    """Make the paths of a comma-separated list absolute; a path that exists as it stands is one."""
    if "," not in text:
        return resolve_path(text)
    whole = resolve_path(text)
    if os.path.exists(whole):  # no error where the list is longer than a name may be
        return whole
    return ",".join(resolve_path(part.strip()) for part in text.split(",") if part.strip())


def resolve_storage(text: str) -> str:
    """Make the path of an SQLite file its address; empty and addresses stay."""
    if not text or "://" in text:
        return text
    return to_address(resolve_path(text))


def _find_home(text: str) -> Path:
    """Put the home folder for ``~``; where there is none, it is a name like others."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        return Path(text)


def _climb(path: Path) -> Path:
    """Take ``..`` out of an absolute path as the file system does: after a link leads above its target."""
    climbed = Path(path.anchor)
    for part in path.parts[1:]:
        if part != "..":
            climbed /= part
        else:
            climbed = Path(os.path.realpath(climbed) if os.path.islink(climbed) else climbed).parent
    return climbed


def hide_password(text: str) -> str:
    """Put stars for the password of an address such as ``postgresql://USER:PASSWORD@HOST/NAME``."""
    return _PASSWORD.sub(r"\1***@", text)


def find_caller_folder() -> Path:
    """Find the folder in which the command was typed.

    ``mlflow run`` starts its command in the project's folder and does not say
    where it was called; the folder of its own process does. An id of a run alone is no sign of it:
    :func:`annotary.tracking_store.settle_run` removes one that is left over.
    """
    launcher = find_launcher()
    return launcher.folder if launcher else Path.cwd()
