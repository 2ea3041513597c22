"""MuData files, which hold several modalities: the one of gene expression, as an h5ad file of its own."""

from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np

from annotary import keys
from annotary.data.hdf5 import open_hdf5, read_element
from annotary.errors import InputFileError
from annotary.log import say

ENDING = ".h5mu"
_MODALITIES = "mod"
_NAMES = ("rna", "gex", "gene expression", "gene_expression")


def holds_modalities(top: Mapping[str, str]) -> bool:
    """Tell a MuData file from one of AnnData, by what lies at its top."""
    return top.get(_MODALITIES) == "group" and "X" not in top


def copy_expression(path: Path, copy: Path) -> None:
    """Write the only modality of gene expression in a MuData file as an h5ad file.

    Raises
    ------
    InputFileError
        If there is none, or several.
    """
    with open_hdf5(path, kind="MuData file") as file:
        if _MODALITIES not in file:
            raise KeyError(f"no group {_MODALITIES!r} of modalities")
        modalities = file[_MODALITIES]
        found = [name for name in modalities if _is_expression(modalities[name], name, path)]
        if len(found) != 1:
            raise _describe(path, list(modalities), found)
        chosen = modalities[found[0]]
        with h5py.File(copy, "w") as target:
            for name, value in chosen.attrs.items():
                target.attrs[name] = value
            for name in chosen:
                chosen.copy(name, target, expand_refs=True)
        say(f"{path}: a MuData file; its modality {found[0]!r} of {', '.join(modalities)} is read")


def refuse_modalities(file: h5py.File, path: Path) -> None:
    """Refuse a MuData file where one of AnnData must be.

    Raises
    ------
    InputFileError
        With the modality to write as h5ad.
    """
    if isinstance(file.get(_MODALITIES), h5py.Group) and "X" not in file:
        modalities = file[_MODALITIES]
        found = [name for name in modalities if _is_expression(modalities[name], name, path)]
        raise _describe(path, list(modalities), found)


def _is_expression(modality: h5py.Group, name: str, path: Path) -> bool:
    """Tell a modality of gene expression by the types of its features, or else by its name."""
    if not isinstance(modality, h5py.Group):
        return False
    types = modality.get(f"var/{keys.FEATURE_TYPES}")
    if types is None:
        return name.lower() in _NAMES
    told = read_element(types, path=path)
    return bool((np.asarray(told, dtype=object) == keys.GENE_EXPRESSION).any())


def _describe(path: Path, modalities: list[str], found: list[str]) -> InputFileError:
    """Describe a MuData file from which no modality can be chosen."""
    which = found or modalities
    return InputFileError(
        path,
        expected="an h5ad file, or a MuData file with one modality of gene expression",
        found=f"a MuData file with {len(found) or 'none'} of them: {', '.join(which) or 'no modality'}",
        remedy=f'Write the one to annotate as h5ad: mdata["{which[0] if which else "rna"}"].write_h5ad(...).',
    )
