"""Which columns of a matrix are genes: Cell Ranger writes antibodies, peaks and guides beside them."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from annotary import keys
from annotary.data.missing import find_missing
from annotary.errors import InputFileError

_GENE_EXPRESSION = frozenset({"geneexpression", "gex", "rna", "mrna", "gene", "genes", "transcriptome"})
"""Spellings of gene expression, in lower case and letters alone."""


@dataclass(frozen=True)
class Features:
    """Which columns are genes.

    Attributes
    ----------
    is_gene
        Mask of the columns, ``(n_columns,)``.
    notes
        What was left aside or taken although nothing is said of it, for people.
    """

    is_gene: np.ndarray
    notes: tuple[str, ...] = ()


def find_features(var: pd.DataFrame, path: Path) -> Features:
    """Find the columns that are genes, by ``var["feature_types"]``.

    A column of which nothing is said (missing, or a text for it) is a gene, as all are in a file without
    feature types.

    Raises
    ------
    InputFileError
        If there is none.
    """
    if keys.FEATURE_TYPES not in var:
        return Features(np.ones(len(var), dtype=bool))
    types = var[keys.FEATURE_TYPES]
    if isinstance(types, pd.DataFrame):  # the name is there twice
        types = types.iloc[:, 0]
    is_missing = find_missing(types).to_numpy(dtype=bool)
    names = types.astype(object).astype(str)
    spellings = {name for name in names.unique() if _is_gene_expression(name)}
    is_gene = is_missing | names.isin(spellings).to_numpy(dtype=bool)
    place = f"{path}: var[{keys.FEATURE_TYPES!r}]"
    if not is_gene.any():
        raise InputFileError(
            place,
            expected=f"features of the type {keys.GENE_EXPRESSION!r}",
            found=", ".join(sorted(names.unique())),
            remedy=f"Give a file with gene expression, or remove the column {keys.FEATURE_TYPES} if it means "
            "something else.",
        )
    return Features(is_gene, tuple(_list_notes(names, is_gene, is_missing, place)))


def _is_gene_expression(name: str) -> bool:
    """Tell a spelling of gene expression."""
    return re.sub(r"[^a-z]", "", name.lower()) in _GENE_EXPRESSION


def _list_notes(names: pd.Series, is_gene: np.ndarray, is_missing: np.ndarray, place: str) -> list[str]:
    """Say which columns are left aside, and which are taken although nothing is said of them."""
    notes = []
    if is_missing.any() and not is_missing.all():
        notes.append(
            f"{place}: {is_missing.sum():,} of {len(names):,} features have no type; taken as genes."
        )
    left = names[~is_gene].value_counts()
    if len(left):
        told = ", ".join(f"{size:,} of the type {name!r}" for name, size in left.items())
        notes.append(f"{place}: features that are no genes are left aside: {told}.")
    return notes
