import errno
import os
import stat

import pytest

from annotary.data.atomic import make_folder, replacing
from annotary.errors import OutputError

is_root = os.geteuid() == 0


def test_target_appears_when_the_block_ends_well(tmp_path):
    target = tmp_path / "new" / "folder" / "out.txt"
    with replacing(target) as temporary:
        temporary.write_text("whole")
        assert not target.exists()
        assert temporary.parent == target.parent
    assert target.read_text() == "whole"
    assert list(target.parent.iterdir()) == [target]


def write_half(target, error):
    with replacing(target) as temporary:
        temporary.write_text("half")
        raise error


@pytest.mark.parametrize("error", [ValueError("bad"), KeyboardInterrupt()])
def test_failed_block_keeps_the_old_target_and_leaves_nothing(tmp_path, error):
    target = tmp_path / "out.txt"
    target.write_text("old")
    with pytest.raises(type(error)):
        write_half(target, error)
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_full_disk_is_an_output_error(tmp_path):
    target = tmp_path / "out.txt"
    target.write_text("old")
    with (
        pytest.raises(
            OutputError, match=r"out\.txt needs to be written whole; found No space left"
        ) as raised,
        replacing(target),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert isinstance(raised.value.__cause__, OSError)
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_failed_rename_leaves_nothing(tmp_path):
    target = tmp_path / "out.txt"
    target.mkdir()
    with pytest.raises(OutputError, match="directory"), replacing(target) as temporary:
        temporary.write_text("x")
    assert list(tmp_path.iterdir()) == [target]


def test_file_in_the_place_of_a_folder_is_an_output_error(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OutputError, match="needs to be a folder that can be written"):
            make_folder(folder)
        with pytest.raises(OutputError), replacing(folder / "out.txt"):
            pytest.fail("the block must not run")


@pytest.mark.skipif(is_root, reason="root may write everywhere")
def test_folder_without_permission_is_an_output_error(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OutputError, match="Permission denied"), replacing(tmp_path / "out.txt"):
            pytest.fail("the block must not run")
    finally:
        tmp_path.chmod(0o700)


def test_permission_refused_by_the_system_is_an_output_error(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr("annotary.data.atomic.tempfile.mkstemp", refuse)
    with pytest.raises(OutputError, match="Permission denied"), replacing(tmp_path / "out.txt"):
        pytest.fail("the block must not run")


def test_new_file_has_the_permissions_of_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        with replacing(tmp_path / "out.txt") as temporary:
            temporary.write_text("x")
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "out.txt").stat().st_mode) == 0o640
