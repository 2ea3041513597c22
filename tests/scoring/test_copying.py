"""Copying and hashing beside the annotation, and hashing before it."""

import hashlib
import os
import threading
from pathlib import Path

import pytest

from annotary.scoring import copying
from annotary.scoring.copying import BackgroundCopy, hashing_ahead
from annotary.scoring.retry import PassingError

CONTENT = os.urandom(9_000_001)  # more than two blocks


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def source(tmp_path) -> Path:
    path = tmp_path / "in.h5ad"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def target(tmp_path) -> Path:
    path = tmp_path / "out.h5ad"
    path.touch()
    return path


@pytest.fixture
def n_hashed(monkeypatch) -> list[int]:
    """Sizes of the blocks that are hashed."""
    sizes, real = [], hashlib.sha256

    class Counting:
        def __init__(self):
            self._digest = real()

        def update(self, block):
            sizes.append(len(block))
            self._digest.update(block)

        def hexdigest(self):
            return self._digest.hexdigest()

    monkeypatch.setattr(copying.hashlib, "sha256", Counting)
    return sizes


def test_a_copy_has_the_bytes_and_their_hash(source, target):
    expected = sha256(CONTENT)
    assert BackgroundCopy(source, target).finish() == expected
    assert target.read_bytes() == CONTENT
    assert BackgroundCopy(source, None).finish() == expected


def test_what_was_hashed_ahead_is_not_hashed_again(source, target, n_hashed):
    with hashing_ahead(source) as ahead:
        expected = ahead.finish()
        assert sum(n_hashed) == len(CONTENT)
        for place in (target, None):
            assert BackgroundCopy(source, place, ahead=ahead).finish() == expected
    assert sum(n_hashed) == len(CONTENT)
    assert target.read_bytes() == CONTENT


def test_another_file_or_a_changed_one_is_hashed_itself(source, target, tmp_path):
    other = tmp_path / "other.h5ad"
    other.write_bytes(b"other")
    with hashing_ahead(source) as ahead:
        ahead.finish()
        assert BackgroundCopy(other, target, ahead=ahead).finish() == sha256(b"other")
        os.replace(other, source)
        assert BackgroundCopy(source, target, ahead=ahead).finish() == sha256(b"other")


def test_a_hash_that_did_not_reach_the_end_is_not_taken(source, target, monkeypatch):
    reached, may_go_on = threading.Event(), threading.Event()

    def read_slowly(handle, view, path):
        reached.set()
        assert may_go_on.wait(60)
        return os.readv(handle, [view])

    with monkeypatch.context() as slowly:
        slowly.setattr(copying, "_read", read_slowly)
        ahead = BackgroundCopy(source, None)
        assert reached.wait(60)
        threading.Timer(0.2, may_go_on.set).start()
        ahead.stop()
    assert BackgroundCopy(source, target, ahead=ahead).finish() == sha256(CONTENT)
    assert target.read_bytes() == CONTENT


def test_a_file_that_changes_after_it_was_hashed_ahead_is_refused(source, target):
    with hashing_ahead(source) as ahead:
        ahead.finish()
        copy = BackgroundCopy(source, target, ahead=ahead)
        source.write_bytes(b"changed")
        with pytest.raises(PassingError, match="stay as it is"):
            copy.finish()


@pytest.mark.parametrize("name", ["", "missing.h5ad"])
def test_nothing_is_hashed_ahead_of_a_folder_or_a_missing_file(tmp_path, name):
    with hashing_ahead(tmp_path / name) as ahead:
        assert ahead is None
