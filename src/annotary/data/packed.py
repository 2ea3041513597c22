"""Files that are packed by gzip, unpacked no further than files of their kind go; and text of any Unicode."""

import codecs
import gzip
import io
import shutil
from pathlib import Path
from typing import IO

MOST_UNPACKED = 1 << 28
"""Bytes that any packed file may unpack to."""
MOST_PER_PACKED = {"text": 50, "h5ad": 200}
"""Bytes that a packed byte may stand for beyond that: tables of text come to 3 to 10, counts to 5 to 40."""

_MARKS = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
_LONGEST_LINE = 1 << 20


class _Unpacking(io.RawIOBase):
    """Bytes of a packed file, up to a limit."""

    def __init__(self, path: Path, *, kind: str) -> None:
        self._path, self._kind = path, kind
        self._file = gzip.open(path, "rb")  # noqa: SIM115 - closed by close
        self._left = max(MOST_UNPACKED, MOST_PER_PACKED[kind] * path.stat().st_size)

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Unpack some bytes.

        Raises
        ------
        ValueError
            Past the limit.
        """
        n_read = self._file.readinto(buffer)
        self._left -= n_read
        if self._left < 0:
            raise ValueError(
                f"{self._path.stat().st_size:,} packed bytes that unpack to more than "
                f"{MOST_PER_PACKED[self._kind]} times as many, as no {self._kind} does"
            )
        return n_read

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()


def is_packed(path: Path) -> bool:
    """Tell a packed file by its name."""
    return path.name.lower().endswith(".gz")


def unpack(path: Path, target: Path) -> None:
    """Write the content of a packed h5ad file.

    Raises
    ------
    ValueError, OSError, EOFError
        If it is damaged, or unpacks to far more than an h5ad file does.
    """
    with io.BufferedReader(_Unpacking(path, kind="h5ad"), 1 << 20) as packed, target.open("wb") as plain:
        shutil.copyfileobj(packed, plain, 1 << 20)


def open_text(path: Path) -> IO[str]:
    """Open a text file, packed or not: UTF-8 with or without a byte-order mark, or UTF-16 with one.

    Raises
    ------
    OSError
        If it cannot be opened.
    """
    raw: IO[bytes] = (
        io.BufferedReader(_Unpacking(path, kind="text"), 1 << 16) if is_packed(path) else path.open("rb")
    )
    try:
        start = raw.peek(4)[:4]  # type: ignore[attr-defined]
    except BaseException:
        raw.close()
        raise
    encoding = next((name for mark, name in _MARKS.items() if start.startswith(mark)), "utf-8-sig")
    return io.TextIOWrapper(raw, encoding=encoding)


def read_line(file: IO[str]) -> str:
    """Read one line of a text file.

    Raises
    ------
    ValueError
        If it has no end within a million letters.
    """
    line = file.readline(_LONGEST_LINE)
    if len(line) == _LONGEST_LINE:
        raise ValueError(f"a line of more than {_LONGEST_LINE:,} letters")
    return line
