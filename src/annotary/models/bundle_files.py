"""The registered form of a bundle: a folder of safe files that explains itself.

``bundle.json``, the manifest, holds format, kind, label names and counts, InputSpec, what confidence was
asked for, provenance, and the SHA-256 of every other file and of itself. ``weights/`` holds what the
model saved, ``confidence.safetensors`` temperature, thresholds and limits, ``seen_cells.safetensors``
which cells the model has seen. Nothing in it is a pickle.

A bundle may also have the quality thresholds of its cells and ``profile.safetensors``, their confidence and
their genes' detection, and the labels' terms of the Cell Ontology.

A format, once released, is read for ever: another one gets another number and a reader of its own. What a
bundle may have or not is no other format.
"""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from annotary.data.damage import READERS_RAISE
from annotary.data.hashing import hash_file, hash_strings
from annotary.errors import BundleError, summarize
from annotary.models.bundle import Bundle, Provenance
from annotary.models.confidence.confidence import Confidence, ConfidenceSettings
from annotary.models.kinds import KINDS, find_class
from annotary.models.profile import TrainingProfile
from annotary.quality.prepare import InputSpec
from annotary.quality.qc import QualityThresholds

FORMAT = 2
MANIFEST = "bundle.json"
CODE_LIST = "code.json"
"""Hashes of the code that lies beside a registered bundle; a bundle alone has none."""

_WEIGHTS = "weights"
_CONFIDENCE_FILE = "confidence.safetensors"
_PROFILE_FILE = "profile.safetensors"
_SEEN_FILE = "seen_cells.safetensors"
_SEEN_CELLS = "seen_cells"
_OWN_HASH = "manifest_sha256"


def save_bundle(bundle: Bundle, folder: Path) -> None:
    """Write a bundle into a new folder."""
    weights = folder / _WEIGHTS
    weights.mkdir(parents=True)
    bundle.model.save(weights)
    save_file(bundle.confidence.to_arrays(), folder / _CONFIDENCE_FILE)
    save_file({_SEEN_CELLS: np.ascontiguousarray(bundle.seen_cells)}, folder / _SEEN_FILE)
    if bundle.profile:
        save_file(bundle.profile.to_arrays(), folder / _PROFILE_FILE)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    manifest = {
        "format": FORMAT,
        "kind": bundle.model.kind,
        "label_names": list(bundle.label_names),
        "label_counts": list(bundle.label_counts),
        "input_spec": asdict(bundle.spec),
        "panel_hash": bundle.spec.panel_hash,
        "confidence": asdict(bundle.confidence.settings),
        "provenance": asdict(bundle.provenance),
        **_describe_options(bundle),
        "sha256": {path.relative_to(folder).as_posix(): hash_file(path) for path in files},
    }
    (folder / MANIFEST).write_text(json.dumps(seal_manifest(manifest), indent=1))
    # safetensors lets nobody but the owner read its files; a shared artifact store has other readers.
    for path in files:
        path.chmod((folder / MANIFEST).stat().st_mode)


def _describe_options(bundle: Bundle) -> dict[str, Any]:
    """Describe what a bundle need not have."""
    said: dict[str, Any] = {}
    if bundle.profile:
        said["thresholds"] = asdict(bundle.profile.thresholds)
    if bundle.terms is not None:
        said["terms"] = dict(bundle.terms)
    return said


def load_bundle(folder: Path) -> Bundle:
    """Read a bundle and check its files.

    Raises
    ------
    BundleError
        If it has another format or kind, or a file is missing or altered.
    """
    manifest = _read_manifest(folder)
    try:
        return _READERS[manifest["format"]](folder, manifest)
    except ImportError:
        raise
    except READERS_RAISE as error:
        raise _describe_alteration(
            folder, expected="files that go with its manifest", found=f"others ({summarize(error)})"
        ) from error


def seal_manifest(manifest: dict[str, Any]) -> dict[str, Any]:
    """Add the hash of all that a manifest says."""
    said = {name: value for name, value in manifest.items() if name != _OWN_HASH}
    return said | {_OWN_HASH: hash_strings([json.dumps(said, sort_keys=True)])}


def hash_contents(folder: Path) -> str:
    """Hash all that a bundle says of cells: not when, where and by which run it was made."""
    said = json.loads((folder / MANIFEST).read_text())
    contents = {name: value for name, value in said.items() if name not in (_OWN_HASH, "provenance")}
    contents["sha256"] = {name: value for name, value in said["sha256"].items() if name != CODE_LIST}
    return hash_strings([json.dumps(contents, sort_keys=True)])


def _read_manifest(folder: Path) -> dict[str, Any]:
    """Read the manifest, and check its format, its kind, and that nobody changed it."""
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text())
    except READERS_RAISE as error:
        raise BundleError(
            folder,
            expected=f"to be a model bundle with {MANIFEST}",
            found="none" if not path.is_file() else f"one that cannot be read ({type(error).__name__})",
            remedy="Use a model that annotary registered.",
        ) from error
    found = (manifest.get("format"), manifest.get("kind")) if isinstance(manifest, dict) else (None, None)
    if found[0] not in _READERS or found[1] not in KINDS:
        older = isinstance(found[0], int) and found[0] < min(_READERS)
        raise BundleError(
            folder,
            expected=f"a bundle of format {' or '.join(map(str, _READERS))} and one of the kinds "
            f"{', '.join(KINDS)}",
            found=f"format {found[0]!r}, kind {found[1]!r}",
            remedy="It is from before the first release: delete the version or its aliases, and train again."
            if older
            else "Install the annotary version that made the model, or a newer one.",
        )
    if seal_manifest(manifest) != manifest:
        raise _describe_alteration(
            path, expected="what it said when the model was saved", found="other words"
        )
    return manifest


def _read_format_2(folder: Path, manifest: dict[str, Any]) -> Bundle:
    """Read the files that a manifest of format 2 names."""
    for name, expected in manifest["sha256"].items():
        path = folder / name
        found = hash_file(path) if path.is_file() else "no file"
        if found != expected:
            raise _describe_alteration(path, expected=f"SHA-256 {expected[:12]}", found=found[:12])
    return Bundle(
        model=find_class(manifest["kind"]).load(folder / _WEIGHTS),
        spec=InputSpec.from_json(json.dumps(manifest["input_spec"])),
        label_names=tuple(manifest["label_names"]),
        label_counts=tuple(manifest["label_counts"]),
        confidence=Confidence.from_arrays(
            load_file(folder / _CONFIDENCE_FILE), ConfidenceSettings(**manifest["confidence"])
        ),
        provenance=Provenance(**manifest["provenance"]),
        seen_cells=load_file(folder / _SEEN_FILE)[_SEEN_CELLS],
        profile=_read_profile(folder, manifest),
        terms=manifest.get("terms"),
    )


def _read_profile(folder: Path, manifest: dict[str, Any]) -> TrainingProfile | None:
    """Read what a model tells of its cells; None where it does not."""
    if _PROFILE_FILE not in manifest["sha256"]:
        return None
    thresholds = QualityThresholds(**manifest["thresholds"])
    return TrainingProfile.from_arrays(load_file(folder / _PROFILE_FILE), thresholds)


_READERS: dict[int, Callable[[Path, dict[str, Any]], Bundle]] = {2: _read_format_2}


def _describe_alteration(path: Path, *, expected: str, found: str) -> BundleError:
    """Describe a file that is missing or was changed."""
    return BundleError(
        path,
        expected=expected,
        found=found,
        remedy="The model's files were altered: roll back to another version.",
    )
