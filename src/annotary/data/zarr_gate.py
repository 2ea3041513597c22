"""What a zarr store says of itself, checked before anything in it is decoded.

A codec is code that the store names and its reader runs; one of them unpickles. So only codecs of a list are
let through, whatever the installed zarr would refuse, and arrays of objects only if they are texts.
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from annotary.data.claims import MOST_PER_BYTE, MOST_UNCHECKED, describe_claim
from annotary.errors import InputFileError

_TEXT_CODECS = frozenset({"vlen-utf8", "vlen-bytes", "json2"})
_CODECS = _TEXT_CODECS | {
    "adler32", "astype", "bitround", "blosc", "bytes", "bz2", "crc32", "crc32c", "delta", "fixedscaleoffset",
    "fletcher32", "gzip", "jenkins_lookup3", "lz4", "lzma", "packbits", "pcodec", "quantize",
    "sharding_indexed", "shuffle", "transpose", "zfpy", "zlib", "zstd",
}  # fmt: skip
_METADATA = ("zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata")
_MOST_METADATA = 1 << 27
_TEXT_BYTES = 16
_MATRICES = ("X", "layers", "raw")


@dataclass(frozen=True)
class _Claim:
    """What an array says of itself, and the bytes that are there of it."""

    name: str
    shape: tuple[int, ...]
    chunk: tuple[int, ...]
    item_bytes: int
    stored: int


def check_zarr(path: Path) -> None:
    """Refuse a store that would run code when it is read, or that claims far more than it stores.

    Raises
    ------
    InputFileError
        Naming the element.
    ValueError, TypeError, KeyError, OSError
        If its metadata cannot be understood.
    """
    claims, all_stored = [], 0
    for folder, folders, files in os.walk(path):
        for name in folders:
            _refuse_link(Path(folder) / name)
        place = Path(folder)
        stored = sum(os.stat(place / name).st_size for name in files if name not in _METADATA)
        all_stored += stored
        for name in files:
            if name in ("zarr.json", ".zarray"):
                said = _read_json(place / name)
                for below, array in _list_arrays(said, is_old=name == ".zarray"):
                    _check_codecs(array, f"{place / below}" if below else str(place))
                    if not below:
                        claims.append(_measure(array, place, path))
    _refuse_sizes(claims, path, all_stored)


def _refuse_link(folder: Path) -> None:
    """Refuse a folder that lies elsewhere: the hash of the store says nothing of it, nor was it checked."""
    if folder.is_symlink():
        raise InputFileError(
            folder,
            expected="to hold its own content",
            found=f"a link to {os.readlink(folder)!r}",
            remedy="Copy the store with the content of its links.",
        )


def _read_json(path: Path) -> dict[str, Any]:
    """Read metadata of a sensible size."""
    size = path.stat().st_size
    if size > _MOST_METADATA:
        raise ValueError(f"{path.name} of {size:,} bytes")
    said = json.loads(path.read_bytes())
    if not isinstance(said, dict):
        raise ValueError(f"{path} that is no mapping")
    return said


def _list_arrays(said: Mapping[str, Any], *, is_old: bool) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """List the arrays that metadata describe: of their own folder, or consolidated ones by address."""
    if is_old or said.get("node_type") == "array":
        yield "", said
    consolidated = said.get("consolidated_metadata")
    of_members = consolidated.get("metadata") if isinstance(consolidated, Mapping) else None
    for name, member in (of_members or {}).items():
        if isinstance(member, Mapping) and member.get("node_type") == "array":
            yield name, member


def _check_codecs(array: Mapping[str, Any], place: str) -> None:
    """Refuse codecs that are not on the list, and objects that are no texts."""
    named = list(_list_codecs(array))
    for name in named:
        if name.removeprefix("numcodecs.") not in _CODECS:
            is_pickle = "pickle" in name
            raise InputFileError(
                place,
                expected="a codec that is known to run no code",
                found=f"the codec {name!r}"
                + (", which unpickles: it runs whatever code it reads" if is_pickle else ""),
                remedy="Write the store again with anndata's write_zarr.",
            )
    if _holds_objects(array.get("dtype", array.get("data_type"))) and not _TEXT_CODECS & set(named):
        raise InputFileError(
            place,
            expected="numbers or texts",
            found="an array of Python objects, which could only be pickled",
            remedy="Write the store again with anndata's write_zarr.",
        )


def _list_codecs(array: Mapping[str, Any]) -> Iterator[str]:
    """Name the codecs of an array of either format, those within shards too."""
    said = [*(array.get("filters") or ()), array.get("compressor"), *(array.get("codecs") or ())]
    said += array.get("storage_transformers") or ()
    while said:
        one = said.pop()
        if one is None:
            continue
        if isinstance(one, str):
            one = {"name": one}
        if not isinstance(one, Mapping):
            raise ValueError(f"a codec that is described by {str(one)[:40]!r}")
        name = one.get("id", one.get("name"))
        yield str(name)
        inner = one.get("configuration")
        if isinstance(inner, Mapping):
            for key in ("codecs", "index_codecs"):
                said += inner.get(key) or ()


def _holds_objects(dtype: Any) -> bool:
    """Tell a type of Python objects, also within records."""
    if isinstance(dtype, str):
        return dtype.lstrip("|<>=").startswith("O") or dtype == "object"
    if isinstance(dtype, list | tuple):
        return any(_holds_objects(one[1]) for one in dtype if isinstance(one, list | tuple) and len(one) > 1)
    return isinstance(dtype, Mapping) and "object" in str(dtype.get("name", ""))


def _measure(array: Mapping[str, Any], folder: Path, store: Path) -> _Claim:
    """Take an array's sizes, and the bytes of its chunks."""
    shape = tuple(int(size) for size in array["shape"])
    grid = array.get("chunk_grid")
    chunks = array["chunks"] if grid is None else grid["configuration"]["chunk_shape"]
    chunk = tuple(int(size) for size in chunks)
    if min((0, *shape)) < 0 or min((1, *chunk)) < 1 or len(shape) != len(chunk):
        raise ValueError(f"{folder.name} of the shape {shape} in chunks of {chunk}")
    name = folder.relative_to(store).as_posix()
    files = (file for file in folder.rglob("*") if file.name not in _METADATA)
    stored = sum(file.stat().st_size for file in files if file.is_file())
    return _Claim(name, shape, chunk, _measure_item(array.get("dtype", array.get("data_type"))), stored)


