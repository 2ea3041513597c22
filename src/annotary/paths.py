"""Relative paths as the person who typed them meant them, and addresses without their passwords."""

import os
import re
from pathlib import Path

import psutil

_REMOTE = re.compile(r"(runs|models|mlflow-artifacts|http|https|s3|gs|dbfs|file):|[a-z][a-z0-9+.-]+://")
_RUN_ID = re.compile(r"[0-9a-f]{32}")
_PASSWORD = re.compile(r"(\w://[^:/@\s]*:)[^/\s]*@")
_SHELL_AND_MLFLOW = 3


def is_remote(address: str) -> bool:
    """Tell an address that MLflow or fsspec downloads from a path on this machine."""
    return _REMOTE.match(address) is not None


def is_run_id(text: str) -> bool:
    """Tell the id of an MLflow run from a path."""
    return _RUN_ID.fullmatch(text) is not None


def resolve_path(text: str) -> str:
    """Make a path absolute, starting from the folder of the call; empty and remote ones stay."""
    if not text or is_remote(text):
        return text
    return str((find_caller_folder() / Path(text).expanduser()).resolve())


def resolve_paths(text: str) -> str:
    """Make the paths of a comma-separated list absolute; a path that exists as it stands is one."""
    whole = resolve_path(text)
    if "," not in text or Path(whole).exists():
        return whole
    return ",".join(resolve_path(part.strip()) for part in text.split(",") if part.strip())


def resolve_storage(text: str) -> str:
    """Make the path of an SQLite file its address; empty and addresses stay."""
    if not text or "://" in text:
        return text
    return f"sqlite:///{resolve_path(text)}"


def hide_password(text: str) -> str:
    """Put stars for the password of an address such as ``postgresql://USER:PASSWORD@HOST/NAME``."""
    return _PASSWORD.sub(r"\1***@", text)


def find_caller_folder() -> Path:
    """Find the folder in which the command was typed.

    ``mlflow run`` starts its command in the project's folder and does not say
    where it was called; the folder of its own process does.
    """
    here = Path.cwd()
    if "MLFLOW_RUN_ID" not in os.environ:
        return here
    for parent in psutil.Process().parents()[:_SHELL_AND_MLFLOW]:
        try:
            folder = Path(parent.cwd())
        except psutil.Error:
            continue
        if folder != here:
            return folder
    return here
