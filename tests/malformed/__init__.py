"""Malformed and odd inputs of ``annotary preprocess``, each with what must come of it."""

from malformed import containers, formats, label_tables, layouts, matrices, tables, tenx
from malformed.cases import CASES, Accepted, Case, Refused

__all__ = [
    "CASES",
    "Accepted",
    "Case",
    "Refused",
    "containers",
    "formats",
    "label_tables",
    "layouts",
    "matrices",
    "tables",
    "tenx",
]
