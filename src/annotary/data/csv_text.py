"""Tables as csv that people open in spreadsheets: no text of a cell can be taken for a formula.

A text that begins with ``=``, ``+``, ``-``, ``@``, a tab or a line's end gets an apostrophe before it, as
OWASP advises (https://owasp.org/www-community/attacks/CSV_Injection); so does one that begins with
apostrophes and then one of these, so that :func:`unguard` gives back exactly what was there. Numbers stay
numbers.
"""

import csv
import re
from pathlib import Path
from typing import Any

import pandas as pd

_FORMULA = re.compile(r"'*[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
_GUARDED = re.compile(r"'+[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")


def guard(value: Any) -> Any:
    """Put an apostrophe before a text that a spreadsheet would run; anything else stays as it is."""
    return f"'{value}" if isinstance(value, str) and _FORMULA.match(value) else value


def unguard(value: Any) -> Any:
    """Give back what :func:`guard` was given."""
    return value[1:] if isinstance(value, str) and _GUARDED.match(value) else value


def write_csv(table: pd.DataFrame, path: Path, *, index: bool = True) -> None:
    """Write a table with guarded texts, names of rows and columns among them.

    Parameters
    ----------
    table
        Any table; it is not changed.
    path
        File to write.
    index
        Whether the names of the rows are a column.
    """
    n_returns = 0

    def guard_and_count(value: Any) -> Any:
        nonlocal n_returns
        n_returns += isinstance(value, str) and "\r" in value
        return guard(value)

    guarded = _map_texts(table, guard_and_count)
    # Python's writer leaves a carriage return bare, which readers take for the end of the row.
    quoting = csv.QUOTE_NONNUMERIC if n_returns else csv.QUOTE_MINIMAL
    guarded.to_csv(path, index=index, quoting=quoting)


def unguard_table(table: pd.DataFrame) -> pd.DataFrame:
    """Give back the texts of a table that :func:`write_csv` wrote and pandas read."""
    return _map_texts(table, unguard)


def _map_texts(table: pd.DataFrame, change: Any) -> pd.DataFrame:
    """Change the texts of a table, and the names of its rows and columns."""
    changed = table.copy(deep=False)
    for position in range(table.shape[1]):
        column = table.iloc[:, position]
        if isinstance(column.dtype, pd.CategoricalDtype):
            names = [change(category) for category in column.cat.categories]
            if names != list(column.cat.categories):
                changed.isetitem(position, column.astype(object).map(change))
        elif not pd.api.types.is_numeric_dtype(column.dtype):
            changed.isetitem(position, column.map(change))
    changed.index, changed.columns = _map_names(table.index, change), _map_names(table.columns, change)
    return changed


def _map_names(names: pd.Index, change: Any) -> pd.Index:
    """Change the names of rows or columns, and the name of the index itself."""
    titles = [change(title) for title in names.names]
    if isinstance(names, pd.MultiIndex):
        return pd.MultiIndex.from_tuples([tuple(map(change, name)) for name in names], names=titles)
    if pd.api.types.is_numeric_dtype(names.dtype):
        return names.rename(titles[0])
    return pd.Index(
        [change(name) for name in names], name=titles[0], dtype=names.dtype if len(names) == 0 else None
    )
