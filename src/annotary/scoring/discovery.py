"""Which files to annotate."""

from pathlib import Path

from annotary.data.atomic import TEMPORARY_PREFIX
from annotary.errors import InputFileError
from annotary.scoring.outputs import SUFFIX


def find_inputs(source: Path) -> list[Path]:
    """List one h5ad file, or every h5ad file of a folder in alphabetical order.

    Annotated files and unfinished ones are no inputs.

    Raises
    ------
    InputFileError
        If there is nothing to annotate.
    """
    if not source.is_dir():
        return [source]
    found = sorted(
        path
        for path in source.glob("*.h5ad")
        if not path.name.endswith(SUFFIX) and not path.name.startswith(TEMPORARY_PREFIX)
    )
    if not found:
        raise InputFileError(
            source,
            expected="h5ad files to annotate",
            found=f"{len(list(source.iterdir()))} files of other kinds",
            remedy="Name another folder or file with --input.",
        )
    return found
