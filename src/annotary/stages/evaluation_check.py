"""Whether a version's tags say what its evaluation found: no figure of the gate is taken from a tag alone."""

import numpy as np
from sklearn.metrics import f1_score

from annotary.errors import RegistryError
from annotary.evaluation.metrics import HEADLINE
from annotary.ledger import Ledger
from annotary.log import warn
from annotary.logged_models import get_run_tags, read_measured
from annotary.promotions import CALLS_HASH_TAG, EVALUATION_TAG
from annotary.registry import RegisteredVersion
from annotary.stages.held_out_calls import read_calls
from annotary.tracking import COUNTS_HASH_TAG, DATASET_HASH_TAG, KIND_TAG, PANEL_HASH_TAG, SPLIT_HASH_TAG

FIGURES = (HEADLINE, "ece", "cells_per_second", "bundle_mb")
"""Figures that the gate applies its rules to."""

_SAME_TAGS = (COUNTS_HASH_TAG, DATASET_HASH_TAG, SPLIT_HASH_TAG, PANEL_HASH_TAG, CALLS_HASH_TAG)
_ROUNDING = 1e-5


def check_evaluation(version: RegisteredVersion, ledger: Ledger) -> None:
    """Check a version's tags against the run that evaluated it, its calls of the test cells, and the ledger.

    What an older annotary did not record is told, and no reason to refuse.

    Raises
    ------
    RegistryError
        Naming the tag, what it says, and what the evaluation found.
    """
    run_id = version.tags.get(EVALUATION_TAG, "")
    if not run_id:
        return
    evaluated = get_run_tags(run_id)
    for tag in _SAME_TAGS:
        if tag in evaluated and version.tags.get(tag) != evaluated[tag]:
            raise _describe(version, tag, evaluated[tag], f"the evaluation's run {run_id}")
    for entry in ledger.list_recorded(version.number):
        said = entry.decision.hashes
        if said.get("evaluation") == run_id and said.get("calls", "") not in (
            "",
            version.tags.get(CALLS_HASH_TAG),
        ):
            witness = f"entry {entry.number} of the promotion ledger"
            raise _describe(version, CALLS_HASH_TAG, said["calls"], witness)
    _check_figures(version, run_id)


def _check_figures(version: RegisteredVersion, run_id: str) -> None:
    """Check a version's figures against those that were logged, macro-F1 by counting again too."""
    measured = read_measured(version.model_id, run_id)
    for name in FIGURES:
        found = measured.get(f"{version.tags.get(KIND_TAG, '')}.{name}")
        if found is None:
            warn(
                f"{version.uri}: its tag {name} is not checked: run {run_id} has no such figure of its model"
            )
        elif not _is_close(version.tags.get(name, ""), found):
            raise _describe(version, name, f"{found:.6f}", f"the evaluation's run {run_id}")
    calls = read_calls(version)
    counted = float(
        f1_score(calls.truth.astype(str), calls.calls.astype(str), average="macro", zero_division=0.0)
    )
    if not _is_close(version.tags.get(HEADLINE, ""), counted):
        raise _describe(version, HEADLINE, f"{counted:.6f}", f"its calls of {len(calls.truth)} test cells")


def _is_close(text: str, value: float) -> bool:
    """Tell whether a tag says a figure, as it is rounded there."""
    try:
        return bool(np.isclose(float(text), value, rtol=_ROUNDING, atol=_ROUNDING))
    except ValueError:
        return False


def _describe(version: RegisteredVersion, tag: str, expected: str, witness: str) -> RegistryError:
    """Describe a tag that says something else than what was found."""
    return RegistryError(
        f"{version.name} version {version.number}, tag {tag}",
        expected=f"what {witness} says, {expected}",
        found=repr(version.tags.get(tag, "")),
        remedy="The tag was altered outside annotary, or what it is held against was: run annotary evaluate "
        "on its dataset again.",
    )