def _measure_item(dtype: Any) -> int:
    """Measure the bytes of one value; texts of any length count as their address."""
    if isinstance(dtype, Mapping):
        about = dtype.get("configuration") or {}
        return int(about.get("length_bytes", about.get("length_bits", 8 * _TEXT_BYTES) // 8))
    if isinstance(dtype, list):
        return sum(_measure_item(one[1]) * prod(one[2] if len(one) > 2 else [1]) for one in dtype)
    if _holds_objects(dtype) or "string" in str(dtype) or "utf8" in str(dtype):
        return _TEXT_BYTES
    return np.dtype(dtype).itemsize


def _refuse_sizes(claims: list[_Claim], path: Path, all_stored: int) -> None:
    """Refuse chunks, and tables, that would fill the memory although little is stored of them.

    Chunks of zeros are rightly left out of a store, so that a column may say more than is stored of it.
    """
    for one in claims:
        size = prod(one.chunk) * one.item_bytes
        if one.stored and size > max(MOST_UNCHECKED, MOST_PER_BYTE * one.stored):
            place = f"{path / one.name} (one chunk of it)"
            raise describe_claim(place, one.chunk, size, stored=one.stored)
    tables = [one for one in claims if not _is_matrix(one.name.split("/"))]
    sizes = [prod(one.shape) * one.item_bytes for one in tables]
    if sum(sizes) > max(MOST_UNCHECKED, MOST_PER_BYTE * all_stored):
        size, worst = max(zip(sizes, tables, strict=True), key=lambda both: both[0])
        raise describe_claim(str(path / worst.name), worst.shape, size, stored=worst.stored)


def _is_matrix(parts: list[str]) -> bool:
    """Tell by its address what is read by rows."""
    return parts[0] in _MATRICES and "var" not in parts
