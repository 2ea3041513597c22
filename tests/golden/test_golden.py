"""Bundles that an earlier version made load, and say what they said then."""

import json
from pathlib import Path

import numpy as np
import pytest
from golden.make_golden import GOLDEN, MAKERS, TOLERANCES, annotate_query, to_arrays
from safetensors.numpy import load_file

from annotary.models.bundle_files import FORMAT

BUNDLES = sorted(path.parent for path in GOLDEN.glob("format_*/*/bundle.json"))


def name(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


@pytest.mark.parametrize("bundle", BUNDLES, ids=name)
def test_a_golden_bundle_says_what_it_said_when_it_was_made(bundle):
    expected = load_file(bundle.parent / f"{bundle.name}.expected.safetensors")
    found = to_arrays(annotate_query(bundle.parent, bundle.name))
    assert set(expected) <= set(found)
    for key, values in expected.items():
        tolerance = TOLERANCES[bundle.name]
        np.testing.assert_allclose(found[key], values, rtol=0, atol=tolerance, err_msg=key)


def test_every_kind_of_this_format_has_a_golden_bundle():
    assert {path.name for path in BUNDLES if path.parent.name == f"format_{FORMAT}"} == set(MAKERS)


@pytest.mark.parametrize("bundle", BUNDLES, ids=name)
def test_a_golden_bundle_s_cells_try_every_output(bundle):
    expected = load_file(bundle.parent / f"{bundle.name}.expected.safetensors")
    for key in ("unassigned", "prediction_sets", "low_information"):
        assert set(np.unique(expected[key])) == {False, True}, key
    assert (expected["ood_score"] > 1).any()
    assert (expected["ood_score"] < 1).any()


def test_golden_bundles_are_small():
    files = [path for path in GOLDEN.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert sum(path.stat().st_size for path in files) < 400_000
    for path in GOLDEN.rglob("*.json"):
        json.loads(path.read_text())
