"""A first look at foreign files in a process of its own, before this one reads them.

One flipped bit makes HDF5 compute for ever, deaf to signals, or kills the process. Here that costs a process
which does nothing else, and ends in an error that names the file. What can be said by an error, the command's
own reader says.
"""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from annotary import bounded
from annotary.bounded import BoundedProcess
from annotary.data.formats import convert_to_h5ad, needs_conversion, write_as_h5ad
from annotary.data.sizes import measure_bytes
from annotary.data.walk import walk_h5ad

_MODULES = ("annotary.first_look",)


class FirstLook:
    """Looks at files, and turns those of other formats into h5ad, in one process for all of them.

    Parameters
    ----------
    seconds
        Longest time without progress; 0 looks at nothing, and converts in this process.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._stack = contextlib.ExitStack()
        self._process: BoundedProcess | None = None

    def begin(self) -> None:
        """Start the process, if it is not there yet: it imports while this one goes on."""
        if self._process is None and self._seconds:
            process = bounded.open_bounded(seconds=self._seconds, modules=_MODULES)
            self._process = self._stack.enter_context(process)

    def look(self, path: Path, *, places: Sequence[str] = ()) -> None:
        """Look at an h5ad file.

        Parameters
        ----------
        path
            The file.
        places
            Addresses of the elements that will be read; none takes all of it.

        Raises
        ------
        StalledError
            If reading it does not come to an end.
        CrashError
            If reading it ends the process.
        ShortageError
            If the system ends the process, as for memory.
        """
        self.begin()
        if self._process:
            self._process.call(_walk_there, path, tuple(places), place=path, n_bytes=measure_bytes(path))

    def convert(self, path: Path, folder: Path, *, name: str, allow_pickle: bool) -> Path:
        """Convert a source as :func:`annotary.data.formats.convert_to_h5ad` does; it may also stall or die.

        Raises
        ------
        InputFileError, OutputError
            As that function does.
        StalledError, CrashError, ShortageError
            As :meth:`look` does.
        """
        self.begin()
        if self._process is None:
            return convert_to_h5ad(path, folder, name=name, allow_pickle=allow_pickle)
        arguments = (path, folder, name, allow_pickle)
        return self._process.call(_convert_there, *arguments, place=path, n_bytes=measure_bytes(path))

    def open_as_h5ad(self, path: Path, copy: Path) -> Path:
        """Give an h5ad file with a source's content: the source, or a copy that is written here."""
        self.begin()
        if self._process is None:
            return _write_copy(path, copy)
        return self._process.call(_write_copy, path, copy, place=path, n_bytes=measure_bytes(path))

    def close(self) -> None:
        """End the process."""
        self._stack.close()
        self._process = None


@contextlib.contextmanager
def open_first_look(seconds: float) -> Iterator[FirstLook]:
    """Give what looks at files; its process, which starts at the first of them, ends with the block."""
    first = FirstLook(seconds)
    try:
        yield first
    finally:
        first.close()


def _walk_there(path: Path, places: tuple[str, ...]) -> None:
    walk_h5ad(path, places=places)


def _convert_there(path: Path, folder: Path, name: str, allow_pickle: bool) -> Path:
    return convert_to_h5ad(path, folder, name=name, allow_pickle=allow_pickle)


def _write_copy(path: Path, copy: Path) -> Path:
    """Write a source of another format as an h5ad file."""
    if not needs_conversion(path):
        return path
    write_as_h5ad(path, copy)
    return copy
