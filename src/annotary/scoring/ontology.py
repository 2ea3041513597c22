"""The column with the Cell Ontology's term of each cell's label."""

from collections.abc import Mapping
from dataclasses import replace

import pandas as pd

from annotary import keys
from annotary.data.ontology import UNKNOWN
from annotary.scoring.annotate import AnnotatedCells


def map_terms(labels: pd.Categorical, terms: Mapping[str, str]) -> pd.Categorical:
    """Give each cell its label's term, ``(n_cells,)``; ``unknown`` where there is none."""
    of_category = [terms.get(str(name), UNKNOWN) for name in labels.categories]
    known = sorted(set(of_category) | {UNKNOWN})
    codes = pd.Index(known).get_indexer(of_category)
    return pd.Categorical.from_codes(codes[labels.codes], categories=known)


def add_terms(cells: AnnotatedCells, terms: Mapping[str, str]) -> AnnotatedCells:
    """Add a column with the term of each cell's predicted label."""
    column = map_terms(cells.predicted_labels, terms)
    return replace(cells, more_columns={**cells.more_columns, keys.ONTOLOGY_TERM: column})
