"""Terms of the Cell Ontology for labels, as a table holds them."""

import re
from pathlib import Path

import pandas as pd

from annotary import keys
from annotary.data.damage import READERS_RAISE
from annotary.data.packed import open_text
from annotary.errors import InputFileError, summarize

UNKNOWN = "unknown"
"""What the CELLxGENE schema wants where there is no term."""

_LABEL = "label"
_TERM = re.compile(r"CL:\d{7}|unknown")


def read_terms(path: Path) -> dict[str, str]:
    """Read a table with the columns ``label`` and ``cell_type_ontology_term_id``, csv or tsv.

    Returns
    -------
    The term of each label that has one.

    Raises
    ------
    InputFileError
        If it is no such table, names a label twice, or holds something else than terms.
    """
    try:
        with open_text(path) as file:
            table = pd.read_csv(file, sep=None, engine="python", dtype=str, keep_default_na=False)
    except READERS_RAISE as error:
        raise _refuse(path, summarize(error)) from error
    if not {_LABEL, keys.ONTOLOGY_TERM} <= set(table.columns):
        raise _refuse(path, f"columns {', '.join(map(str, table.columns))}")
    labels, terms = table[_LABEL].str.strip(), table[keys.ONTOLOGY_TERM].str.strip().replace("", UNKNOWN)
    if labels.duplicated().any():
        raise _refuse(path, f"two rows for {labels[labels.duplicated()].iloc[0]!r}")
    wrong = [term for term in terms if not _TERM.fullmatch(term)]
    if wrong:
        raise _refuse(path, f"the term {wrong[0]!r}")
    return {label: term for label, term in zip(labels, terms, strict=True) if term != UNKNOWN}


def _refuse(path: Path, found: str) -> InputFileError:
    """Describe a table that cannot be used."""
    return InputFileError(
        path,
        expected=f"to be a table of {_LABEL} and {keys.ONTOLOGY_TERM}, each label once",
        found=found,
        remedy="Write terms of the Cell Ontology such as CL:0000236, or unknown.",
    )
