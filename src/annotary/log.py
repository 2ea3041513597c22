"""What a stage tells the person who started it, on standard error."""

import logging

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
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("annotary: %(message)s"))
    _LOGGER.addHandler(handler)
    _LOGGER.setLevel(logging.INFO)
    _LOGGER.propagate = False
