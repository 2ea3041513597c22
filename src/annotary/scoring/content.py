"""Hashes of what a column or matrix says, however it is stored.

Text has the same hash as a string array, nullable strings or categories in any order; numbers have it as
integers, floats or nullable numbers, and yes and no as 1 and 0. So a file that anndata reads and writes again
keeps its hashes, and a changed value does not.
"""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import issparse

_BLOCK_VALUES = 1 << 20
_LARGEST_EXACT = 2**53


def hash_ids(ids: pd.Index) -> str:
    """Hash names in their order."""
    texts = [str(name) for name in ids]
    digest = hashlib.sha256(b"ids")
    digest.update(np.fromiter(map(len, texts), dtype="<i8", count=len(texts)).tobytes())
    digest.update("".join(texts).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def hash_content(content: Any, order: np.ndarray | None = None) -> str:
    """Hash a column, a matrix, a table or a value.

    Parameters
    ----------
    content
        pandas column, numpy array of any shape, sparse matrix, table, mapping, or a single value.
    order
        Rows in the order in which they are hashed, ``(n_rows,)``; None takes them as they stand.
    """
    digest = hashlib.sha256()
    for part in _iter_parts(content, order):
        digest.update(part)
    return digest.hexdigest()


def _iter_parts(content: Any, order: np.ndarray | None) -> Iterator[bytes]:
    """Take a content apart into the bytes that are hashed."""
    if isinstance(content, pd.DataFrame):
        yield b"table"
        for name in sorted(map(str, content.columns)):
            yield _frame(name) + bytes.fromhex(hash_content(content[name], order))
    elif isinstance(content, Mapping):
        yield b"mapping"
        for name in sorted(map(str, content)):
            yield _frame(name) + bytes.fromhex(hash_content(content[name]))
    elif issparse(content):
        yield from _iter_sparse(content, order)
    else:
        yield from _iter_array(content, order)


def _iter_array(content: Any, order: np.ndarray | None) -> Iterator[bytes]:
    """Hash a column or a dense array."""
    values = normalize(content)
    yield repr(values.shape).encode()
    if values.dtype.kind == "O":
        yield from _iter_texts(values.ravel() if order is None else values[order].ravel())
        return
    rows = max(1, _BLOCK_VALUES // max(1, int(np.prod(values.shape[1:]))))
    flat = values if values.ndim else values.reshape(1)
    for start in range(0, len(flat), rows):
        block = flat[start : start + rows] if order is None else flat[order[start : start + rows]]
        yield _to_bytes(block)


def normalize(content: Any) -> np.ndarray:
    """Make an array of numbers, or of texts with None where there is none (dtype object), of any storage."""
    if isinstance(content, pd.Series | pd.Index):
        content = content.array
    if isinstance(content, pd.Categorical):
        return _decode(content)
    if isinstance(content, pd.api.extensions.ExtensionArray):
        if pd.api.types.is_numeric_dtype(content.dtype) or pd.api.types.is_bool_dtype(content.dtype):
            missing = np.asarray(content.isna())
            return (
                content.to_numpy(dtype=np.float64, na_value=np.nan)
                if missing.any()
                else np.asarray(content.to_numpy(dtype=content.dtype.numpy_dtype))
            )
        content = content.astype(object)
    values = np.asarray(content)
    if values.dtype.kind in "biuf":
        return values
    texts = values.astype(object)
    flat = texts.ravel()
    missing = pd.isna(flat)
    normal = np.array(
        [None if gone else _to_text(one) for one, gone in zip(flat, missing, strict=True)], object
    )
    return normal.reshape(texts.shape)


def _decode(column: pd.Categorical) -> np.ndarray:
    """Give the values of a categorical column."""
    names = normalize(column.categories)
    if names.dtype.kind != "O":
        codes = np.asarray(column.codes)
        if (codes >= 0).all():
            return names[codes]
        return np.append(names.astype(np.float64), np.nan)[codes]
    return np.append(names, np.array([None], dtype=object))[column.codes]


def _to_text(value: Any) -> str:
    """Give a value of an array of no numbers as text."""
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)


def _iter_texts(values: np.ndarray) -> Iterator[bytes]:
    """Hash texts: the different ones in their order, and which of them stands where."""
    codes, names = pd.factorize(values)
    order = sorted(range(len(names)), key=lambda code: names[code])
    rank = np.full(len(names) + 1, -1, dtype="<i4")  # the last stands for a missing one, whose code is -1
    rank[order] = np.arange(len(order), dtype="<i4")
    yield b"text"
    for code in order:
        yield _frame(names[code])
    yield rank[codes].tobytes()


def _frame(text: str) -> bytes:
    """Put the length before a text."""
    encoded = text.encode("utf-8", "surrogatepass")
    return len(encoded).to_bytes(8, "little") + encoded


def _to_bytes(values: np.ndarray) -> bytes:
    """Give numbers as bytes of one type."""
    if values.dtype.kind in "iu" and values.dtype.itemsize == 8 and values.size:
        largest = max(abs(int(values.min())), abs(int(values.max())))
        if largest > _LARGEST_EXACT:
            return b"int" + values.astype("<i8", casting="unsafe").tobytes()
    numbers = np.array(values, dtype="<f8")
    numbers += 0.0  # minus zero is zero
    numbers[np.isnan(numbers)] = np.nan  # one bit pattern
    return numbers.tobytes()


def _iter_sparse(matrix: Any, order: np.ndarray | None) -> Iterator[bytes]:
    """Hash a sparse matrix: its shape, and where which value other than zero stands."""
    rows = matrix.tocsr(copy=True)
    if order is not None:
        rows = rows[order]
    rows.sum_duplicates()
    rows.eliminate_zeros()
    yield b"sparse" + repr(tuple(map(int, rows.shape))).encode()
    yield rows.indptr.astype("<i8").tobytes()
    yield rows.indices.astype("<i8").tobytes()
    yield _to_bytes(rows.data)
