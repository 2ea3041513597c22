"""Addresses of SQLite files: made of a path and turned back into one, whatever characters it has.

SQLAlchemy decodes ``%20`` in an address and takes what follows ``?`` for options; Optuna fills in what stands
in braces. A path with such characters, `#` included, is only safe when they are encoded.
"""

import os
from pathlib import Path
from urllib.parse import quote, unquote

PREFIX = "sqlite:///"

_MEANINGFUL = "%?#{}"
_IN_MEMORY = ("", ":memory:")


def to_address(path: str | os.PathLike[str]) -> str:
    """Make the address of an SQLite file; only characters that mean something in one are encoded."""
    return PREFIX + "".join(
        quote(character, safe="", errors="surrogateescape")
        if character in _MEANINGFUL or not character.isprintable()
        else character
        for character in os.fspath(path)
    )


def to_path(address: str) -> Path | None:
    """Find the file of an SQLite address; None for other databases, and for one in memory.

    ``sqlite+pysqlite:///FILE`` and ``sqlite:///file:FILE?mode=rwc&uri=true`` are understood too.
    """
    scheme, mark, rest = address.partition("://")
    if not mark or scheme.partition("+")[0] != "sqlite" or not rest.startswith("/"):
        return None
    database, _, options = rest[1:].partition("?")
    database = unquote(database)
    if "uri=true" in options.lower() and database.startswith("file:"):
        database = unquote(database.removeprefix("file:").partition("?")[0])
        database = f"/{database.lstrip('/')}" if database.startswith("//") else database
    is_in_memory = database in _IN_MEMORY or "mode=memory" in options.lower()
    return None if is_in_memory else Path(database)
