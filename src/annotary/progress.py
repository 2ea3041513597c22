"""Progress bars on standard error: live on a terminal, a line now and then in a log."""

from collections.abc import Iterable
from typing import TypeVar

from tqdm import tqdm

from annotary.streams import LenientStream

Item = TypeVar("Item")

_LOG_INTERVAL_S = 5.0


def track(
    items: Iterable[Item] | None, description: str, *, total: float | None = None, unit: str = "it"
) -> "tqdm[Item]":
    """Wrap an iterable in a progress bar; ``set_postfix`` shows figures beside it."""
    stream = LenientStream()
    live = stream.isatty()
    interval = 0.1 if live else _LOG_INTERVAL_S
    return tqdm(
        items,
        desc=description,
        total=total,
        unit=unit,
        file=stream,
        mininterval=interval,
        maxinterval=max(interval, 10.0),
        leave=True,
        dynamic_ncols=live,
    )
