"""What libraries raise for files that they cannot read, and the one error that a person sees instead."""

import csv
import errno
import lzma
import pickle
import re
import struct
import zlib
from pathlib import Path

from anndata._io.specs.registry import IORegistryError
from safetensors import SafetensorError

from annotary.errors import InputFileError, summarize

READERS_RAISE: tuple[type[Exception], ...] = (
    OSError,
    EOFError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    RuntimeError,
    ImportError,
    csv.Error,
    IORegistryError,
    lzma.LZMAError,
    pickle.UnpicklingError,
    SafetensorError,
    struct.error,
    zlib.error,
)
"""What a reader of a damaged or foreign file may raise; memory that is short is not the file's fault."""

UNREADABLE: tuple[type[Exception], ...] = (*READERS_RAISE, InputFileError)
"""The same, or what annotary makes of it."""

_NOT_THE_FILE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENOMEM)
_ANNDATA_ADDS = re.compile(r"Error raised while reading key '(.+)' of .* from /(.*)")


def is_not_the_file(error: Exception) -> bool:
    """Tell an error of the machine, such as a full disk, from one of the file that is read."""
    return isinstance(error, OSError) and error.errno in _NOT_THE_FILE


def describe_damage(
    path: Path, error: Exception, *, kind: str = "h5ad file", element: str = ""
) -> InputFileError:
    """Describe a file, or one element of it, that its reader cannot read."""
    return InputFileError(
        f"{path}: {element}" if element else path,
        expected=f"to be {'part of ' if element else ''}a whole {kind}",
        found=f"an unreadable {'element' if element else 'one'} ({_say(error)})",
        remedy="Copy or write it again; it may have been cut short, or come from another version of "
        "its writer."
        if isinstance(error, IORegistryError)
        else "Copy or write it again; it may have been cut short.",
    )


def _say(error: Exception) -> str:
    """Give what an error says, with the part of the element that anndata names in a note."""
    text = summarize(error)
    for line in [*str(error).splitlines(), *getattr(error, "__notes__", ())]:
        if told := _ANNDATA_ADDS.search(line):
            return f"{text}, at {f'{told[2]}/{told[1]}'.replace('//', '/').lstrip('/')}"
    return text
