"""Which files to annotate."""

from pathlib import Path

from annotary.data.atomic import TEMPORARY_PREFIX
from annotary.data.discovery import ANNOTATED_SUFFIX, split_list
from annotary.errors import InputFileError


def find_inputs(text: str) -> list[Path]:
    """List h5ad files: one, every one of a folder in alphabetical order, or several separated by commas.

    Of a folder, annotated files and unfinished ones are no inputs.

    Raises
    ------
    InputFileError
        If there is nothing to annotate.
    """
    return [path for part in split_list(text) for path in _open_folder(part)]


def _open_folder(source: Path) -> list[Path]:
    """List the h5ad files of a folder, or the file itself."""
    if not source.is_dir():
        return [source]
    found = sorted(
        path
        for path in source.glob("*.h5ad")
        if not path.name.endswith(ANNOTATED_SUFFIX) and not path.name.startswith(TEMPORARY_PREFIX)
    )
    if not found:
        raise InputFileError(
            source,
            expected="h5ad files to annotate",
            found=f"{len(list(source.iterdir()))} files of other kinds",
            remedy="Name another folder or file with --input.",
        )
    return found
