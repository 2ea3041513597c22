"""What a check of an annotated file found."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One check.

    Attributes
    ----------
    what
        What was checked.
    holds
        Whether it is as recorded; None where it could not be checked.
    says
        What was found.
    is_needed
        Whether a file may be called whole only when this could be checked.
    """

    what: str
    holds: bool | None
    says: str
    is_needed: bool = False
