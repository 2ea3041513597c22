"""A file on which reading stalls or dies costs that file: the others go on, and it is not read again."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from damaged import write_deadly, write_endless
from scoring_lab import Lab

from annotary import watch
from annotary.bounded import BoundedProcess, open_bounded
from annotary.errors import (
    AnnotaryError,
    BundleError,
    CrashError,
    OutputError,
    SetupError,
    ShortageError,
    StalledError,
    UnforeseenError,
)
from annotary.models.bundle_files import save_bundle
from annotary.scoring.records import read_records
from annotary.scoring.work import WorkHere, WorkInProcess

FAILED, GOOD = "b.h5ad", ("a.h5ad", "c.h5ad")


class FailingWork(WorkHere):
    """Annotates in this process, but for one file, on which it fails as another process would."""

    def __init__(self, lab: Lab, config, error: type[AnnotaryError]) -> None:
        super().__init__(lab.open_bundle, config)
        self._error = error
        self.read: list[str] = []

    def annotate(self, origin, target, *, owner):
        self.read.append(origin.path.name)
        if origin.path.name == FAILED:
            raise self._error(origin.shown_as, expected="to be read", found="not so", remedy="Do so.")
        return super().annotate(origin, target, owner=owner)


@pytest.fixture
def lab(tmp_path) -> Lab:
    lab = Lab(tmp_path)
    for seed, name in enumerate((*GOOD, FAILED)):
        lab.add(name, seed=seed, n_cells=20 + seed)
    return lab


def score_with(lab: Lab, error: type[AnnotaryError]):
    works = []

    def make_work(config):
        works.append(FailingWork(lab, config, error))
        return works[-1]

    lab.make_work = make_work
    scored = {Path(one.source).name: one for one in lab.iter_scored()}
    return scored, works[-1].read


@pytest.mark.parametrize("error", [StalledError, CrashError])
def test_a_file_that_stalls_or_kills_is_bad_and_is_not_read_again_until_it_changes(error, lab):
    scored, _ = score_with(lab, error)
    assert [scored[name].status for name in GOOD] == ["annotated", "annotated"]
    assert scored[FAILED].status == "failed"
    assert scored[FAILED].is_bad
    again, read = score_with(lab, error)
    assert read == []
    assert again[FAILED].is_bad
    assert "not so" in again[FAILED].reason
    lab.add(FAILED, seed=9, n_cells=31)
    assert score_with(lab, error)[1] == [FAILED]


@pytest.mark.parametrize("error", [ShortageError, OutputError, UnforeseenError, SetupError])
def test_what_is_not_the_file_s_fault_is_tried_again_and_moves_no_file_away(error, lab):
    scored, _ = score_with(lab, error)
    assert [scored[name].status for name in GOOD] == ["annotated", "annotated"]
    assert scored[FAILED].status == "failed"
    assert not scored[FAILED].is_bad
    again, read = score_with(lab, error)
    assert read == [FAILED]
    assert not again[FAILED].is_bad


def test_a_file_that_a_library_could_not_hold_in_memory_is_tried_again(lab, monkeypatch):
    def annotate_one(*arguments, **options):
        raise MemoryError

    monkeypatch.setattr("annotary.scoring.work.annotate_one", annotate_one)
    scored = list(lab.iter_scored())
    assert {type(one.error) for one in scored} == {ShortageError}
    assert not any(one.is_bad for one in scored)
    monkeypatch.undo()
    assert set(lab.score().values()) == {"annotated"}


def test_a_full_disk_is_no_fault_of_the_file(lab, monkeypatch):
    def annotate_one(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("annotary.scoring.work.annotate_one", annotate_one)
    scored = list(lab.iter_scored())
    assert {type(one.error) for one in scored} == {OutputError}
    assert not any(one.is_bad for one in scored)
    monkeypatch.undo()
    assert set(lab.score().values()) == {"annotated"}


@pytest.fixture
def process(monkeypatch) -> Iterator[BoundedProcess]:
    monkeypatch.setattr(watch, "FIRST_CPU_S", 1.0)
    with open_bounded(seconds=60, modules=("annotary.scoring.work",)) as process:
        yield process


def work_in(process: BoundedProcess, lab: Lab) -> None:
    """Have a laboratory's files annotated in another process."""
    folder = lab.folder / "bundle"
    if not folder.exists():
        save_bundle(lab.bundle, folder)
    lab.make_work = lambda config: WorkInProcess(process, lambda: folder, config)


@pytest.mark.bounded
def test_files_that_hdf5_hangs_or_dies_on_are_refused_and_nothing_half_written_stays(lab, process):
    good = lab.incoming / "a.h5ad"
    write_endless(good, lab.incoming / "b.h5ad")
    write_deadly(good, lab.incoming / "b2.h5ad")
    work_in(process, lab)
    scored = {Path(one.source).name: one for one in lab.iter_scored()}
    assert [scored[name].status for name in GOOD] == ["annotated", "annotated"]
    assert isinstance(scored["b.h5ad"].error, StalledError)
    assert isinstance(scored["b2.h5ad"].error, CrashError)
    assert lab.list_outputs() == ["a.annotated.h5ad", "c.annotated.h5ad"]
    births = process.births
    assert lab.score() == dict.fromkeys(GOOD, "known") | dict.fromkeys(("b.h5ad", "b2.h5ad"), "failed")
    assert process.births == births


@pytest.mark.full
@pytest.mark.bounded
def test_an_output_that_hdf5_hangs_on_is_passed_over_where_the_ledger_is_made_anew(lab, process, caplog):
    lab.score()
    damaged = lab.output / "a.annotated.h5ad"
    text = str(read_records(damaged)[""]["labels_hash"])
    write_endless(damaged, damaged, name=text.encode())
    for path in lab.output.glob("annotary-ledger*"):
        path.unlink()
    work_in(process, lab)
    assert lab.score() == {"a.h5ad": "annotated", "b.h5ad": "known", "c.h5ad": "known"}
    assert f"{damaged} needs to be a file whose reading comes to an end" in caplog.text
    assert set(lab.score().values()) == {"known"}


class StubbornProcess:
    """A process on which every call ends in an error."""

    births = 1

    def __init__(self, error: type[AnnotaryError]) -> None:
        self._error = error

    def get_ready(self):
        pass

    def call(self, function, *arguments, place, n_bytes=0):
        raise self._error(place, expected="to be read", found="not so", remedy="Do so.")


@pytest.mark.parametrize("error", [StalledError, CrashError])
def test_records_of_an_output_that_stalls_or_kills_are_none(error, lab, caplog):
    lab.score()
    output = lab.output / "a.annotated.h5ad"
    work = WorkInProcess(StubbornProcess(error), lambda: lab.folder, lab.configure())
    assert work.read_records(output) == {}
    assert str(output) in caplog.text


@pytest.mark.parametrize("error", [StalledError, CrashError, ShortageError, UnforeseenError])
def test_a_model_that_cannot_be_loaded_ends_the_run_and_blames_no_file(error, lab):
    lab.make_work = lambda config: WorkInProcess(StubbornProcess(error), lambda: lab.folder, config)
    with pytest.raises(BundleError, match="not so"):
        lab.score()
