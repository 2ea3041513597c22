"""The process that annotates, begun before anything else: what it imports, this one need not wait for."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from annotary import bounded
from annotary.bounded import BoundedProcess
from annotary.config import ScoreConfig
from annotary.scoring.copying import begin_hashing

_MODULES = ("annotary.scoring.work", "annotary.models.baselines")


@contextlib.contextmanager
def open_worker(config: ScoreConfig) -> Iterator[BoundedProcess | None]:
    """Start the process, which ends with the block; None where the settings want none.

    It begins to hash the input, if that is a file.
    """
    with bounded.open_bounded(seconds=config.read_timeout, modules=_MODULES) as process:
        if process:
            process.send(begin_hashing, Path(config.input))
        yield process
