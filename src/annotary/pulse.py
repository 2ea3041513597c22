"""Signs of progress that a process leaves where another one can see them.

They lie in memory that both share: a library that holds Python's lock for ever, as HDF5 does in a damaged
file, cannot keep the other process from seeing that there are no new ones.
"""

import contextlib
import itertools
import mmap
import os
import struct
import tempfile
import threading
from collections.abc import Iterator
from typing import NamedTuple, TypeVar

Item = TypeVar("Item")

IDLE, READING, COMPUTING = range(3)
"""What a thread does: wait, read what others wrote, or compute with what has been read and checked."""

_SIGN = struct.Struct("=qqq")
_N_SLOTS = 32


class Sign(NamedTuple):
    """What a thread said last.

    Attributes
    ----------
    thread
        Its number in the system.
    beats
        Steps that it took.
    doing
        What it does.
    """

    thread: int
    beats: int
    doing: int


class Board:
    """Memory with the signs of a process's threads, shared through a file handle."""

    def __init__(self, handle: int) -> None:
        self._memory = mmap.mmap(handle, _N_SLOTS * _SIGN.size)

    def write(self, slot: int, sign: Sign) -> None:
        """Leave a thread's sign."""
        _SIGN.pack_into(self._memory, slot % _N_SLOTS * _SIGN.size, *sign)

    def read(self) -> list[Sign]:
        """Read all signs that were left since the last :meth:`clear`."""
        signs = (Sign(*found) for found in _SIGN.iter_unpack(self._memory[:]))
        return [sign for sign in signs if sign.thread]

    def clear(self) -> None:
        """Remove all signs."""
        self._memory[:] = bytes(len(self._memory))

    def close(self) -> None:
        """Give the memory back."""
        self._memory.close()


def make_board_file() -> int:
    """Make the nameless file of a board; give its handle."""
    if hasattr(os, "memfd_create"):
        handle = os.memfd_create("annotary-pulse")
    else:
        with tempfile.TemporaryFile() as file:
            handle = os.dup(file.fileno())
    os.truncate(handle, _N_SLOTS * _SIGN.size)
    return handle


class _Thread(threading.local):
    """What a thread knows of itself."""

    slot = -1
    round = -1
    beats = 0
    doing = IDLE


_board: Board | None = None
_slots = itertools.count()
_round = 0
_own = _Thread()


def show_on(board: Board) -> None:
    """Leave the signs of this process on a board from now on."""
    global _board
    _board = board


def begin() -> None:
    """Begin another task: what the threads of the last one said is removed."""
    global _round, _slots
    _round += 1
    _slots = itertools.count()
    if _board is not None:
        _board.clear()


def beat() -> None:
    """Say that this thread took a step; without a board, nothing."""
    if _board is None:
        return
    if _own.round != _round:
        _own.round, _own.slot = _round, next(_slots)
    _own.beats += 1
    _board.write(_own.slot, Sign(threading.get_native_id(), _own.beats, _own.doing))


@contextlib.contextmanager
def doing(what: int) -> Iterator[None]:
    """Say what this thread does while the block lasts."""
    before, _own.doing = _own.doing, what
    beat()
    try:
        yield
    finally:
        _own.doing = before
        beat()


def computing() -> contextlib.AbstractContextManager[None]:
    """Compute with what has been read and checked: nothing in a file decides how long it takes."""
    return doing(COMPUTING)


def reading(items: Iterator[Item]) -> Iterator[Item]:
    """Go through an iterator that reads; each item is a step."""
    while True:
        with doing(READING):
            item = next(items, None)
        if item is None:
            return
        yield item
