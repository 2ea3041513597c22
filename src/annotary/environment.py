"""What libraries take for granted of a user: a name, a home, folders for caches and temporary files.

A container that runs under a number, on a root file system that can only be read, has none of them.
"""

import getpass
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from annotary.errors import ConfigError

_SCRATCH = ".annotary-tmp"
_CACHES = {
    "XDG_CACHE_HOME": "cache",
    "XDG_CONFIG_HOME": "config",
    "MPLCONFIGDIR": "matplotlib",
    "NUMBA_CACHE_DIR": "numba",
    "TORCHINDUCTOR_CACHE_DIR": "torch",
}
"""Where fontconfig, Matplotlib, Numba and PyTorch keep what they would make again; Numba fails without."""


def name_user() -> str:
    """Name the user, by the number where it has no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return str(os.getuid())


def prepare_environment(folders: Iterable[Path]) -> None:
    """Give the libraries a user's name, a temporary folder and places for caches, where there are none.

    Parameters
    ----------
    folders
        Where temporary files may lie if there is no folder for them, the best first.

    Raises
    ------
    ConfigError
        If the current folder is gone, or nothing can be written.
    """
    _check_current_folder()
    os.environ.setdefault("LOGNAME", name_user())
    _prepare_scratch(folders)
    home = os.environ.get("HOME", "")
    if home and os.access(home, os.W_OK | os.X_OK):
        return
    cache = _find_cache()
    for name, place in _CACHES.items():
        os.environ.setdefault(name, str(cache / place))
    if not home:
        os.environ["HOME"] = str(cache)


def _check_current_folder() -> None:
    """Refuse a current folder that was removed, in which no relative path means anything."""
    try:
        os.getcwd()
    except OSError as error:
        raise ConfigError(
            "the current folder",
            expected="to be there",
            found=(error.strerror or str(error)).lower(),
            remedy="Change to a folder that exists (cd), and start again.",
        ) from error


def _prepare_scratch(folders: Iterable[Path]) -> None:
    """Have temporary files made in one of some folders where no usual one can be written."""
    try:
        tempfile.gettempdir()
    except FileNotFoundError as error:
        for folder in folders:
            scratch = folder / _SCRATCH
            try:
                scratch.mkdir(parents=True, exist_ok=True)
                tempfile.TemporaryFile(dir=scratch).close()
            except OSError:
                continue
            tempfile.tempdir = os.environ["TMPDIR"] = str(scratch)
            return
        raise ConfigError(
            "TMPDIR",
            expected="to be a folder for temporary files",
            found=(error.strerror or str(error)).lower(),
            remedy="Set TMPDIR to a folder that can be written.",
        ) from error


def _find_cache() -> Path:
    """Find a folder for caches that is this user's alone, below the temporary one."""
    folder = Path(tempfile.gettempdir()) / f"annotary-cache-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        about = folder.lstat()
    except OSError:
        return Path(tempfile.mkdtemp(prefix="annotary-cache-"))
    is_own = about.st_uid == os.getuid() and folder.is_dir() and not folder.is_symlink()
    return folder if is_own else Path(tempfile.mkdtemp(prefix="annotary-cache-"))
