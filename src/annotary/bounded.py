"""Work on foreign files in a process of its own: where it stalls or dies, that costs one file, no more."""

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

import annotary
from annotary.bounded_process import DONE
from annotary.errors import (
    AnnotaryError,
    ConfigError,
    CrashError,
    StalledError,
    UnforeseenError,
    describe_shortage,
)
from annotary.pulse import READING, Board, make_board_file
from annotary.watch import Patience, Watch

Result = TypeVar("Result")

DEFAULT_PATIENCE_S = 300.0

_LOOK_S = 0.1
_GONE_S = 5.0


class BoundedProcess:
    """A process that calls functions of ours, one after the other; one that stalls or dies is replaced.

    Parameters
    ----------
    seconds
        Longest time without progress.
    modules
        What it imports while the caller does something else.

    Attributes
    ----------
    births
        How often it was started.
    """

    def __init__(self, *, seconds: float, modules: Sequence[str] = ()) -> None:
        self._seconds = seconds
        self._modules = modules
        self._board_file = make_board_file()
        self._board = Board(self._board_file)
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._n_unheard = 0
        self.births = 0
        self._start()

    def send(self, function: Callable[..., object], *arguments: object) -> None:
        """Have a short function called; what it gives is of no interest."""
        if self._connection is None:
            self._start()
        with contextlib.suppress(OSError):  # it has died: the next call tells
            self._get_connection().send((function, arguments, ""))
            self._n_unheard += 1

    def call(
        self, function: Callable[..., Result], *arguments: object, place: object, n_bytes: int = 0
    ) -> Result:
        """Call a function of a module, and wait for it.

        Parameters
        ----------
        function, arguments
            What to call; they must pass through a pipe.
        place
            File that is read, for messages.
        n_bytes
            Its size, which decides how long its tables may take.

        Raises
        ------
        AnnotaryError
            As the function does.
        StalledError
            If it makes no progress.
        CrashError
            If it ends the process.
        ShortageError
            If the system ends the process, as it does for want of memory.
        UnforeseenError
            For any other error.
        """
        connection = self.get_ready()
        try:
            connection.send((function, arguments, str(place)))
        except OSError:  # it has died since
            self._stop()
            connection = self.get_ready()
            connection.send((function, arguments, str(place)))
        patience = Patience.for_size(n_bytes, seconds=self._seconds)
        standing, answer = self._wait(connection, place, patience)
        if standing == DONE:
            result: Result = answer
            return result
        raise answer

    @property
    def _pid(self) -> int:
        """Its number in the system; 0 where there is none."""
        return self._process.pid if self._process else 0

    def _get_connection(self) -> Connection:
        """Give the connection to the process that was started."""
        if self._connection is None:
            raise RuntimeError("no process was started")
        return self._connection

    def close(self) -> None:
        """End it, whatever it is at."""
        self._stop()
        self._board.close()
        os.close(self._board_file)

    def _start(self) -> None:
        """Start it; it imports while this process goes on."""
        self.births += 1
        self._board.clear()
        ours, theirs = socket.socketpair()
        with ours, theirs:
            handles = (theirs.fileno(), self._board_file)
            is_heard = bool(logging.getLogger("annotary").handlers)
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-P", "-m", "annotary.bounded_process"),
                    *(*map(str, handles), str(os.getpid()), str(is_heard)),
                    *self._modules,
                ],
                env=_make_environment(),
                pass_fds=handles,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
            self._connection = Connection(ours.detach())
        self._n_unheard = 1  # that it is ready

    def get_ready(self) -> Connection:
        """Give the connection once all is said that it had to say, starting a process where there is none.

        Raises
        ------
        ConfigError
            If none can be started.
        """
        if self._connection is None:
            self._start()
        connection = self._get_connection()
        patience = Patience(self._seconds, self._seconds)
        try:
            while self._n_unheard:
                self._wait(connection, "a new process", patience)
                self._n_unheard -= 1
        except AnnotaryError as error:
            raise ConfigError(
                "--read-timeout",
                expected="a second process, which reads the files",
                found=error.found,
                remedy="What it said is above; 0 reads them in the same process, without any bound.",
            ) from error
        return connection

    def _wait(self, connection: Connection, place: object, patience: Patience) -> tuple[str, Any]:
        """Wait for an answer while there is progress."""
        watch = Watch(self._pid, self._board, patience)
        while not connection.poll(_LOOK_S):
            stalled = watch.look()
            if stalled:
                self._stop()
                raise StalledError(
                    place,
                    expected="to be a file whose reading comes to an end",
                    found=stalled,
                    remedy="It is probably damaged: write or copy it again. "
                    "For a slow disk, raise --read-timeout.",
                )
        try:
            found: tuple[str, Any] = connection.recv()
        except (EOFError, OSError):
            raise self._describe_death(place) from None
        return found

    def _describe_death(self, place: object) -> AnnotaryError:
        """Say why it is not there any more."""
        was_reading = any(sign.doing == READING for sign in self._board.read())
        code = self._stop()
        name = _name_signal(code)
        if code == -signal.SIGKILL:
            return describe_shortage(place, "that the system ended the process (signal KILL), as for memory")
        if code < 0 and was_reading:
            return CrashError(
                place,
                expected="to be a file that can be read",
                found=f"one on which the reading process dies (signal {name})",
                remedy="It is damaged: write or copy it again.",
            )
        return UnforeseenError(
            place,
            expected="a process that goes on",
            found=f"one that ended by signal {name}" if code < 0 else f"one that ended with code {code}",
            remedy="This may be a bug in annotary or in a library; what it said is above.",
        )

    def _stop(self) -> int:
        """End it and wait for its end; give what it ended with."""
        process, connection = self._process, self._connection
        self._process = self._connection = None
        self._n_unheard = 0
        if process is None or connection is None:
            return 0
        connection.close()
        code = _wait_for_end(process)
        self._board.clear()
        return code


def _wait_for_end(process: subprocess.Popen[bytes]) -> int:
    """Wait for a process that may be at its end already, and end it otherwise."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        return process.wait(timeout=0.05)
    process.kill()
    with contextlib.suppress(subprocess.TimeoutExpired):  # one that a disk holds goes when that answers
        return process.wait(timeout=_GONE_S)
    return -signal.SIGKILL


def _name_signal(code: int) -> str:
    """Name the signal of an exit code."""
    with contextlib.suppress(ValueError):
        return signal.Signals(-code).name.removeprefix("SIG")
    return str(-code)


def _make_environment() -> dict[str, str]:
    """Make its environment: it must find this very annotary."""
    paths = [str(Path(annotary.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}


@contextlib.contextmanager
def open_bounded(*, seconds: float, modules: Sequence[str] = ()) -> Iterator[BoundedProcess | None]:
    """Start a process that ends with the block; None where ``seconds`` is 0."""
    process = BoundedProcess(seconds=seconds, modules=modules) if seconds else None
    try:
        yield process
    finally:
        if process:
            process.close()
