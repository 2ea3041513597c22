"""Texts that tools write where there is no value."""

import unicodedata

import pandas as pd

_TEXTS = frozenset(
    [
        "", "na", "n/a", "#n/a", "#n/a n/a", "#na", "n.a.", "none", "null", "<na>", "nat", "nan", "-nan",
        "1.#ind", "-1.#ind", "1.#qnan", "-1.#qnan", "-", "--",
    ]
)  # fmt: skip
"""What pandas, R, spreadsheets and databases write, in lower case; "unknown" is a person's word."""


def is_text_for_missing(text: str) -> bool:
    """Tell a text that stands for no value: ``NA``, ``None``, ``null``, ``NaN``, ``<NA>``, ``-``, blanks."""
    seen = "".join(sign for sign in text if unicodedata.category(sign) != "Cf")
    return seen.strip().lower() in _TEXTS


def find_missing(values: pd.Series) -> pd.Series:
    """Find the values that are missing, or a text for it: a mask ``(n,)``."""
    unique = pd.Series(values.dropna().unique())
    texts = set(unique[unique.map(lambda value: is_text_for_missing(str(value))).astype(bool)])
    return values.isna() | values.isin(texts).astype(bool)


def count_texts_for_missing(values: pd.Series) -> dict[str, int]:
    """Count the values that are a text for a missing one, by the text as it stands; blanks are not told."""
    texts = values[find_missing(values) & values.notna()].astype(str)
    sizes = texts[texts.str.strip() != ""].value_counts()
    return {str(text): int(size) for text, size in sizes.items()}
