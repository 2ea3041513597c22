"""Damage that h5py cannot survive: one flipped bit on which HDF5 computes for ever, or ends the process."""

import faulthandler
import os
import re
from pathlib import Path

import anndata.io
import h5py
import pytest

_TEXT_TYPE = bytes.fromhex("19010100100000")
"""How HDF5 begins to say that an attribute is a text of any length; the second byte tells text from list."""


def write_endless(good: Path, target: Path, *, name: bytes = b"GENE0000") -> Path:
    """Flip a bit in the size of a gene's name, which lies before it in the heap of the file's texts."""
    content = bytearray(good.read_bytes())
    content[content.index(name) - 7] ^= 2
    target.write_bytes(content)
    return target


def write_deadly(good: Path, target: Path) -> Path:
    """Flip a bit in the type of a text attribute, so that HDF5 takes an address that is none."""
    content = good.read_bytes()
    for found in re.finditer(re.escape(_TEXT_TYPE), content):
        broken = bytearray(content)
        broken[found.start() + 1] ^= 2
        target.write_bytes(broken)
        if _kills(target):
            return target
    target.unlink()
    pytest.skip("no flipped bit kills this version of HDF5")


def _kills(path: Path) -> bool:
    """Read a file's tables in a copy of this process."""
    child = os.fork()
    if not child:
        faulthandler.disable()
        try:
            with h5py.File(path) as file:
                for name in ("obs", "var"):
                    anndata.io.read_elem(file[name])
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])
