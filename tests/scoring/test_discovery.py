"""What an input means: files, folders, globs, lists."""

import os
import time
from pathlib import Path

import pytest

from annotary.errors import InputFileError
from annotary.scoring.discovery import ScoreInput, Search, find_inputs, wait_for
from annotary.scoring.identity import Identity, identify


@pytest.fixture
def incoming(tmp_path) -> Path:
    folder = tmp_path / "incoming"
    for name in (
        "b.h5ad",
        "a.h5ad.gz",
        "filtered.h5",
        "a.annotated.h5ad",
        "a.converted.h5ad",
        ".annotary-x.h5ad",
        "d.h5ad.part",
        "pickle.npy",
        "notes.txt",
        "below/b.h5ad",
        "below/deep/c.h5ad",
        "below/.hidden/c.h5ad",
        "below/store.zarr/zarr.json",
        "tenx/matrix.mtx",
    ):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def list_names(text: object, search: Search = Search()) -> list[str]:  # noqa: B008
    return [one.name for one in find_inputs(str(text), search).inputs]


def test_a_folder_means_its_files_of_known_formats_but_no_outputs(incoming):
    assert list_names(incoming) == ["a", "b", "filtered", "tenx"]


def test_folders_below_are_searched_on_request_and_tell_files_of_one_name_apart(incoming):
    found = list_names(incoming, Search(recursive=True))
    assert found == ["a", "b", "below/b", "below/deep/c", "below/store", "filtered", "tenx"]


def test_what_a_run_wrote_below_is_passed_over(incoming):
    skipped = frozenset({incoming / "below" / "deep"})
    assert "below/deep/c" not in list_names(incoming, Search(recursive=True, skipped=skipped))


def test_a_link_that_leads_back_does_not_turn_in_circles(incoming):
    (incoming / "below" / "up").symlink_to(incoming)
    assert list_names(incoming, Search(recursive=True)).count("below/b") == 1


def test_a_glob_means_what_it_matches_at_any_depth(incoming):
    assert list_names(incoming / "*.h5ad*") == ["a", "b"]
    assert list_names(incoming / "**" / "*.h5ad") == ["b", "b", "c"]


def test_a_list_names_files_folders_and_globs_from_where_it_lies(incoming):
    listed = incoming / "tonight.txt"
    listed.write_text(f"# tonight\n\nbelow/b.h5ad\nbelow/d*/*.h5ad\n{incoming / 'b.h5ad'}\nb.h5ad\n")
    found = find_inputs(str(listed)).inputs
    assert [one.address for one in found] == [
        str(incoming / name) for name in ("below/b.h5ad", "below/deep/c.h5ad", "b.h5ad")
    ]


def test_several_inputs_are_separated_by_commas(incoming):
    assert list_names(f"{incoming / 'b.h5ad'},{incoming / 'tenx'}") == ["b", "tenx"]


def test_a_comma_in_a_name_is_part_of_it(tmp_path):
    path = tmp_path / "a,b.h5ad"
    path.touch()
    assert list_names(path) == ["a,b"]


def test_what_holds_nothing_is_told_and_is_no_error(tmp_path):
    (tmp_path / "notes.md").touch()
    found = find_inputs(f"{tmp_path},{tmp_path}/*.h5ad")
    assert found.inputs == []
    assert found.empty == [str(tmp_path), f"{tmp_path}/*.h5ad"]


def test_a_list_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(InputFileError, match="no such file"):
        find_inputs(str(tmp_path / "list.txt"))


def test_names_lose_the_endings_that_scoring_and_formats_have(tmp_path):
    names = ("p.7.v2.h5ad", "p8.annotated.h5ad", "p9.converted.h5ad", "p10.h5ad.gz", "p11.zarr")
    assert [find_inputs(str(tmp_path / name)).inputs[0].name for name in names] == [
        "p.7.v2",
        "p8",
        "p9",
        "p10",
        "p11",
    ]


@pytest.mark.parametrize(("age", "waits"), [(2.0, True), (60.0, False), (-3600.0, False)])
def test_a_file_that_changed_a_moment_ago_waits_and_one_from_the_future_does_not(tmp_path, age, waits):
    path = tmp_path / "a.h5ad"
    path.touch()
    os.utime(path, (time.time() - age,) * 2)
    found = ScoreInput(str(path), "a", is_named=False)
    assert (wait_for(found, found.identify(), 10.0) > 0) == waits
    assert wait_for(ScoreInput(str(path), "a"), found.identify(), 10.0) == 0, "a person named it"


def test_identity_changes_with_a_file_and_with_a_file_in_a_folder(tmp_path):
    store = tmp_path / "a.zarr"
    store.mkdir()
    inner = store / "x"
    inner.write_bytes(b"1234")
    before = identify(store), identify(inner)
    os.utime(inner, (1, 1))
    after = identify(store), identify(inner)
    assert before[0] != after[0]
    assert before[1] != after[1]
    assert after[0].size == 4


def test_identity_tells_a_file_of_the_same_size_and_time_that_took_the_place(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"1234")
        os.utime(tmp_path / name, (1, 1))
    before = identify(tmp_path / "a")
    (tmp_path / "b").replace(tmp_path / "a")
    assert identify(tmp_path / "a") != before
    assert isinstance(before, Identity)
