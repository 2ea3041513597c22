"""A bundle explains itself, and refuses to load when its files were altered."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from models.bundles import make_bundle
from models.conformance import SAFE_SUFFIXES, make_cells, make_spec

from annotary.errors import BundleError
from annotary.models.bundle import Annotation, Bundle
from annotary.models.bundle_files import FORMAT, load_bundle, save_bundle, seal_manifest

FIELDS = ("probabilities", "low_information", "unassigned", "prediction_sets", "ood_score", "ood")


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return replace(make_bundle(("B/π", "NK", "T"), make_spec()), terms={"NK": "CL:0000623"})


@pytest.fixture
def folder(bundle, tmp_path):
    save_bundle(bundle, tmp_path / "bundle")
    return tmp_path / "bundle"


def annotate(bundle: Bundle, rows=slice(None)) -> Annotation:
    cells, _ = make_cells(30)
    return bundle.annotate(cells.counts[rows], bundle.spec.panel, depth=cells.depth[rows])


def rewrite(folder, change, *, sealed: bool) -> None:
    path = folder / "bundle.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(seal_manifest(manifest) if sealed else manifest))


def test_a_saved_bundle_is_the_same_when_loaded(bundle, folder):
    loaded = load_bundle(folder)
    for name in ("spec", "label_names", "label_counts", "provenance", "terms"):
        assert getattr(loaded, name) == getattr(bundle, name), name
    assert loaded.seen_cells.tolist() == [3, -5, 2**62]
    assert loaded.confidence.settings == bundle.confidence.settings
    assert loaded.profile.thresholds == bundle.profile.thresholds
    for name in ("confidence_bins", "detection"):
        np.testing.assert_array_equal(getattr(loaded.profile, name), getattr(bundle.profile, name))
    one, other = annotate(bundle), annotate(loaded)
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_a_bundle_s_files_are_safe_and_say_what_it_is(folder):
    assert {path.suffix for path in folder.rglob("*") if path.is_file()} <= SAFE_SUFFIXES
    manifest = json.loads((folder / "bundle.json").read_text())
    assert manifest["format"] == FORMAT
    assert manifest["confidence"] == {"conformal_alpha": 0.1, "min_precision": 0.9, "ood_rate": 0.01}
    assert manifest["label_counts"] == [5, 6, 7]
    assert manifest["input_spec"]["transform"] == "log1p"
    assert manifest["provenance"]["libraries"] == {"numpy": "2"}
    assert manifest["provenance"]["label_source"] == "cell_type of cells.h5ad"


def test_a_bundle_need_not_tell_of_its_cells_or_have_terms(bundle, tmp_path):
    save_bundle(replace(bundle, profile=None, terms=None), tmp_path / "bundle")
    manifest = json.loads((tmp_path / "bundle" / "bundle.json").read_text())
    assert not {"thresholds", "terms"} & set(manifest)
    loaded = load_bundle(tmp_path / "bundle")
    assert loaded.profile is None
    assert loaded.terms is None
    np.testing.assert_array_equal(annotate(loaded).probabilities, annotate(bundle).probabilities)


def test_whoever_may_read_the_manifest_may_read_every_file(folder):
    mode = (folder / "bundle.json").stat().st_mode
    assert {path.stat().st_mode for path in folder.rglob("*") if path.is_file()} == {mode}


def test_every_output_has_its_shape_and_type(bundle):
    found = annotate(bundle)
    shapes = {name: (30, 3) if name in ("probabilities", "prediction_sets") else (30,) for name in FIELDS}
    types = {name: np.float32 if name in ("probabilities", "ood_score") else np.bool_ for name in FIELDS}
    for name in FIELDS:
        values = getattr(found, name)
        assert (values.shape, values.dtype.type) == (shapes[name], types[name]), name


def test_no_output_of_a_cell_depends_on_the_others(bundle):
    together = annotate(bundle)
    order = np.random.default_rng(0).permutation(30)
    alone = Annotation.join([annotate(bundle, rows=[row]) for row in order])
    for name in FIELDS:
        np.testing.assert_allclose(
            getattr(alone, name), getattr(together, name)[order], rtol=1e-5, err_msg=name
        )


def test_no_cells_give_empty_outputs(bundle):
    found = annotate(bundle, rows=slice(0, 0))
    assert found.prediction_sets.shape == (0, 3)
    assert found.ood_score.shape == found.unassigned.shape == (0,)


def test_a_bundle_s_temperature_keeps_the_labels(bundle):
    warm = replace(bundle, confidence=replace(bundle.confidence, temperature=2.5))
    before, after = annotate(bundle), annotate(warm)
    np.testing.assert_array_equal(before.codes, after.codes)
    assert (after.confidence <= before.confidence).all()
    assert after.confidence.mean() < before.confidence.mean() - 0.01
    np.testing.assert_allclose(after.probabilities.sum(axis=1), 1, atol=1e-6)


@pytest.mark.parametrize(
    "name",
    [
        "weights/weights.safetensors",
        "confidence.safetensors",
        "seen_cells.safetensors",
        "profile.safetensors",
    ],
)
def test_altered_files_are_refused(folder, name):
    content = bytearray((folder / name).read_bytes())
    content[-1] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(BundleError, match=rf"{name} needs SHA-256 .*were altered"):
        load_bundle(folder)


def test_missing_weights_are_refused(folder):
    next((folder / "weights").iterdir()).unlink()
    with pytest.raises(BundleError, match="found no file"):
        load_bundle(folder)


@pytest.mark.parametrize(
    "part", ["input_spec", "confidence", "provenance", "label_names", "thresholds", "terms"]
)
def test_an_altered_manifest_is_refused(folder, part):
    def change(manifest):
        if part == "label_names":
            manifest[part].reverse()
        else:
            manifest[part][next(iter(manifest[part]))] = "other"

    rewrite(folder, change, sealed=False)
    with pytest.raises(BundleError, match=r"bundle\.json needs what it said .*were altered"):
        load_bundle(folder)


@pytest.mark.parametrize(
    ("key", "value", "remedy"),
    [
        ("format", FORMAT + 1, "Install the annotary version that made the model, or a newer one"),
        ("format", 1, "before the first release: delete the version or its aliases, and train again"),
        ("format", None, "Install the annotary version"),
        ("kind", "oracle", "Install the annotary version"),
    ],
)
def test_unknown_formats_and_kinds_are_refused_with_the_remedy(folder, key, value, remedy):
    rewrite(folder, lambda manifest: manifest.update({key: value}), sealed=True)
    with pytest.raises(BundleError, match=f"found .*{value}.*{remedy}"):
        load_bundle(folder)


@pytest.mark.parametrize("text", ["{", "[]", ""])
def test_a_manifest_that_is_none_is_refused(folder, text):
    (folder / "bundle.json").write_text(text)
    with pytest.raises(BundleError, match=r"needs .*bundle"):
        load_bundle(folder)


def test_a_folder_without_a_manifest_is_no_bundle(tmp_path):
    with pytest.raises(BundleError, match="to be a model bundle"):
        load_bundle(tmp_path)


def test_annotations_are_joined_in_order(bundle):
    whole = annotate(bundle)
    joined = Annotation.join([annotate(bundle, rows=slice(0, 11)), annotate(bundle, rows=slice(11, 30))])
    for name in FIELDS:
        np.testing.assert_allclose(getattr(joined, name), getattr(whole, name), rtol=1e-6)


def test_genes_of_the_input_may_come_in_any_order(bundle):
    cells, _ = make_cells(12)
    order = np.random.default_rng(0).permutation(len(bundle.spec.panel))
    shuffled = bundle.annotate(cells.counts[:, order], pd.Index(bundle.spec.panel[order]), depth=cells.depth)
    straight = bundle.annotate(cells.counts, bundle.spec.panel, depth=cells.depth)
    for name in FIELDS:
        np.testing.assert_allclose(getattr(shuffled, name), getattr(straight, name), rtol=1e-5)
