"""Progress bars on standard error: live on a terminal, a line now and then in a log."""

import sys
from collections.abc import Iterable
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")

_LOG_INTERVAL_S = 5.0


def track(
    items: Iterable[Item] | None, description: str, *, total: float | None = None, unit: str = "it"
) -> "tqdm[Item]":
    """Wrap an iterable in a progress bar; ``set_postfix`` shows figures beside it."""
    live = sys.stderr.isatty()
    interval = 0.1 if live else _LOG_INTERVAL_S
    return tqdm(
        items,
        desc=description,
        total=total,
        unit=unit,
        file=sys.stderr,
        mininterval=interval,
        maxinterval=max(interval, 10.0),
        leave=True,
        dynamic_ncols=live,
    )
