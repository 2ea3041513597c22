"""A version is used only if its files are those that were registered, whoever wrote what anew."""

import json
import shutil
from pathlib import Path

import mlflow
import pytest
from registered import register_linear

from annotary import registry
from annotary.errors import BundleError
from annotary.ledger import PROMOTED, Decision
from annotary.models.bundle_files import seal_manifest
from annotary.promotions import append, catch_up, describe_hashes, settle
from annotary.recorded_version import check_recorded
from annotary.version_check import check_version, fetch_checked, load_version
from annotary.version_files import BUNDLE, MODEL_HASH_TAG, PACKAGE_TAG, describe_files

NAME = "annotator"


@pytest.fixture(scope="module")
def promoted(module_store) -> registry.RegisteredVersion:
    """A version that the ledger says is champion."""
    version = register_linear(NAME, seed=0)
    ledger = catch_up(NAME)
    hashes = describe_hashes(version)
    assert append(ledger, Decision(PROMOTED, "", version.number, "a test", version.number, hashes=hashes))
    settle(NAME)
    return version


@pytest.fixture
def folder(promoted, tmp_path) -> Path:
    """The version's files, put back afterwards."""
    found = registry.fetch_model(promoted.uri)
    shutil.copytree(found, tmp_path / "kept", symlinks=True)
    yield found
    shutil.rmtree(found)
    shutil.copytree(tmp_path / "kept", found, symlinks=True)


@pytest.fixture
def tags(promoted):
    """Set tags of the version, which are put back afterwards."""
    client = mlflow.MlflowClient()

    def set_tag(name: str, value: str) -> None:
        client.set_model_version_tag(NAME, promoted.number, name, value)

    yield set_tag
    for name in (MODEL_HASH_TAG, PACKAGE_TAG):
        set_tag(name, promoted.tags[name])


def find_altered(number: str = "1") -> str:
    """What the check says of a version that is not as it was registered."""
    version = registry.get_version(NAME, number)
    says = [one.says for one in check_version(version) if one.holds is False]
    with pytest.raises(BundleError, match="to be as they were registered"):
        fetch_checked(version)
    with pytest.raises(BundleError):
        load_version(version)
    return "; ".join(says)


def add_line(path: Path) -> None:
    path.write_text(path.read_text() + "\n")


def test_an_untouched_version_is_as_it_was_registered_after_it_was_loaded_and_fetched(promoted):
    mlflow.pyfunc.load_model(promoted.uri)
    assert load_version(promoted).label_names
    assert [one.holds for one in check_version(promoted)] == [True]


@pytest.mark.parametrize(
    "name",
    [
        "code/annotary/__init__.py",
        "code/annotary/models/bundle.py",
        "MLmodel",
        "conda.yaml",
        "requirements.txt",
        "python_env.yaml",
        "pyfunc.py",
        "artifacts/bundle/bundle.json",
        "artifacts/bundle/code.json",
    ],
)
def test_each_changed_file_is_named_and_refused(folder, name):
    add_line(folder / name)
    assert name in find_altered()


@pytest.mark.parametrize(
    "name",
    [
        "code/annotary/more.py",
        "code/annotary/more.pyc",
        "code/sitecustomize.py",
        "more.py",
        "artifacts/bundle/weights/more",
        "artifacts/more",
    ],
)
def test_a_file_more_than_was_registered_is_an_alteration(folder, name):
    (folder / name).write_text("")
    assert name in find_altered()


def test_a_file_that_is_gone_and_one_that_became_a_link_are_alterations(folder, tmp_path):
    shutil.copy(folder / "MLmodel", tmp_path / "MLmodel")
    (folder / "MLmodel").unlink()
    (folder / "MLmodel").symlink_to(tmp_path / "MLmodel")
    (folder / "code/annotary/log.py").unlink()
    said = find_altered()
    assert "MLmodel" in said
    assert "code/annotary/log.py" in said


def forge_labels(folder: Path) -> None:
    """Give labels each other's names, and the manifest its own hash anew."""
    manifest = folder / BUNDLE / "bundle.json"
    said = json.loads(manifest.read_text())
    said["label_names"] = said["label_names"][::-1]
    manifest.write_text(json.dumps(seal_manifest(said), indent=1))


def test_labels_that_were_altered_with_their_own_hashes_are_found_by_the_registry(folder):
    forge_labels(folder)
    assert "bundle.json" in find_altered()


def test_labels_altered_with_the_version_s_tags_are_found_by_the_logged_model_and_by_the_ledger(
    folder, tags, promoted, monkeypatch
):
    forge_labels(folder)
    for name, value in describe_files(folder).items():
        tags(name, value)
    assert "the logged model" in find_altered()
    monkeypatch.setattr("annotary.version_check.get_logged_tags", lambda model_id: {})
    assert "entry 1 of the promotion ledger" in find_altered()


def test_an_environment_altered_with_the_version_s_tag_is_found_by_the_ledger(folder, tags):
    add_line(folder / "conda.yaml")
    tags(PACKAGE_TAG, describe_files(folder)[PACKAGE_TAG])
    assert "entry 1 of the promotion ledger" in find_altered()


def test_altered_files_are_not_registered_anew(folder, promoted):
    forge_labels(folder)
    candidate = registry.get_candidate(promoted.model_id)
    with pytest.raises(BundleError, match=r"to be as it was registered, annotary\.model_hash"):
        registry.register(candidate, NAME, tags={})
    with pytest.raises(BundleError, match=r"to be as it was registered, annotary\.model_hash"):
        registry.register(candidate, "another-name", tags={})


def test_a_version_from_before_hashes_were_recorded_is_not_checked_and_can_be_used(
    promoted, monkeypatch, caplog
):
    old = register_linear("old", seed=1)
    monkeypatch.setattr("annotary.version_check.get_logged_tags", lambda model_id: {})
    for name in (MODEL_HASH_TAG, PACKAGE_TAG):
        mlflow.MlflowClient().delete_model_version_tag("old", "1", name)
    old = registry.get_version("old", old.number)
    assert [one.holds for one in check_version(old)] == [None]
    assert load_version(old).label_names
    assert "not checked: registered before" in caplog.text


def test_a_file_s_record_is_held_against_a_renamed_model_and_against_the_ledger_of_then(promoted):
    ledger = catch_up(NAME)
    record = {"model_name": NAME, "model_version": "1", "run_id": promoted.run_id, "ledger_head": ledger.mark}
    mlflow.MlflowClient().set_model_version_tag(NAME, "1", "annotary.dataset_hash", "d")
    mlflow.MlflowClient().set_model_version_tag(NAME, "1", "annotary.split_hash", "s")
    record |= {"dataset_hash": "d", "split_hash": "s"}
    assert [one.holds for one in check_recorded(record)] == [True] * 3
    later = record | {"ledger_head": f"2:{'0' * 64}"}
    assert [one.holds for one in check_recorded(later)] == [True, True, False]
    assert [one.holds for one in check_recorded(record | {"ledger_head": ""})] == [True, True, None]
    mlflow.MlflowClient().rename_registered_model(NAME, "renamed")
    found = list(check_recorded(record))
    assert [one.holds for one in found] == [True] * 3
    assert "called 'renamed' now" in found[0].says
