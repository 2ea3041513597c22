"""Terms of the Cell Ontology for labels."""

import re
from dataclasses import replace
from pathlib import Path

import pandas as pd

from annotary import keys
from annotary.errors import InputFileError
from annotary.scoring.annotate import AnnotatedCells

UNKNOWN = "unknown"
"""What the CELLxGENE schema wants where there is no term."""

_LABEL = "label"
_TERM = re.compile(r"CL:\d{7}|unknown")


def read_terms(path: Path) -> dict[str, str]:
    """Read a table with the columns ``label`` and ``cell_type_ontology_term_id``, csv or tsv.

    Raises
    ------
    InputFileError
        If it is no such table, names a label twice, or holds something else than terms.
    """
    try:
        table = pd.read_csv(path, sep=None, engine="python", dtype=str, keep_default_na=False)
    except (OSError, ValueError, pd.errors.ParserError) as error:
        raise _refuse(path, str(error)) from error
    if not {_LABEL, keys.ONTOLOGY_TERM} <= set(table.columns):
        raise _refuse(path, f"columns {', '.join(map(str, table.columns))}")
    labels, terms = table[_LABEL], table[keys.ONTOLOGY_TERM].replace("", UNKNOWN)
    if labels.duplicated().any():
        raise _refuse(path, f"two rows for {labels[labels.duplicated()].iloc[0]!r}")
    wrong = [term for term in terms if not _TERM.fullmatch(term)]
    if wrong:
        raise _refuse(path, f"the term {wrong[0]!r}")
    return dict(zip(labels, terms, strict=True))


def map_terms(labels: pd.Categorical, terms: dict[str, str]) -> pd.Categorical:
    """Give each cell its label's term, ``(n_cells,)``; ``unknown`` where there is none."""
    of_category = [terms.get(str(name), UNKNOWN) for name in labels.categories]
    known = sorted(set(of_category) | {UNKNOWN})
    codes = pd.Index(known).get_indexer(of_category)
    return pd.Categorical.from_codes(codes[labels.codes], categories=known)


def add_terms(cells: AnnotatedCells, path: Path) -> AnnotatedCells:
    """Add a column with the term of each cell's predicted label."""
    terms = map_terms(cells.predicted_labels, read_terms(path))
    return replace(cells, more_columns={**cells.more_columns, keys.ONTOLOGY_TERM: terms})


def _refuse(path: Path, found: str) -> InputFileError:
    """Describe a table that cannot be used."""
    return InputFileError(
        path,
        expected=f"to be a table of {_LABEL} and {keys.ONTOLOGY_TERM}, each label once",
        found=found,
        remedy="Write terms of the Cell Ontology such as CL:0000236, or unknown.",
    )
