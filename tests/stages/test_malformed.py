"""Each malformed or odd input gives the right dataset, or one clear line and nothing half written."""

import contextlib
import hashlib
import io
import logging
import os
import re
import signal
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import pytest
from malformed import CASES, Accepted, Case, Refused
from malformed.cases import clean

from annotary.cli import main
from annotary.data.atomic import TEMPORARY_PREFIX
from annotary.data.dataset import FILE_NAME, read_dataset

BASE = ("--reuse", "false", "--doublets", "none", "--min-genes", "20", "--n-top-genes", "60")
LINE = re.compile(
    r"annotary: error: (?P<place>.+?) needs (?P<expected>.+); found (?P<found>.+)\. (?P<remedy>[A-Z].*\.)"
)
IS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0


pytestmark = pytest.mark.usefixtures("no_embedding")


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    exit_code: int
    stderr: str

    @property
    def error_lines(self) -> list[str]:
        return [line for line in self.stderr.splitlines() if "error:" in line]


@contextlib.contextmanager
def own_process():
    """Undo what the command line sets for its whole process."""
    logger = logging.getLogger("annotary")
    before = logger.handlers[:], logger.level, logger.propagate
    handler = signal.getsignal(signal.SIGTERM)
    logger.handlers.clear()
    try:
        with warnings.catch_warnings():
            yield
    finally:
        signal.signal(signal.SIGTERM, handler)
        logger.handlers[:], logger.level, logger.propagate = before


def run_preprocess(source: object, output: Path, *options: str) -> Ended:
    """Run ``annotary preprocess`` in this process."""
    stderr = io.StringIO()
    arguments = ["annotary", "preprocess", f"--input={source}", f"--output={output}", *BASE, *options]
    with (
        own_process(),
        pytest.MonkeyPatch.context() as monkeypatch,
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(stderr),
    ):
        monkeypatch.setattr(sys, "argv", arguments)
        monkeypatch.delenv("ANNOTARY_DEBUG", raising=False)
        try:
            main()
            exit_code = 0
        except SystemExit as left:
            exit_code = left.code
    return Ended(exit_code=exit_code, stderr=stderr.getvalue())


def list_content(folder: Path) -> dict[str, str]:
    """List every name of a folder with a hash of its bytes."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_file() and os.access(path, os.R_OK)
        else str(path.lstat().st_mode)
        for path in folder.rglob("*")
    }


@pytest.fixture(scope="module")
def twins(module_store) -> dict[object, str]:
    """Hashes of the datasets of plainly written cells, by what they are and the options."""
    return {}


def hash_twin(case: Case, twins: dict[object, str], folder: Path) -> str:
    """Preprocess the plainly written twin of a case, once for all cases that share it."""
    key = (case.outcome.twin, case.twin_options)
    if key not in twins:
        plain = folder / "twin.h5ad"
        case.outcome.twin().write_h5ad(plain)
        ended = run_preprocess(plain, folder / "twin", *case.twin_options)
        assert ended.exit_code == 0, ended.stderr
        twins[key] = read_dataset(folder / "twin" / FILE_NAME).record.dataset_hash
    return twins[key]


def check_error(ended: Ended, outcome: Refused, source: Path) -> None:
    """Compare the error line with the parts it must have."""
    assert ended.exit_code == 1, ended.stderr
    assert "Traceback" not in ended.stderr
    assert len(ended.error_lines) == 1, ended.stderr
    parts = LINE.fullmatch(ended.error_lines[0])
    assert parts, ended.error_lines[0]
    assert (outcome.named or source.name) in parts["place"], ended.error_lines[0]
    for part in ("place", "expected", "found", "remedy"):
        assert re.search(getattr(outcome, part), parts[part]), f"{part}: {ended.error_lines[0]}"


def check_nothing_written(output: Path) -> None:
    """Look for what a run that failed must not leave."""
    left = [path.name for path in output.rglob("*")] if output.exists() else []
    assert FILE_NAME not in left
    assert [name for name in left if name.startswith(TEMPORARY_PREFIX)] == []


ALWAYS = {
    "symbolic link", "gzipped", "zarr", "npy", "label table with a byte order mark", "CSC", "dense",
    "anndata 0.6: tables of records, index 'index', sparse", "anndata 0.7: tables with __categories",
    "log1p in X, counts in a layer", "dtype >f8, dense", "some labels text 'nan'", "10x h5", "10x folder",
}  # fmt: skip
"""Inputs that are taken, and so cost a whole preprocess, of which every run checks these."""


def list_cases():
    for case in CASES.values():
        marks = []
        if case.name == "no permission to read" and IS_ROOT:
            marks.append(pytest.mark.skip(reason="root may read everything"))
        if isinstance(case.outcome, Accepted) and case.name not in ALWAYS:
            marks.append(pytest.mark.full)
        yield pytest.param(case, id=case.name, marks=marks)


@pytest.mark.timeout(30)
@pytest.mark.parametrize("case", list_cases())
def test_input(case, module_store, twins, tmp_path):
    source_folder, output = tmp_path / "in", tmp_path / "out"
    source_folder.mkdir()
    source = case.write(source_folder)
    before = list_content(source_folder)
    options = [option.format(folder=source_folder) for option in case.options]
    ended = run_preprocess(source, output, *options)
    assert list_content(source_folder) == before
    if isinstance(case.outcome, Refused):
        check_nothing_written(output)
        check_error(ended, case.outcome, source)
        return
    assert isinstance(case.outcome, Accepted)
    assert ended.exit_code == 0, ended.stderr
    dataset = read_dataset(output / FILE_NAME)
    for words in case.outcome.says:
        assert re.search(words, ended.stderr), ended.stderr
    if case.outcome.check is not None:
        case.outcome.check(dataset)
    if case.outcome.twin is not None:
        assert dataset.record.dataset_hash == hash_twin(case, twins, tmp_path)


def test_an_older_dataset_survives_a_refused_input(module_store, tmp_path):
    clean().write_h5ad(tmp_path / "good.h5ad")
    (tmp_path / "bad.h5ad").write_text("no HDF5")
    assert run_preprocess(tmp_path / "good.h5ad", tmp_path / "out").exit_code == 0
    before = list_content(tmp_path / "out")
    assert run_preprocess(tmp_path / "bad.h5ad", tmp_path / "out").exit_code == 1
    assert list_content(tmp_path / "out") == before


def test_an_input_is_not_overwritten_by_the_dataset(module_store, tmp_path):
    source = tmp_path / FILE_NAME
    clean().write_h5ad(source)
    before = source.read_bytes()
    ended = run_preprocess(source, tmp_path)
    assert source.read_bytes() == before
    assert len(ended.error_lines) == 1


def test_a_file_beside_a_packed_input_is_not_overwritten(module_store, tmp_path):
    bystander = tmp_path / "cells.h5ad"
    CASES["gzipped"].write(tmp_path)
    bystander.write_text("of the user")
    run_preprocess(tmp_path / "cells.h5ad.gz", tmp_path)
    assert bystander.read_text() == "of the user"
