"""No work fails because standard error or output is closed, full or absent."""

import io
import subprocess
import sys

import pytest

from annotary.progress import track
from annotary.streams import LenientStream

OPENED = """
import os, sys
from annotary.streams import open_missing_streams
open_missing_streams()
assert os.open(os.devnull, os.O_RDONLY) > 2, "a file got the number of a standard stream"
print("said")
print("told", file=sys.stderr)
sys.stdin.read()
"""


@pytest.mark.parametrize("closing", ["2>&-", ">&-", "<&-", "<&- >&- 2>&-"])
def test_a_program_with_closed_streams_gets_others(closing):
    command = ["sh", "-c", f'exec "$@" {closing}', "sh", sys.executable, "-c", OPENED]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == (b"" if ">&-" in closing.split() else b"said")


class Broken(io.StringIO):
    """A stream that was closed on the other side."""

    def write(self, text):
        raise BrokenPipeError

    def flush(self):
        raise OSError(28, "No space left on device")

    def isatty(self):
        raise ValueError("I/O operation on closed file")


@pytest.mark.parametrize("stderr", [None, Broken()], ids=["absent", "broken"])
def test_what_is_told_to_nobody_stops_nothing(stderr, monkeypatch):
    monkeypatch.setattr(sys, "stderr", stderr)
    stream = LenientStream()
    assert stream.write("text") == 4
    stream.flush()
    assert not stream.isatty()
    assert stream.encoding
    assert list(track([1, 2], "reading", unit="cell")) == [1, 2]
