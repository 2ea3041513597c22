"""Standard streams that are there and take what is written, whatever the caller did to them."""

import contextlib
import os
import sys
from typing import TextIO


def open_missing_streams() -> None:
    """Open the null device for each standard stream that is closed.

    Otherwise a data file would get its number, and what a library prints would go into it.
    """
    for handle, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(handle)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != handle:
                os.dup2(opened, handle)
                os.close(opened)
            os.set_inheritable(handle, True)
        if getattr(sys, name) is None:
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, open(handle, mode, closefd=False, errors="backslashreplace"))  # noqa: SIM115


class LenientStream:
    """Standard error as it is at the time, for what no work may fail of: it may be closed or full."""

    def write(self, text: str) -> int:
        """Write, if it can be."""
        with contextlib.suppress(OSError, ValueError, AttributeError):
            _stderr().write(text)
        return len(text)

    def flush(self) -> None:
        """Flush, if it can be."""
        with contextlib.suppress(OSError, ValueError, AttributeError):
            _stderr().flush()

    def isatty(self) -> bool:
        """Tell whether a person sees it."""
        with contextlib.suppress(OSError, ValueError, AttributeError):
            return _stderr().isatty()
        return False

    def fileno(self) -> int:
        """Give its number, for the width of the terminal."""
        return _stderr().fileno()

    @property
    def encoding(self) -> str:
        """Its encoding."""
        return getattr(_stderr(), "encoding", None) or "utf-8"


def _stderr() -> TextIO:
    """Give standard error; a program without one has None there."""
    return sys.stderr
