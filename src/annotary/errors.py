"""One family of errors: each names the place, what it needs, what was found, and the remedy."""

import errno
from collections.abc import Sequence
from typing import Any

_LONGEST_SUMMARY = 200
_DISK_IS_FULL = (errno.ENOSPC, errno.EDQUOT)


def printable(text: object) -> str:
    r"""Give text that can be printed and stored anywhere: a byte that is no UTF-8 becomes ``\xfc``."""
    try:
        return str(text).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # half a character, of no path
        return str(text).encode("utf-8", "backslashreplace").decode()


class AnnotaryError(Exception):
    """An error for a person to read: one line, no traceback.

    Parameters
    ----------
    place
        File and element, option, or registry entry at fault.
    expected
        What is needed there, as the object of "needs".
    found
        What is there instead, with values.
    remedy
        What to do about it, as one sentence.

    Attributes
    ----------
    exit_code
        What the command line ends with.
    """

    exit_code = 1

    def __init__(self, place: object, *, expected: str, found: str, remedy: str) -> None:
        self.place = printable(place)
        self.expected = printable(expected)
        self.found = printable(found)
        self.remedy = printable(remedy)
        message = f"{self.place} needs {self.expected}; found {self.found}. {self.remedy}"
        super().__init__(" ".join(message.split()))

    def __reduce__(self) -> tuple[Any, ...]:
        """Let it pass from one process to another."""
        return _make_again, (type(self), self.place, self.expected, self.found, self.remedy)


def _make_again(
    kind: type["AnnotaryError"], place: str, expected: str, found: str, remedy: str
) -> "AnnotaryError":
    """Make an error of what another process told of it."""
    return kind(place, expected=expected, found=found, remedy=remedy)


class ConfigError(AnnotaryError):
    """A parameter has a value that cannot be used."""


class InputFileError(AnnotaryError):
    """A file is missing, unreadable, or of another format."""


class StalledError(InputFileError):
    """Reading a file makes no progress."""


class CrashError(InputFileError):
    """Reading a file ends the process that does it."""


class SetupError(InputFileError):
    """What reads a file is not installed on this machine; the file is not at fault."""


class ShortageError(AnnotaryError):
    """The machine has no room for the work, whatever the file: memory, mostly."""


class UnforeseenError(AnnotaryError):
    """Something went wrong that nobody foresaw: the work's fault until somebody knows better."""


class CountsError(AnnotaryError):
    """A matrix does not hold raw counts."""


class LabelError(AnnotaryError):
    """Labels are missing or too few."""


class GeneOverlapError(AnnotaryError):
    """Too few of a model's genes are in the data."""


class OutputError(AnnotaryError):
    """An output cannot be written."""


class BundleError(AnnotaryError):
    """A model's files are missing, altered, or of an unknown format."""


class RegistryError(AnnotaryError):
    """A run, model, version or alias is not there."""


class StoreError(RegistryError):
    """The tracking store, or the database of the studies, does not answer."""


class AccessError(RegistryError):
    """The tracking store does not know the user, or does not let it do this."""


def list_some(parts: Sequence[str], *, most: int, separator: str = ", ", what: str = "") -> str:
    """List the first parts, and how many more there are (``what`` follows their number)."""
    told, more = separator.join(parts[:most]), len(parts) - most
    return f"{told}{separator.strip(', ')} and {more} more{what}" if more > 0 else told


def summarize(error: Exception) -> str:
    """Give the first line of another library's error, or its type where it says nothing."""
    lines = str(error).splitlines()
    return lines[0][:_LONGEST_SUMMARY] if lines else type(error).__name__


def find_shortage(error: BaseException, place: object) -> AnnotaryError | None:
    """Find a full disk or a lack of memory behind an error: neither is the fault of the file that is read."""
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, OSError) and found.errno in _DISK_IS_FULL:
            return OutputError(
                place,
                expected="room on the disk to be annotated",
                found=(found.strerror or str(found)).lower(),
                remedy="Free some space or name another folder with --output; the next run tries it again.",
            )
        if isinstance(found, MemoryError) or (isinstance(found, OSError) and found.errno == errno.ENOMEM):
            return describe_shortage(place, summarize(found) if isinstance(found, Exception) else "")
        found = found.__cause__
    return None


def describe_shortage(place: object, found: str) -> ShortageError:
    """Say that there is too little memory."""
    return ShortageError(
        place,
        expected="more memory than there is",
        found=found or "none left",
        remedy="Use a smaller --chunk-size or a larger machine; the next run tries it again.",
    )
