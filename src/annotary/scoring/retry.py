"""Trying again what may pass: a locked file, a server that is away for a moment."""

import errno
import time
from collections.abc import Callable
from typing import TypeVar

from annotary.errors import InputFileError
from annotary.log import warn

Result = TypeVar("Result")

WAITS_S = (0.5, 2.0, 8.0)
"""Pauses before the second, third and fourth attempt."""

_PASSING = {errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.ETIMEDOUT, errno.ESTALE, errno.ECONNRESET}
_LOCKED = "unable to lock file"


class PassingError(InputFileError):
    """A file cannot be used now, but may be later: it waits for the next run."""


def retry(action: Callable[[], Result], *, place: object) -> Result:
    """Do something, and do it again after growing pauses while what goes wrong may pass.

    Parameters
    ----------
    action
        What to do; it starts anew each time.
    place
        File or address, for the messages.

    Raises
    ------
    PassingError
        If it still does not go after the last pause. What cannot pass is raised at once, as it is.
    """
    for wait in WAITS_S:
        try:
            return action()
        except Exception as error:
            if not may_pass(error):
                raise
            warn(f"{place}: {error}; trying again in {wait:g} s")
        time.sleep(wait)
    try:
        return action()
    except Exception as error:
        if not may_pass(error) or isinstance(error, PassingError):
            raise
        raise PassingError(
            place,
            expected="to be free and within reach",
            found=str(error),
            remedy="The next run tries it again.",
        ) from error


def may_pass(error: BaseException) -> bool:
    """Tell an error that may be gone in a moment, by itself or by what it was raised from."""
    if isinstance(error, PassingError | ConnectionError | TimeoutError | BlockingIOError):
        return True
    if isinstance(error, OSError) and (error.errno in _PASSING or _LOCKED in str(error)):
        return True
    return error.__cause__ is not None and may_pass(error.__cause__)
