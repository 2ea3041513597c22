"""The dataset file of a stage, looked at before it is read."""

from pathlib import Path

from annotary.first_look import open_first_look
from annotary.tracking import fetch


def fetch_dataset(address: str, *, read_timeout: float) -> Path:
    """Find a dataset file on this machine, fetching it where it is elsewhere.

    Parameters
    ----------
    address
        A path or a ``runs:/`` address.
    read_timeout
        Longest time without progress, s; 0 takes no look.

    Raises
    ------
    RegistryError
        If it is not there.
    InputFileError
        If reading it would not come to an end, or would end the process.
    """
    path = fetch(address)
    with open_first_look(read_timeout) as first:
        first.look(path)
    return path
