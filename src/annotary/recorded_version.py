"""The version that an annotated file's record names, against the registry as it is now."""

from collections.abc import Iterator, Mapping

from annotary.errors import RegistryError, StoreError
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
    name, uri = str(record.get("model_name")), name_recorded(record)
    try:
        version = _find(record)
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


def name_recorded(record: Mapping[str, object]) -> str:
    """Give the address of the version that a record names."""
    return f"models:/{record.get('model_name')}/{record.get('model_version')}"


def find_recorded(record: Mapping[str, object]) -> RegisteredVersion | None:
    """Find the version that a record names; None where the registry has it not."""
    try:
        return _find(record)
    except StoreError:
        raise
    except RegistryError:
        return None


def _find(record: Mapping[str, object]) -> RegisteredVersion:
    """Find a version, under another name if its registered model was renamed."""
    number = str(record.get("model_version"))
    try:
        return get_version(str(record.get("model_name")), number)
    except StoreError:
        raise
    except RegistryError:
        renamed = find_renamed(number, str(record.get("run_id")))
        if renamed is None:
            raise
        return renamed
