"""The files of a registered version: what belongs to it, and which were altered since.

Three lists name them all. The bundle's manifest has the hashes of its files, one of
which, ``code.json``, has those of the code beside the bundle. What MLflow writes around
both (``MLmodel``, the environment) is hashed when the version is registered. MLflow
rewrites none of these files afterwards; it adds ``registered_model_meta``, and Python its
``__pycache__``, which annotary never runs.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from annotary.data.hashing import hash_file, hash_strings
from annotary.models.bundle_files import CODE_LIST, MANIFEST

BUNDLE = Path("artifacts") / "bundle"
CODE = "code"
MODEL_HASH_TAG = "annotary.model_hash"
PACKAGE_TAG = "annotary.package_files"

_ADDED_BY_MLFLOW = "registered_model_meta"
_CACHE, _COMPILED = "__pycache__", ".pyc"
_HASHES = "sha256"


@dataclass(frozen=True)
class Alterations:
    """What became of a version's files.

    Attributes
    ----------
    n_files
        Files that were compared.
    altered
        Files that are others than those registered, are gone, or came later.
    unchecked
        Parts whose hashes were not recorded when the version was registered.
    """

    n_files: int
    altered: list[str]
    unchecked: list[str]


def write_code_list(code: Path, bundle: Path) -> None:
    """Write the hashes of all files of a code folder into a bundle's folder, before its manifest is made."""
    bundle.mkdir(parents=True, exist_ok=True)
    hashes = {name: hash_file(code / name) for name in list_files(code)}
    (bundle / CODE_LIST).write_text(json.dumps(hashes, indent=0, sort_keys=True))


def hash_package(folder: Path) -> dict[str, str]:
    """Hash what MLflow wrote around bundle and code: ``MLmodel``, the entry point, the environment."""
    return {
        name: hash_file(folder / name)
        for name in list_files(folder)
        if not name.startswith((f"{CODE}/", f"{BUNDLE.as_posix()}/"))
    }


def describe_files(folder: Path) -> dict[str, str]:
    """Give the tags that hold the hashes of a logged model's files."""
    manifest = folder / BUNDLE / MANIFEST
    hashes = {MODEL_HASH_TAG: hash_file(manifest)} if manifest.is_file() else {}
    return hashes | {PACKAGE_TAG: json.dumps(hash_package(folder), sort_keys=True)}


def hash_listing(listing: Mapping[str, str]) -> str:
    """Hash names and hashes of files."""
    return hash_strings(f"{name}\t{listing[name]}" for name in sorted(listing))


def list_files(folder: Path) -> list[str]:
    """List a model's files by their names within its folder, links to folders among them."""
    found = []
    for place, folders, files in os.walk(folder):
        inside = Path(place)
        found += [inside / name for name in files]
        found += [inside / name for name in folders if (inside / name).is_symlink()]
    names = sorted(path.relative_to(folder).as_posix() for path in found)
    return [name for name in names if not _is_by_product(name)]


def find_alterations(folder: Path, *, manifest_hash: str, package: Mapping[str, str] | None) -> Alterations:
    """Compare a version's folder with what was registered.

    Parameters
    ----------
    folder
        The logged model's folder.
    manifest_hash
        SHA-256 of the bundle's manifest as registered; empty where that was not recorded.
    package
        What :func:`hash_package` gave then; None where that was not recorded.
    """
    manifest = folder / BUNDLE / MANIFEST
    of_bundle = _read_hashes(manifest, inside=_HASHES)
    if of_bundle is None or (manifest_hash and hash_file(manifest) != manifest_hash):
        return Alterations(1, [f"{BUNDLE.as_posix()}/{MANIFEST}"], [])
    wanted = {f"{BUNDLE.as_posix()}/{name}": wanted for name, wanted in of_bundle.items()}
    wanted[f"{BUNDLE.as_posix()}/{MANIFEST}"] = manifest_hash or hash_file(manifest)
    unchecked = [] if manifest_hash else ["its manifest"]
    of_code = _read_hashes(folder / BUNDLE / CODE_LIST) if CODE_LIST in of_bundle else None
    if CODE_LIST not in of_bundle:
        unchecked.append("the code beside the model")
    else:
        wanted |= {f"{CODE}/{name}": hashed for name, hashed in (of_code or {}).items()}
    if package is None:
        unchecked.append("MLmodel and its environment")
    else:
        wanted |= package
    known = {
        f"{CODE}/": CODE_LIST in of_bundle,
        f"{BUNDLE.as_posix()}/": True,
    }
    found = [
        name
        for name in list_files(folder)
        if next(
            (is_known for start, is_known in known.items() if name.startswith(start)), package is not None
        )
    ]
    altered = {name for name in wanted if _hash_or_none(folder / name) != wanted[name]}
    return Alterations(len(wanted), sorted(altered | (set(found) - set(wanted))), unchecked)


def _is_by_product(name: str) -> bool:
    """Tell a file that MLflow or Python adds from one of the model's."""
    parts = name.split("/")
    return name == _ADDED_BY_MLFLOW or (_CACHE in parts[:-1] and name.endswith(_COMPILED))


def _read_hashes(path: Path, *, inside: str = "") -> dict[str, str] | None:
    """Read names and hashes out of a file of JSON; None where it holds none."""
    try:
        said = json.loads(path.read_text())
        hashes = said[inside] if inside else said
        return {str(name): str(hashed) for name, hashed in hashes.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _hash_or_none(path: Path) -> str | None:
    """Hash a file; None where there is none, or a link."""
    return hash_file(path) if path.is_file() and not path.is_symlink() else None
