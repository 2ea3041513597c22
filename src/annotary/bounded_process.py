"""The process that reads foreign files in another one's stead: it does what it is sent, one by one.

python -P -m annotary.bounded_process SOCKET BOARD PARENT IS_HEARD [MODULE ...]
"""

import contextlib
import ctypes
import gc
import importlib
import os
import pickle
import resource
import signal
import sys
import traceback
import warnings
from multiprocessing.connection import Connection
from typing import Any

from annotary import pulse
from annotary.errors import AnnotaryError, UnforeseenError, find_shortage
from annotary.log import show_messages
from annotary.streams import open_missing_streams

READY, DONE, FAILED = "ready", "done", "failed"

_PR_SET_PDEATHSIG = 1
_OBJECTS_BEFORE_COLLECTION = 50_000


def main() -> None:
    """Import what will be needed, then answer until the other process is gone."""
    socket, board, parent, is_heard, *modules = sys.argv[1:]
    open_missing_streams()
    _die_with(int(parent))
    gc.set_threshold(_OBJECTS_BEFORE_COLLECTION)
    warnings.simplefilter("ignore")
    if is_heard == "True":
        show_messages()
    for module in modules:
        importlib.import_module(module)
    pulse.show_on(pulse.Board(int(board)))
    connection = Connection(int(socket))
    with contextlib.suppress(OSError, EOFError):  # the other process has ended
        connection.send((READY, None))
        while True:
            _answer(connection)
    os._exit(0)  # what is half done is the other process's to clear up


def _die_with(parent: int) -> None:
    """End when the other process ends, however that ends; leave to it what keyboard and schedulers say."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash is told, not kept
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _answer(connection: Connection) -> None:
    """Do one thing: call the function that is named, and give its result, or the error."""
    place = "a task"
    answer: tuple[str, Any]
    try:
        function, arguments, place = connection.recv()
        pulse.begin()
        with pulse.doing(pulse.READING):
            answer = DONE, function(*arguments)
    except EOFError:
        raise
    except AnnotaryError as error:
        answer = FAILED, error
    except BaseException as error:  # noqa: BLE001 - told to who asked
        answer = FAILED, _describe(error, place)
    try:
        connection.send(answer)
    except OSError:
        raise
    except (TypeError, AttributeError, ValueError, pickle.PicklingError) as error:  # it cannot be sent
        connection.send((FAILED, _describe(error, place)))


def _describe(error: BaseException, place: str) -> AnnotaryError:
    """Describe what nobody foresaw."""
    if os.environ.get("ANNOTARY_DEBUG"):
        traceback.print_exc()
    return find_shortage(error, place) or describe_unforeseen(error, place)


def describe_unforeseen(error: BaseException, place: str) -> UnforeseenError:
    """Describe an error of another library, or of annotary's own."""
    return UnforeseenError(
        place,
        expected="to be a file that annotary can read",
        found=f"{type(error).__name__}: {error}",
        remedy="This may be a bug in annotary; ANNOTARY_DEBUG=1 shows the traceback.",
    )


if __name__ == "__main__":
    main()
