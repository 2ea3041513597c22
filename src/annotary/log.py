"""What a stage tells the person who started it, on standard error."""

import logging
import time

from annotary.streams import LenientStream

_REPEATS_AFTER_S = 30.0
_LOGGER = logging.getLogger("annotary")


def say(message: str) -> None:
    """Tell a step's outcome."""
    _LOGGER.info(message)


def warn(message: str) -> None:
    """Tell of something that may be wrong, though the stage goes on."""
    _LOGGER.warning("warning: %s", message)


def show_messages() -> None:
    """Send annotary's messages to standard error; only the command line calls this."""
    if _LOGGER.handlers:
        return
    handler = logging.StreamHandler(LenientStream())
    handler.setFormatter(logging.Formatter("annotary: %(message)s"))
    _LOGGER.addHandler(handler)
    _LOGGER.setLevel(logging.INFO)
    _LOGGER.propagate = False
    requests = logging.getLogger("urllib3.connectionpool")
    requests.addHandler(_Waiting())
    requests.propagate = False


class _Waiting(logging.Handler):
    """Tells that a server is waited for, in one line every half minute instead of one for each attempt."""

    _told_at = -_REPEATS_AFTER_S

    def emit(self, record: logging.LogRecord) -> None:
        """Tell of it."""
        if record.levelno >= logging.WARNING and time.monotonic() - self._told_at >= _REPEATS_AFTER_S:
            self._told_at = time.monotonic()
            warn("the server does not answer; trying again")
