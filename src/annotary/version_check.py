"""Whether a version's files are those that were registered, asked by every command that uses or checks one.

A version is what its files were when it was registered. Their hashes are in three places: tags of the
version, tags of the logged model that it was made of, and the entries of the promotion ledger that speak
of it. Whoever alters the files must alter all three, and the ledger's entries cannot be altered unseen.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from annotary.data.hashing import hash_strings
from annotary.errors import BundleError, RegistryError, list_some
from annotary.ledger import Ledger, LedgerError, check_mark
from annotary.log import warn
from annotary.logged_models import get_logged_tags
from annotary.models.bundle import Bundle
from annotary.models.bundle_files import load_bundle
from annotary.promotions import read_anchored_ledger
from annotary.registry import Candidate, RegisteredVersion, fetch_model
from annotary.version_files import BUNDLE, MODEL_HASH_TAG, PACKAGE_TAG, find_alterations

_MOST_NAMED = 5
_SHORT_HASH = 12


@dataclass(frozen=True)
class VersionFinding:
    """One check of a version.

    Attributes
    ----------
    what
        What was checked.
    holds
        Whether it is as registered; None where that was not recorded.
    says
        What was found.
    """

    what: str
    holds: bool | None
    says: str


def load_version(version: RegisteredVersion) -> Bundle:
    """Load a version's model, if its files are those that were registered.

    Raises
    ------
    RegistryError
        If its files cannot be had.
    BundleError
        If they were altered.
    """
    return load_bundle(fetch_checked(version) / BUNDLE)


def fetch_checked(version: RegisteredVersion) -> Path:
    """Get the folder with a version's files, if they are those that were registered.

    What was not recorded when the version was registered is told, and no reason to refuse it. A ledger that
    cannot be believed is no reason either, nor believed: promoting and scoring say that of themselves.

    Raises
    ------
    RegistryError
        If its files cannot be had.
    BundleError
        If they were altered, naming them.
    """
    folder = fetch_model(version.uri)
    try:
        ledger = read_anchored_ledger(version.name)
    except LedgerError:
        ledger = Ledger(version.name)
    for one in check_files(version, folder, ledger):
        if one.holds is None:
            warn(f"{one.what}: {one.says}")
        elif not one.holds:
            raise BundleError(
                one.what,
                expected="to be as they were registered",
                found=one.says,
                remedy="They were altered in the artifact store or the registry: restore them from a backup, "
                "or go back with annotary rollback.",
            )
    return folder


def fetch_candidate(candidate: Candidate) -> Path:
    """Get the folder with a logged model's files, if they are those that were logged.

    Raises
    ------
    RegistryError
        If its files cannot be had.
    BundleError
        If they were altered, naming them.
    """
    folder = fetch_model(candidate.uri)
    wanted = get_logged_tags(candidate.model_id).get(MODEL_HASH_TAG, "")
    altered = find_alterations(folder, manifest_hash=wanted, package=None).altered
    if altered:
        raise BundleError(
            candidate.uri,
            expected="to be as it was logged",
            found=f"altered, gone or added: {', '.join(altered[:_MOST_NAMED])}",
            remedy="Train it again.",
        )
    return folder


def check_version(version: RegisteredVersion) -> Iterator[VersionFinding]:
    """Check a version's files, and the promotion ledger that speaks of it."""
    what = f"files of {version.uri}"
    ledger = Ledger(version.name)
    try:
        ledger = read_anchored_ledger(version.name)
    except LedgerError as error:
        yield VersionFinding(error.place, False, f"needs {error.expected}; found {error.found}")
    try:
        folder = fetch_model(version.uri)
    except RegistryError as error:
        yield VersionFinding(what, False, error.found)
        return
    yield from check_files(version, folder, ledger)


def check_head(model_name: str, head: str) -> VersionFinding:
    """Check that the ledger holds the entry that was its last when a file was annotated.

    Parameters
    ----------
    head
        ``NUMBER:HASH``, as the file's record says; empty where it says none.
    """
    what = f"promotion ledger of {model_name}"
    if not head:
        return VersionFinding(
            what, None, "not checked: the file was annotated without one, or before it was noted"
        )
    try:
        ledger = read_anchored_ledger(model_name)
        number = check_mark(ledger.entries, head, place=what, witness="the file remembers")
    except LedgerError as error:
        return VersionFinding(what, False, f"needs {error.expected}; found {error.found}")
    except RegistryError as error:
        return VersionFinding(what, False, f"found {error.found}")
    return VersionFinding(what, True, f"entry {number} of {len(ledger.entries)} is the one of then")


def check_files(version: RegisteredVersion, folder: Path, ledger: Ledger) -> Iterator[VersionFinding]:
    """Check a version's files against its tags, those of its logged model, and the ledger's entries."""
    what = f"files of {version.uri}"
    manifest_hash, package = version.tags.get(MODEL_HASH_TAG, ""), version.tags.get(PACKAGE_TAG, "")
    for name, witness, hashed in _list_witnesses(version, ledger):
        found = manifest_hash if name == MODEL_HASH_TAG else hash_strings([package]) if package else ""
        if found and found != hashed:
            yield VersionFinding(
                what, False, f"the tag {name} says {found[:_SHORT_HASH]}, {witness} {hashed[:_SHORT_HASH]}"
            )
            return
        if name == MODEL_HASH_TAG:
            manifest_hash = hashed
        elif not package:
            yield VersionFinding(what, False, f"the tag {name} is gone, of which {witness} has the hash")
            return
    if not manifest_hash and not package:
        yield VersionFinding(what, None, "not checked: registered before their hash was recorded")
        return
    compared = find_alterations(folder, manifest_hash=manifest_hash, package=_read_package(package))
    if compared.altered:
        named = list_some(compared.altered, most=_MOST_NAMED)
        yield VersionFinding(what, False, f"altered, gone or added: {named}")
        return
    if manifest_hash:
        yield VersionFinding(what, True, f"{compared.n_files} files as they were registered")
    if compared.unchecked:
        unchecked = ", ".join(compared.unchecked)
        yield VersionFinding(
            what, None, f"not checked: {unchecked}; registered before their hash was recorded"
        )


def _list_witnesses(version: RegisteredVersion, ledger: Ledger) -> Iterator[tuple[str, str, str]]:
    """List who else has the hashes of a version's files: tag, who, and what hash."""
    logged = get_logged_tags(version.model_id).get(MODEL_HASH_TAG, "")
    if logged:
        yield MODEL_HASH_TAG, "the logged model", logged
    for entry in ledger.list_recorded(version.number):
        for name, key in ((MODEL_HASH_TAG, "model"), (PACKAGE_TAG, "package")):
            hashed = entry.decision.hashes.get(key, "")
            if hashed:
                yield name, f"entry {entry.number} of the promotion ledger", hashed


def _read_package(text: str) -> dict[str, str] | None:
    """Read the tag with the hashes of what MLflow wrote around a bundle."""
    try:
        return {str(name): str(hashed) for name, hashed in json.loads(text).items()} if text else None
    except (ValueError, AttributeError):
        return {}
