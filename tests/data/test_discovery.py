"""Which files an input means."""

import pytest

from annotary.data.discovery import find_sources
from annotary.errors import InputFileError


@pytest.fixture
def folder(tmp_path):
    for name in ("b.h5ad", "a.h5ad.gz", "c.h5", "a.annotated.h5ad", ".annotary-x.h5ad", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "lane1").mkdir()
    (tmp_path / "lane1" / "matrix.mtx.gz").write_bytes(b"")
    (tmp_path / "z.zarr").mkdir()
    (tmp_path / "empty").mkdir()
    return tmp_path


def names(text: object) -> list[str]:
    return [source.name for source in find_sources(str(text))]


def test_a_folder_means_its_readable_files_by_name(folder):
    assert names(folder) == ["a", "b", "c", "lane1", "z"]


def test_a_list_keeps_its_order_and_may_hold_folders(folder):
    assert names(f"{folder / 'b.h5ad'}, {folder / 'lane1'},{folder / 'c.h5'}") == ["b", "lane1", "c"]


def test_a_path_with_a_comma_that_exists_is_one_file(folder):
    (folder / "a,b.h5ad").write_bytes(b"")
    assert names(folder / "a,b.h5ad") == ["a,b"]


def test_files_of_the_same_name_get_their_folder_s(folder):
    (folder / "empty" / "b.h5ad").write_bytes(b"")
    assert names(f"{folder / 'b.h5ad'},{folder / 'empty' / 'b.h5ad'}") == [f"{folder.name}/b", "empty/b"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{0}/none.h5ad", r"none\.h5ad needs to be a file that can be read; found no such file"),
        ("{0}/empty", "needs files ending in"),
        ("{0}/b.h5ad,{0}/b.h5ad", "needs to be named once; found it twice"),
    ],
)
def test_what_cannot_be_read_is_named(folder, text, message):
    with pytest.raises(InputFileError, match=message):
        find_sources(text.format(folder))
