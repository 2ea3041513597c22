"""What a run wrote into a file, told by hashes of content: kept in the file's own record and in MLflow."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import h5py
import numpy as np
import pandas as pd

from annotary import keys
from annotary.data.hdf5 import read_element
from annotary.scoring.content import hash_content, hash_ids

WRITTEN = "written"
RECORD_HASH = "record_hash"
KEPT_SUFFIX = "_before_annotary"
"""Put behind the name of what was there before, where annotary needs the name."""


class CellOrder:
    """Cells as hashes see them: in the order of a file, and in that of their ids.

    Parameters
    ----------
    ids
        Cell ids, ``(n_cells,)``.
    """

    def __init__(self, ids: pd.Index) -> None:
        self.n_cells = len(ids)
        self.in_order = hash_ids(ids)
        texts = np.array([str(name) for name in ids], dtype=object)
        self._order = np.array(sorted(range(len(texts)), key=texts.__getitem__), dtype=np.intp)
        self.by_name = hash_ids(pd.Index(texts[self._order], dtype=object))
        self.n_different = len(set(texts))

    def hash(self, content: Any) -> tuple[str, str]:
        """Hash a column or matrix, ``(n_cells, ...)``, in the order of the file and in that of the ids."""
        return hash_content(content), hash_content(content, self._order)


@dataclass(frozen=True)
class Written:
    """What a run wrote into a file.

    Attributes
    ----------
    prefix
        Put before every name.
    n_cells
        Cells of the file.
    ids, ids_by_name
        Hash of their ids, in the file's order and sorted.
    elements
        Hash of each element, by its place such as ``obs/conf_score``: cells in the file's order, and sorted
        by their ids.
    moved
        Where that is now which was there before, by its place.
    replaced
        Places of what an earlier run of annotary had written, and nobody changed since.
    earlier
        Those of ``elements`` that an earlier run wrote, and this one left.
    """

    prefix: str
    n_cells: int
    ids: str
    ids_by_name: str
    elements: Mapping[str, tuple[str, str]]
    moved: Mapping[str, str] = field(default_factory=dict)
    replaced: tuple[str, ...] = ()
    earlier: tuple[str, ...] = ()

    @classmethod
    def of(cls, order: CellOrder, contents: Mapping[str, Any], *, prefix: str) -> Self:
        """Describe columns and matrices, each ``(n_cells, ...)``, by place."""
        return cls(
            prefix=prefix,
            n_cells=order.n_cells,
            ids=order.in_order,
            ids_by_name=order.by_name,
            elements={place: order.hash(content) for place, content in contents.items()},
        )

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self | None:
        """Read what a record says; None where it says nothing that can be read, as older ones do."""
        try:
            told = json.loads(str(record[WRITTEN]))
            return cls(
                prefix=str(told["prefix"]),
                n_cells=int(told["n_cells"]),
                ids=str(told["ids"]),
                ids_by_name=str(told["ids_by_name"]),
                elements={str(place): (str(one), str(two)) for place, (one, two) in told["elements"].items()},
                moved={str(place): str(kept) for place, kept in told["moved"].items()},
                replaced=tuple(map(str, told["replaced"])),
                earlier=tuple(map(str, told["earlier"])),
            )
        except (KeyError, ValueError, TypeError, AttributeError, ArithmeticError, RecursionError):
            return None

    def to_json(self) -> str:
        """Write as JSON."""
        return json.dumps(asdict(self), sort_keys=True)


def list_moved(record: Mapping[str, Any]) -> list[str]:
    """Say what a record tells was moved, and to where."""
    written = Written.from_record(record)
    moved = written.moved if written else {}
    return [f"{show_place(place)} -> {show_place(kept)}" for place, kept in moved.items()]


def show_place(place: str) -> str:
    """Write a place in a file as people do: ``obs/conf_score`` is ``obs['conf_score']``."""
    slot, _, name = place.partition("/")
    return f"{slot}[{name!r}]" if name else slot


def seal(record: Mapping[str, Any]) -> dict[str, Any]:
    """Add a record's own hash."""
    return {**record, RECORD_HASH: hash_record(record)}


def is_sealed(record: Mapping[str, Any]) -> bool | None:
    """Tell whether a record is as it was sealed; None where it has no hash, as older ones."""
    return record[RECORD_HASH] == hash_record(record) if RECORD_HASH in record else None


def hash_record(record: Mapping[str, Any]) -> str:
    """Hash the fields of a record, but for the hash itself."""
    plain = {name: value for name, value in to_plain(record).items() if name != RECORD_HASH}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def to_plain(record: Mapping[str, Any]) -> dict[str, Any]:
    """Make plain values of those that HDF5 gives, so that a record is the same from any storage."""
    return {str(name): _to_plain(value) for name, value in record.items()}


def _to_plain(value: Any) -> Any:
    """Make one value plain."""
    if isinstance(value, Mapping):
        return to_plain(value)
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.ndim == 0):
        return _to_plain(value.item())
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, str | int | float | None):
        return value
    return [_to_plain(one) for one in value] if isinstance(value, Iterable) else str(value)


def find_records(names: Iterable[str], read: Callable[[str], Any]) -> dict[str, dict[str, Any]]:
    """Find the records among the names of ``uns``, by their prefix.

    Parameters
    ----------
    names
        Names in ``uns``.
    read
        Gives the value of one.
    """
    found = {}
    for name in names:
        if not name.endswith(keys.RECORD) or name.endswith(f"{keys.RECORD}{KEPT_SUFFIX}"):
            continue
        value = read(name)
        if is_record(value):
            found[name.removesuffix(keys.RECORD)] = to_plain(value)
    return found


def is_record(value: Any) -> bool:
    """Tell a record of annotary from what somebody else keeps under its name."""
    return isinstance(value, Mapping) and ("labels_hash" in value or WRITTEN in value)


def read_record_of(file: h5py.File, prefix: str) -> dict[str, Any] | None:
    """Read the record of a prefix; None where there is none, or something else has its name."""
    name = f"{prefix}{keys.RECORD}"
    if name not in file.get("uns", {}):
        return None
    value = read_element(file["uns"][name], path=Path(file.filename))
    return to_plain(value) if is_record(value) else None
