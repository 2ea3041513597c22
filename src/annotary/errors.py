"""One family of errors: each names the place, what it needs, what was found, and the remedy."""

_LONGEST_SUMMARY = 200


class AnnotaryError(Exception):
    """An error for a person to read: one line, no traceback.

    Parameters
    ----------
    place
        File and element, option, or registry entry at fault.
    expected
        What is needed there, as the object of "needs".
    found
        What is there instead, with values.
    remedy
        What to do about it, as one sentence.

    Attributes
    ----------
    exit_code
        What the command line ends with.
    """

    exit_code = 1

    def __init__(self, place: object, *, expected: str, found: str, remedy: str) -> None:
        self.place = _make_writable(str(place))
        self.expected = _make_writable(expected)
        self.found = _make_writable(found)
        self.remedy = _make_writable(remedy)
        message = f"{self.place} needs {self.expected}; found {self.found}. {self.remedy}"
        super().__init__(" ".join(message.split()))


class ConfigError(AnnotaryError):
    """A parameter has a value that cannot be used."""


class InputFileError(AnnotaryError):
    """A file is missing, unreadable, or of another format."""


class SetupError(InputFileError):
    """What reads a file is not installed on this machine; the file is not at fault."""


class CountsError(AnnotaryError):
    """A matrix does not hold raw counts."""


class LabelError(AnnotaryError):
    """Labels are missing or too few."""


class GeneOverlapError(AnnotaryError):
    """Too few of a model's genes are in the data."""


class OutputError(AnnotaryError):
    """An output cannot be written."""


class BundleError(AnnotaryError):
    """A model's files are missing, altered, or of an unknown format."""


class RegistryError(AnnotaryError):
    """A run, model, version or alias is not there."""


class StoreError(RegistryError):
    """The tracking store, or the database of the studies, does not answer."""


class AccessError(RegistryError):
    """The tracking store does not know the user, or does not let it do this."""


def summarize(error: Exception) -> str:
    """Give the first line of another library's error, or its type where it says nothing."""
    lines = str(error).splitlines()
    return lines[0][:_LONGEST_SUMMARY] if lines else type(error).__name__


def _make_writable(text: str) -> str:
    """Spell out what no file can hold: parts of names that are not UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()
