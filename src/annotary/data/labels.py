"""Labels: read from obs, checked, encoded in alphabetical order."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from annotary.errors import LabelError

MIN_CELLS_PER_LABEL = 3
"""One cell for each side of a split."""


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
    """Take the label column, with missing labels as NaN.

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
    values = obs[label_key]
    labels = values.astype(object).where(values.notna(), None)
    labels = labels.map(lambda value: str(value).strip() if value is not None else None)
    labels = labels.where(labels != "", None)
    if labels.isna().all():
        raise LabelError(
            f"{place}: obs[{label_key!r}]",
            expected="labels",
            found=f"none in {len(labels)} cells",
            remedy="Name another column with --label-key.",
        )
    return labels


def encode_labels(labels: pd.Series, *, place: str) -> Labels:
    """Encode labels, at least two of them with enough cells each to split.

    Parameters
    ----------
    labels
        Label names, ``(n_cells,)``, none missing.

    Raises
    ------
    LabelError
        If there is one label only, or one with too few cells.
    """
    sizes = labels.value_counts()
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
            found=", ".join(f"{size} of {name!r}" for name, size in rare.items()) + " after quality control",
            remedy="Merge, relabel or remove these cells, or loosen --min-genes.",
        )
    names = tuple(sorted(sizes.index))
    codes = pd.Index(names).get_indexer(labels).astype(np.int64)
    return Labels(names=names, codes=codes)
