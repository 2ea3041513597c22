"""Reading the next chunk in a thread while the last one is computed with."""

import queue
import threading
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True)
class _Read(Generic[Item]):
    """An item, or the error that came in its place; neither at the end."""

    items: tuple[Item, ...] = ()
    error: BaseException | None = None


def read_ahead(items: Iterator[Item]) -> Generator[Item, None, None]:
    """Go through an iterator in a thread, one item ahead; at most three items are in memory.

    An error of the iterator is raised here, after the items before it.
    """
    ready: queue.Queue[_Read[Item]] = queue.Queue(maxsize=1)
    stopped = threading.Event()

    def put(read: _Read[Item]) -> bool:
        while not stopped.is_set():
            try:
                ready.put(read, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def read() -> None:
        try:
            for item in items:
                if not put(_Read((item,))):
                    return
            put(_Read())
        except BaseException as error:  # noqa: BLE001 - raised again where the items are used
            put(_Read(error=error))

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    try:
        while (got := ready.get()).items:
            yield got.items[0]
        if got.error is not None:
            raise got.error
    finally:
        stopped.set()
        thread.join()
