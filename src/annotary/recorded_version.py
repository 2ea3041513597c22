"""The version that an annotated file's record names, against the registry as it is now."""

from collections.abc import Iterator, Mapping

from annotary.errors import RegistryError
from annotary.registry import RegisteredVersion, find_renamed, get_version
from annotary.tracking import DATASET_HASH_TAG, SPLIT_HASH_TAG
from annotary.version_check import VersionFinding, check_head, check_version


def check_recorded(record: Mapping[str, object]) -> Iterator[VersionFinding]:
    """Check that a record's version is there, is the one meant, and that its files are as registered.

    The promotion ledger must hold the entry that was its last when the file was annotated.

    Parameters
    ----------
    record
        ``uns["annotary"]`` of an annotated file.
    """
    name, number = str(record.get("model_name")), str(record.get("model_version"))
    uri = f"models:/{name}/{number}"
    try:
        version = _find(name, number, str(record.get("run_id")))
    except RegistryError as error:
        yield VersionFinding(uri, False, f"found {error.found}")
        return
    recorded = {
        "run_id": version.run_id,
        "dataset_hash": version.tags.get(DATASET_HASH_TAG),
        "split_hash": version.tags.get(SPLIT_HASH_TAG),
    }
    for key, registered in recorded.items():
        if record.get(key) != registered:
            yield VersionFinding(uri, False, f"{key} is {registered!r}, the file says {record.get(key)!r}")
            return
    renamed = "" if version.name == name else f"; the registered model is called {version.name!r} now"
    yield VersionFinding(uri, True, f"the run, dataset and split that the file says{renamed}")
    yield from check_version(version)
    yield check_head(version.name, str(record.get("ledger_head", "")))


def _find(name: str, number: str, run_id: str) -> RegisteredVersion:
    """Find a version, under another name if its registered model was renamed."""
    try:
        return get_version(name, number)
    except RegistryError:
        renamed = find_renamed(number, run_id)
        if renamed is None:
            raise
        return renamed
