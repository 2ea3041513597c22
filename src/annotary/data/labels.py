"""Labels: read from obs, checked, encoded in alphabetical order."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from annotary.data.damage import READERS_RAISE
from annotary.data.hashing import hash_file
from annotary.data.missing import count_texts_for_missing, find_missing
from annotary.data.packed import open_text, read_line
from annotary.errors import LabelError, list_some, summarize
from annotary.log import say, warn

MIN_CELLS_PER_LABEL = 3
"""One cell for each side of a split."""

_MOST_NAMED = 3
_NUL = "\x00"


@dataclass(frozen=True)
class Labels:
    """Encoded labels.

    Attributes
    ----------
    names
        Label names in alphabetical order, ``(n_classes,)``.
    codes
        Position of each cell's label in ``names``, ``(n_cells,)``.
    """

    names: tuple[str, ...]
    codes: np.ndarray


def read_labels(obs: pd.DataFrame, label_key: str, *, place: str) -> pd.Series:
    """Take the label column; None where a cell has no label, or a text that some tool writes for none.

    Raises
    ------
    LabelError
        If ``obs`` has no such column, or no cell in it has a label.
    """
    if label_key not in obs:
        columns = ", ".join(map(str, obs.columns)) or "none"
        raise LabelError(
            f"{place}: obs",
            expected=f"a column {label_key!r} with the labels",
            found=f"the columns {columns}",
            remedy="Name the column with --label-key.",
        )
    column = obs[label_key]
    if isinstance(column, pd.DataFrame):
        raise LabelError(
            f"{place}: obs",
            expected=f"one column {label_key!r} with the labels",
            found=f"{column.shape[1]} of this name",
            remedy="Rename the others.",
        )
    labels = _clean_labels(column, place=f"{place}: obs[{label_key!r}]")
    if labels.isna().all():
        raise LabelError(
            f"{place}: obs[{label_key!r}]",
            expected="labels",
            found=f"none in {len(labels)} cells",
            remedy="Name another column with --label-key.",
        )
    return labels


def read_label_table(path: Path, cell_ids: pd.Index, label_key: str) -> pd.Series:
    """Read labels from a table of barcodes and labels.

    Parameters
    ----------
    path
        csv or tsv with a header; the first column holds cell ids.
    cell_ids
        Cells to label, ``(n_cells,)``.
    label_key
        Column with the labels; the second column where the table has no such one.

    Returns
    -------
    Label of each cell, ``(n_cells,)``; None where the table has none.

    Raises
    ------
    LabelError
        If the table cannot be read, names a cell twice, or none of the cells.
    """
    table = _read_table(path)
    column = label_key if label_key in table else table.columns[0]
    n_named = int(cell_ids.astype(str).isin(table.index).sum())
    if not n_named:
        raise LabelError(
            path,
            expected=f"barcodes of the input such as {str(cell_ids[0])!r}",
            found=f"none of them among {len(table)} such as {str(table.index[0])!r}"
            if len(table)
            else "none below its header",
            remedy="Write barcodes in both the same way (check suffixes such as -1).",
        )
    named = table.loc[table.index.isin(cell_ids.astype(str)), column]
    labels = _clean_labels(named, place=f"{path}: column {str(column)!r}").reindex(cell_ids.astype(str))
    labels = labels.where(labels.notna(), None)
    if labels.isna().all():
        raise LabelError(
            path,
            expected=f"labels in its column {str(column)!r}",
            found=f"none for the {n_named} cells of the input that it names",
            remedy="Name the column with --label-key.",
        )
    return labels


def hash_label_table(path: Path) -> str:
    """Compute the SHA-256 of a table's bytes.

    Raises
    ------
    LabelError
        If it cannot be read.
    """
    try:
        return hash_file(path)
    except OSError as error:
        raise _describe_table(path, summarize(error)) from error


def _read_table(path: Path) -> pd.DataFrame:
    """Read a table by unique barcode, all text, ``(n_barcodes, 1 or more)``."""
    try:
        with open_text(path) as file:
            separator = "\t" if "\t" in read_line(file) else ","
        with open_text(path) as file:
            table = pd.read_csv(file, sep=separator, dtype=str, index_col=0, keep_default_na=False)
    except READERS_RAISE as error:
        raise _describe_table(path, summarize(error)) from error
    if not table.shape[1]:
        raise _describe_table(path, "one column")
    table.index = table.index.astype(str)
    if not table.index.is_unique:
        repeated = table.index[table.index.duplicated()]
        raise LabelError(
            path,
            expected="one row for each barcode",
            found=f"{len(repeated)} repeated ones such as {repeated[0]!r}",
            remedy="Remove the repeated rows.",
        )
    return table


def _describe_table(path: Path, found: str) -> LabelError:
    """Describe a file that is no table of labels."""
    return LabelError(
        path,
        expected="to be a csv or tsv table of barcodes and labels",
        found=found,
        remedy="Name another table with --labels.",
    )


def _clean_labels(values: pd.Series, *, place: str) -> pd.Series:
    """Make labels text without blanks around it, None where there is no label; say what was changed."""
    missing = count_texts_for_missing(values)
    if missing:
        told = ", ".join(f"{size:,} {text!r}" for text, size in missing.items())
        say(f"{place}: texts for a missing value count as no label: {told}")
    labels = values.astype(object).where(~find_missing(values), None)
    texts = labels.map(str, na_action="ignore")
    labels = texts.map(str.strip, na_action="ignore")
    has_blanks = labels.notna() & (labels != texts)
    if has_blanks.any():
        warn(
            f"{place}: {has_blanks.sum():,} labels have blanks around them, such as "
            f"{texts[has_blanks].iloc[0]!a}; labels that differ only by these are one"
        )
    return labels.where(labels.notna(), None)


def count_rare_labels(labels: pd.Series, *, min_cells: int) -> dict[str, int]:
    """Count the cells of each label that fewer than ``min_cells`` cells have."""
    sizes = labels.value_counts()
    return {str(name): int(size) for name, size in sizes[sizes < min_cells].items()}


def encode_labels(labels: pd.Series, *, place: str) -> Labels:
    """Encode labels, at least two of them with enough cells each to split.

    Parameters
    ----------
    labels
        Label names, ``(n_cells,)``, none missing.

    Raises
    ------
    LabelError
        If there is one label only, one with too few cells, or one that no HDF5 file can hold.
    """
    sizes = labels.value_counts()
    for name in sizes.index:
        if _NUL in name:
            raise LabelError(
                place,
                expected="labels without the character NUL, at which HDF5 ends a text",
                found=repr(name),
                remedy="Rename the label.",
            )
    if len(sizes) < 2:
        raise LabelError(
            place,
            expected="at least two different labels",
            found=f"{len(sizes)} ({', '.join(map(repr, sizes.index)) or 'no cells'}) after quality control",
            remedy="Give labelled cells of several types, or loosen --min-genes.",
        )
    rare = sizes[sizes < MIN_CELLS_PER_LABEL]
    if len(rare):
        raise LabelError(
            place,
            expected=f"at least {MIN_CELLS_PER_LABEL} cells of each label, one for each side of the split",
            found=list_some(
                [f"{size} of {name!r}" for name, size in rare.items()], most=_MOST_NAMED, what=" labels"
            )
            + " after quality control",
            remedy=f"Pass --min-cells-per-label {MIN_CELLS_PER_LABEL} to leave them out, or relabel them.",
        )
    names = tuple(sorted(sizes.index))
    codes = pd.Index(names).get_indexer(labels).astype(np.int64)
    return Labels(names=names, codes=codes)
