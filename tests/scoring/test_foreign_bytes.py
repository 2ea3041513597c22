"""Scoring never unpickles, and holds against a file only what is the file's own fault."""

import os
from pathlib import Path

import h5py
import numpy as np
import pytest
from scoring_lab import Lab

from annotary.data import hdf5
from annotary.data.damage import READERS_RAISE
from annotary.errors import SetupError
from annotary.scoring.discovery import find_inputs


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def lab(tmp_path) -> Lab:
    """A good file with a pickle beside it."""
    lab = Lab(tmp_path)
    lab.add("good.h5ad")
    evil = np.array([Evil(tmp_path / "mark")], dtype=object)
    np.save(lab.incoming / "evil.npy", evil, allow_pickle=True)
    return lab


@pytest.mark.parametrize("text", ["{0}", "{0}/*", "file://{0}", "file://{0}/*", "{0}/**/*", "{0}/list.txt"])
def test_a_pickle_that_nobody_named_is_left_out_and_said(text, lab, caplog):
    (lab.incoming / "list.txt").write_text("*\n")
    statuses = [one.status for one in lab.iter_scored(input=text.format(lab.incoming))]
    assert statuses == ["annotated"]
    assert "evil.npy" in caplog.text
    assert "pickle" in caplog.text
    assert not (lab.folder / "mark").exists()


@pytest.mark.parametrize(
    "text",
    [
        "{0}/evil.npy",
        "{0}/good.h5ad,{0}/evil.npy",
        "{0}/*.npy",
        "file://{0}/evil.npy",
        "file://{0}/*.npy",
        "{0}/list.txt",
    ],
)
def test_a_pickle_that_a_person_named_is_refused_by_itself(text, lab):
    (lab.incoming / "list.txt").write_text("evil.npy\ngood.h5ad\n")
    scored = {Path(one.source).name: one for one in lab.iter_scored(input=text.format(lab.incoming))}
    evil = scored.pop("evil.npy")
    assert evil.status == "failed"
    assert "--allow-pickle" in evil.reason
    assert all(one.status == "annotated" for one in scored.values())
    assert not (lab.folder / "mark").exists()


def test_a_pickle_in_capitals_is_one(lab):
    (lab.incoming / "evil.npy").rename(lab.incoming / "EVIL.NPY")
    assert [one.name for one in find_inputs(str(lab.incoming)).inputs] == ["good"]


def test_a_filter_that_is_not_installed_is_not_held_against_the_file(lab, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise SetupError("good.h5ad: X", expected="a filter", found="none", remedy="Install it.")

    with monkeypatch.context() as patch:
        patch.setattr(hdf5, "refuse_claims", refuse)
        [failed] = lab.iter_scored()
    assert failed.status == "failed"
    assert not failed.is_bad
    assert lab.score() == {"good.h5ad": "annotated"}


def test_an_encoding_that_nobody_knows_is_noted_and_not_read_again(lab, monkeypatch):
    bad = lab.add("bad.h5ad", seed=3)
    with h5py.File(bad, "r+") as file:
        file["obs/cell_type"].attrs["encoding-type"] = "from the future"
    assert lab.score() == {"bad.h5ad": "failed", "good.h5ad": "annotated"}
    read = []
    monkeypatch.setattr("annotary.scoring.one_file.annotate_file", lambda *_, **__: read.append(1))
    [again, _] = lab.iter_scored()
    assert "obs/cell_type" in again.reason
    assert "bug" not in again.reason
    assert not read


def test_memory_that_is_short_is_not_the_file_s_fault():
    assert not issubclass(MemoryError, READERS_RAISE)
    assert not issubclass(KeyboardInterrupt, READERS_RAISE)


def test_a_message_holds_only_what_a_file_can_hold():
    error = SetupError("caf\udcff.h5ad: obs", expected="a", found="b \udcff", remedy="Do c.")
    assert "\\udcff" in str(error)
    for text in (str(error), error.place, error.found):
        text.encode()
