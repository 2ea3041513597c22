"""Filters that pack the content of HDF5 files: those that are not in HDF5 itself come with hdf5plugin."""

import contextlib
import importlib

import h5py

from annotary.errors import SetupError

_NAMES = {
    305: "lzo",
    307: "bzip2",
    32000: "lzf",
    32001: "blosc",
    32004: "lz4",
    32008: "bitshuffle",
    32013: "zfp",
    32015: "zstd",
    32017: "sz",
    32024: "sz3",
    32026: "blosc2",
    32018: "fcidecomp",
    32028: "sperr",
}


def refuse_missing_filters(array: h5py.Dataset, place: str) -> None:
    """Refuse an array that is packed by a filter which is not installed here.

    Raises
    ------
    SetupError
        Naming the filter, and the package that has it; the file is not at fault.
    """
    settings = array.id.get_create_plist()
    for position in range(settings.get_nfilters()):
        code, _, _, told = settings.get_filter(position)
        if h5py.h5z.filter_avail(code):
            continue
        with contextlib.suppress(ImportError):
            importlib.import_module("hdf5plugin")  # registers its filters
        if not h5py.h5z.filter_avail(code):
            named = _NAMES.get(code) or told.decode(errors="replace") or "unknown"
            raise SetupError(
                place,
                expected=f"the HDF5 filter {named} (number {code}), by which it is packed",
                found="no such filter installed here",
                remedy="Install the Python package hdf5plugin beside annotary (pip install hdf5plugin), or "
                'write the file again with compression="gzip".',
            )
