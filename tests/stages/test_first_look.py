"""A file that hangs HDF5, or kills the process that reads it, ends a command by one clear error."""

import contextlib
import subprocess
import sys
from pathlib import Path

import pytest
from damaged import write_deadly, write_endless
from simulate import write_cells

from annotary import config, watch
from annotary.data.walk import walk_h5ad
from annotary.errors import CrashError, ShortageError, StalledError
from annotary.first_look import open_first_look
from annotary.stages.baselines import baselines
from annotary.stages.ensemble import ensemble
from annotary.stages.evaluate import evaluate
from annotary.stages.preprocess import preprocess
from annotary.stages.pretrain import pretrain
from annotary.stages.transformer import transformer
from annotary.stages.verify import verify


class FailingProcess:
    """A process that every file ends; it notes which they were."""

    def __init__(self, error: type[Exception]) -> None:
        self.error = error
        self.places: list[Path] = []

    def call(self, function, *arguments, place, n_bytes=0):
        self.places.append(place)
        raise self.error(place, expected="to be read", found="not so", remedy="Do so.")


def use(process: object, monkeypatch) -> None:
    monkeypatch.setattr("annotary.bounded.open_bounded", lambda **_: contextlib.nullcontext(process))


COMMANDS = {
    "preprocess": lambda path: preprocess(
        config.PreprocessConfig(input=path, output="out", doublets="none", n_folds=2)
    ),
    "pretrain": lambda path: pretrain(config.PretrainConfig(input=path)),
    "pretrain on a dataset": lambda path: pretrain(config.PretrainConfig(dataset=path)),
    "baselines": lambda path: baselines(config.BaselinesConfig(dataset=path)),
    "transformer": lambda path: transformer(config.TransformerConfig(dataset=path)),
    "ensemble": lambda path: ensemble(config.EnsembleConfig(dataset=path)),
    "evaluate": lambda path: evaluate(config.EvaluateConfig(dataset=path)),
    "verify": lambda path: verify(config.VerifyConfig(file=path)),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("error", [StalledError, CrashError, ShortageError])
def test_each_command_looks_before_it_reads(command, error, store, monkeypatch):
    path = write_cells(store / "cells.h5ad", n_cells=30)
    monkeypatch.setattr("annotary.data.hdf5.h5py.File", None)  # nothing is opened in this process
    process = FailingProcess(error)
    use(process, monkeypatch)
    with pytest.raises(error, match=r"cells\.h5ad needs to be read; found not so"):
        COMMANDS[command](str(path))
    assert process.places == [path]


def test_without_a_timeout_nothing_is_looked_at(tmp_path, monkeypatch):
    process = FailingProcess(StalledError)
    use(process, monkeypatch)
    path = write_cells(tmp_path / "cells.h5ad", n_cells=30)
    with open_first_look(0) as first:
        first.look(path)
        assert first.convert(path, tmp_path, name="cells", allow_pickle=False) == path
    assert process.places == []


@pytest.mark.parametrize("content", [b"", b"no HDF5", None])
def test_what_can_be_said_by_an_error_is_left_to_the_command_s_reader(content, tmp_path):
    path = tmp_path / "cells.h5ad"
    if content is not None:
        path.write_bytes(content)
    walk_h5ad(path)


@pytest.mark.bounded
def test_one_process_looks_at_all_files_and_is_replaced_where_one_ends_it(tmp_path, monkeypatch):
    monkeypatch.setattr(watch, "FIRST_CPU_S", 1.0)
    good = write_cells(tmp_path / "good.h5ad", n_cells=30)
    endless, deadly = write_endless(good, tmp_path / "e.h5ad"), write_deadly(good, tmp_path / "d.h5ad")
    with open_first_look(60) as first:
        first.look(good)
        with pytest.raises(StalledError, match=r"e\.h5ad .*no progress"):
            first.look(endless)
        with pytest.raises(CrashError, match=r"d\.h5ad .*dies"):
            first.look(deadly)
        assert first.convert(good, tmp_path, name="good", allow_pickle=False) == good


@pytest.mark.full
@pytest.mark.parametrize(
    "command", ["preprocess --input", "pretrain --input", "evaluate --dataset", "verify"]
)
@pytest.mark.parametrize("write", [write_endless, write_deadly])
def test_a_user_sees_one_line_and_exit_code_1(command, write, store):
    path = write(write_cells(store / "good.h5ad", n_cells=30), store / "bad.h5ad")
    done = subprocess.run(
        [sys.executable, "-m", "annotary", *command.split(), str(path)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"annotary: error: {path} needs to be a file")
    assert "bug" not in done.stderr
    assert "Traceback" not in done.stderr
