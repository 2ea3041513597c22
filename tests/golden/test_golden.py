"""Bundles that an earlier version made load, and say what they said then."""

import json
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from golden.make_golden import GOLDEN, MAKERS, TOLERANCES, annotate_query, to_arrays
from safetensors.numpy import load_file
from scipy.sparse import csr_matrix

from annotary import keys
from annotary.models.bundle_files import FORMAT, load_bundle
from annotary.scoring.annotate import annotate_file
from annotary.scoring.drift import Reference, measure_drift
from annotary.scoring.tally import Tally

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


@pytest.mark.parametrize("bundle", BUNDLES, ids=name)
def test_a_golden_bundle_annotates_a_file_and_is_compared_with_what_it_tells(bundle, tmp_path):
    counts = load_file(bundle.parent / "query.safetensors")["counts"].astype(np.float32)
    genes = pd.DataFrame(index=json.loads((bundle.parent / "genes.json").read_text()))
    anndata.AnnData(csr_matrix(counts), var=genes).write_h5ad(tmp_path / "query.h5ad")
    loaded = load_bundle(bundle)
    cells = annotate_file(loaded, tmp_path / "query.h5ad", device="cpu")
    drift = measure_drift(Tally.count(cells), cells.survey, Reference.of(loaded), overlap=1.0)
    assert len(cells.cell_ids) == len(counts)
    assert (keys.QUALITY in cells.more_columns) == (loaded.profile is not None)
    assert (drift.genes is not None) == (loaded.profile is not None)
    assert drift.level != "unknown", "its labels are compared"


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
