"""A sign of life, for runs on other machines that see the same ledger."""

import contextlib
import sqlite3
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

INTERVAL_S = 60.0

_EARLIEST = 1.0


class Heartbeat:
    """Writes the time into a run's row every minute, in a thread, while the block lasts.

    Whoever watches it looks for a change only: the clocks of two machines differ.

    Parameters
    ----------
    ledger
        The ledger's file.
    run
        Id of the run.
    """

    def __init__(self, ledger: Path, run: str) -> None:
        self._ledger = ledger
        self._run = run
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._thread.join()

    def _beat(self) -> None:
        """Write until stopped; a beat that fails is made up for by the next one."""
        while not self._stopped.wait(INTERVAL_S):
            with contextlib.suppress(sqlite3.Error):
                self._write()

    def _write(self) -> None:
        """Write the time, or another value than before where the clock stands still."""
        now = tell_time()
        with contextlib.closing(sqlite3.connect(self._ledger)) as database:
            database.execute(
                "UPDATE runs SET heartbeat = CASE WHEN heartbeat = ? THEN heartbeat + 1 ELSE ? END"
                " WHERE id = ?",
                (now, now, self._run),
            )
            database.commit()


def tell_time() -> float:
    """Tell the time, seconds since 1970; never 0, which no living run writes."""
    return max(time.time(), _EARLIEST)
