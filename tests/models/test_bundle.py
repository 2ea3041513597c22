"""A bundle explains itself, and refuses to load when its files were altered."""

import json

import numpy as np
import pytest
from models.conformance import N_CLASSES, N_PANEL, make_cells, make_spec

from annotary.errors import BundleError
from annotary.models.baselines import LogisticRegressionAnnotator
from annotary.models.bundle import Bundle, Provenance, load_bundle, save_bundle


@pytest.fixture
def bundle() -> Bundle:
    rng = np.random.default_rng(0)
    return Bundle(
        model=LogisticRegressionAnnotator(
            coef=rng.normal(size=(N_CLASSES, N_PANEL)), intercept=np.zeros(N_CLASSES), target_sum=1e4
        ),
        spec=make_spec(),
        label_names=("B/π", "NK", "T"),
        provenance=Provenance("d", "s", "r", "{}", "0"),
        seen_cells=np.array([3, -5, 2**62]),
    )


@pytest.fixture
def folder(bundle, tmp_path):
    save_bundle(bundle, tmp_path / "bundle")
    return tmp_path / "bundle"


def test_a_saved_bundle_is_the_same_when_loaded(bundle, folder):
    loaded = load_bundle(folder)
    assert loaded.spec == bundle.spec
    assert loaded.label_names == bundle.label_names
    assert loaded.provenance == bundle.provenance
    assert loaded.seen_cells.tolist() == [3, -5, 2**62]
    cells, _ = make_cells(12)
    one, other = (
        either.annotate(cells.counts, bundle.spec.panel, depth=cells.depth) for either in (bundle, loaded)
    )
    np.testing.assert_array_equal(one.probabilities, other.probabilities)


def test_altered_weights_are_refused(folder):
    path = next((folder / "weights").iterdir())
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(BundleError, match=r"needs SHA-256 .*were altered"):
        load_bundle(folder)


def test_missing_weights_are_refused(folder):
    next((folder / "weights").iterdir()).unlink()
    with pytest.raises(BundleError, match="found no file"):
        load_bundle(folder)


def test_altered_genes_are_refused(folder):
    manifest = json.loads((folder / "bundle.json").read_text())
    manifest["input_spec"]["gene_ids"][0] = "OTHER"
    (folder / "bundle.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="genes of panel hash"):
        load_bundle(folder)


@pytest.mark.parametrize(("key", "value"), [("format", 99), ("kind", "oracle")])
def test_unknown_formats_and_kinds_are_refused_with_the_remedy(folder, key, value):
    manifest = json.loads((folder / "bundle.json").read_text())
    manifest[key] = value
    (folder / "bundle.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=f"{value}.*Install the annotary version"):
        load_bundle(folder)


def test_a_folder_without_a_manifest_is_no_bundle(tmp_path):
    with pytest.raises(BundleError, match="to be a model bundle"):
        load_bundle(tmp_path)
