"""The files of an input as h5ad, each looked at before it is read."""

from dataclasses import replace
from pathlib import Path

from annotary import keys
from annotary.data.discovery import Source
from annotary.data.special_files import refuse_special_files
from annotary.data.walk import TABLES
from annotary.first_look import open_first_look


def open_sources(
    sources: list[Source], folder: Path, *, counts_layer: str, allow_pickle: bool, read_timeout: float
) -> list[Source]:
    """Turn sources of other formats into h5ad files, and look at those that are h5ad already.

    Parameters
    ----------
    sources
        What was found.
    folder
        Where h5ad files are written.
    counts_layer
        Layer that will be read; empty looks for counts.
    allow_pickle
        Whether a ``.npy`` may be read: unpickling runs whatever code it holds.
    read_timeout
        Longest time without progress, s; 0 takes no look.

    Raises
    ------
    InputFileError
        If a source cannot be read, or reading it would not come to an end, or would end the process.
    OutputError
        If an h5ad file cannot be written.
    """
    places = (*TABLES, "X", "raw/X", "raw.X", f"layers/{counts_layer or keys.COUNTS_LAYER}")
    opened = []
    with open_first_look(read_timeout) as first:
        for source in sources:
            refuse_special_files(source.path)
            h5ad = first.convert(source.path, folder, name=source.name, allow_pickle=allow_pickle)
            if h5ad == source.path:
                first.look(h5ad, places=places)
            opened.append(replace(source, h5ad=h5ad))
    return opened
