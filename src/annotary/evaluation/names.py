"""How names that others gave are shown: labels, genes, files, samples may hold anything."""

import re

_LONGEST = 34
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, marks that turn the direction of the text after them, halves of characters that no
encoding has: all but tab and line break."""


def reveal(text: str) -> str:
    """Write characters that nobody sees, or no file can hold, by their number: ``⟨U+202E⟩``."""
    return _UNSEEN.sub(lambda found: f"⟨U+{ord(found.group()):04X}⟩", text)


def shorten(name: str, *, longest: int = _LONGEST) -> str:
    """Show a name on one line, a long one without its middle.

    Parameters
    ----------
    name
        Any text.
    longest
        Characters to keep, at least two.
    """
    name = reveal(" ".join(name.split()))
    if len(name) <= longest:
        return name
    half = longest // 2
    return f"{name[: half - 1]}…{name[-half:]}"
