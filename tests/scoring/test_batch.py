"""Every file once: whatever is asked for twice, at once, in vain, or after a kill."""

import contextlib
import gzip
import hashlib
import json
import os
import shutil
import sqlite3
import time
from pathlib import Path

import anndata
import h5py
import numpy as np
import pytest
from scoring_lab import Lab
from simulate import simulate_cells, write_cells

from annotary import keys
from annotary.errors import BundleError
from annotary.scoring import one_file
from annotary.scoring.batch import ScoredFile
from annotary.scoring.identity import identify
from annotary.scoring.ledger import Ledger, Standing
from annotary.scoring.ledger_file import LEDGER_NAME, open_database
from annotary.scoring.outcome import Outcome, make_key
from annotary.scoring.quarantine import ERROR_SUFFIX, move_aside
from annotary.scoring.records import read_record


def pack(path: Path, target: Path) -> None:
    with path.open("rb") as plain, gzip.open(target, "wb") as packed:
        shutil.copyfileobj(plain, packed)


@pytest.fixture
def lab(tmp_path) -> Lab:
    return Lab(tmp_path)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr("annotary.scoring.retry.WAITS_S", (0.0, 0.0, 0.0))


def test_a_second_run_does_nothing_and_loads_no_model(lab):
    for seed, name in enumerate(("a.h5ad", "b.h5ad")):
        lab.add(name, seed=seed)
    assert lab.score() == {"a.h5ad": "annotated", "b.h5ad": "annotated"}
    before = [(lab.output / name).stat().st_mtime_ns for name in lab.list_outputs()]
    lab.loads.clear()
    assert lab.score() == {"a.h5ad": "known", "b.h5ad": "known"}
    assert lab.loads == []
    assert [(lab.output / name).stat().st_mtime_ns for name in lab.list_outputs()] == before


def test_a_thousand_known_files_take_under_three_seconds(lab):
    source = lab.add("0.h5ad")
    lab.score()
    output = lab.output / "0.annotated.h5ad"
    with contextlib.closing(sqlite3.connect(lab.output / LEDGER_NAME)) as raw, raw:
        columns = [row[1] for row in raw.execute("PRAGMA table_info(files)")]
        row = dict(zip(columns, raw.execute("SELECT * FROM files").fetchone(), strict=True))
        for number in range(1, 1000):
            path = lab.incoming / f"{number}.h5ad"
            os.link(source, path)
            os.link(output, lab.output / f"{number}.annotated.h5ad")
            own = {"address": str(path), "target": str(number), "details": row["details"]}
            own["details"] = json.dumps({"outputs": [f"{number}.annotated.h5ad"]})
            raw.execute(f"INSERT INTO files VALUES ({'?,' * 10}?)", list((row | own).values()))
    started = time.monotonic()
    found = lab.score()
    assert list(found.values()) == ["known"] * 1000
    assert time.monotonic() - started < 3


def test_a_file_with_new_content_is_annotated_anew_under_its_name(lab):
    lab.add("a.h5ad", seed=1)
    lab.score()
    lab.add("a.h5ad", seed=2, n_cells=25)
    assert lab.score() == {"a.h5ad": "annotated"}
    assert lab.list_outputs() == ["a.annotated.h5ad"]
    assert anndata.read_h5ad(lab.output / "a.annotated.h5ad").n_obs == 25


def test_a_file_that_was_touched_moved_or_copied_is_known_by_its_hash(lab):
    path = lab.add("a.h5ad")
    lab.score()
    os.utime(path, (1, 1))
    assert lab.score() == {"a.h5ad": "known"}
    (lab.incoming / "below").mkdir()
    shutil.copy(path, lab.incoming / "copy.h5ad")
    path.rename(lab.incoming / "below" / "a.h5ad")
    assert lab.score(recursive=True) == {"below/a.h5ad": "known", "copy.h5ad": "known"}
    assert lab.list_outputs() == ["a.annotated.h5ad"]
    assert lab.loads == ["1"]


def test_two_files_of_the_same_size_are_told_apart(lab):
    path = lab.add("a.h5ad")
    twin = lab.incoming / "b.h5ad"
    shutil.copy(path, twin)
    with h5py.File(twin, "r+") as file:
        file["X/data"][0] += 1
    assert twin.stat().st_size == path.stat().st_size
    assert lab.score() == {"a.h5ad": "annotated", "b.h5ad": "annotated"}


def test_another_version_and_other_settings_annotate_again_and_back(lab):
    lab.add("a.h5ad")
    assert lab.score() == {"a.h5ad": "annotated"}
    lab.version = "2"
    assert lab.score() == {"a.h5ad": "annotated"}
    lab.version = "1"
    assert lab.score() == {"a.h5ad": "annotated"}, "its output holds what version 2 said"
    assert lab.score(counts_layer="X") == {"a.h5ad": "annotated"}
    assert lab.score(counts_layer="X", chunk_size=7) == {"a.h5ad": "known"}


def test_an_output_that_is_gone_is_made_again(lab):
    lab.add("a.h5ad")
    lab.score()
    (lab.output / "a.annotated.h5ad").unlink()
    assert lab.score() == {"a.h5ad": "annotated"}


def test_files_of_one_name_do_not_overwrite_each_other(lab):
    for seed, name in enumerate(("one/x.h5ad", "two/x.h5ad", "x.h5ad")):
        lab.add(name, seed=seed, n_cells=20 + seed)
    shutil.move(lab.incoming / "x.h5ad", lab.incoming / "two" / "tmp")
    pack(lab.incoming / "two" / "tmp", lab.incoming / "two" / "x.h5ad.gz")
    names = [str(lab.incoming / name) for name in ("one/x.h5ad", "two/x.h5ad", "two/x.h5ad.gz")]
    for _ in range(2):
        lab.score(input=",".join(names))
        lab.score(input=",".join(reversed(names)))
    outputs = lab.list_outputs()
    assert "x.annotated.h5ad" in outputs
    assert len(outputs) == 3
    assert sorted(anndata.read_h5ad(lab.output / name).n_obs for name in outputs) == [20, 21, 22]


def test_folders_below_are_mirrored(lab):
    lab.add("one/x.h5ad", seed=1)
    lab.add("two/x.h5ad", seed=2)
    lab.score(recursive=True)
    assert lab.list_outputs() == ["one/x.annotated.h5ad", "two/x.annotated.h5ad"]


def test_the_annotated_file_says_which_bytes_it_comes_from(lab):
    path = lab.add("a.h5ad")
    [scored] = lab.iter_scored()
    record = read_record(scored.target)
    assert str(record["input_sha256"]) == hashlib.sha256(path.read_bytes()).hexdigest()
    assert record["input_size"] == path.stat().st_size
    assert record["n_cells"] == scored.n_cells == 20
    warnings = record.pop("warnings")
    assert str(path) in warnings
    assert str(lab.incoming) not in json.dumps(record, default=str)


def test_a_bad_file_is_told_once_and_not_read_again(lab, monkeypatch):
    lab.add("a.h5ad")
    (lab.incoming / "bad.h5ad").write_text("not HDF5")
    assert lab.score() == {"a.h5ad": "annotated", "bad.h5ad": "failed"}
    monkeypatch.setattr(one_file, "annotate_file", None)
    [scored] = [one for one in lab.iter_scored() if one.status == "failed"]
    assert "that is not HDF5" in scored.reason


def test_a_bad_file_that_was_mended_is_annotated(lab):
    (lab.incoming).mkdir()
    (lab.incoming / "a.h5ad").write_text("not HDF5")
    assert lab.score() == {"a.h5ad": "failed"}
    lab.add("a.h5ad")
    assert lab.score() == {"a.h5ad": "annotated"}


def test_a_bug_in_reading_one_file_does_not_stop_the_others(lab, monkeypatch):
    lab.add("a.h5ad", seed=1)
    lab.add("b.h5ad", seed=2)
    real = one_file.annotate_file

    def stumble(bundle, path, **options):
        if path.name == "a.h5ad":
            raise ZeroDivisionError("unforeseen")
        return real(bundle, path, **options)

    monkeypatch.setattr(one_file, "annotate_file", stumble)
    assert lab.score() == {"a.h5ad": "failed", "b.h5ad": "annotated"}
    assert lab.list_outputs() == ["b.annotated.h5ad"]
    monkeypatch.undo()
    assert lab.score() == {"a.h5ad": "annotated", "b.h5ad": "known"}


def test_a_model_that_cannot_be_loaded_ends_the_batch(lab, monkeypatch):
    lab.add("a.h5ad")

    def refuse():
        raise BundleError("model", expected="SHA-256 x", found="y", remedy="Roll back.")

    monkeypatch.setattr(lab, "open_bundle", refuse)
    with pytest.raises(BundleError):
        lab.score()
    monkeypatch.undo()
    assert lab.score() == {"a.h5ad": "annotated"}


def test_a_file_that_changes_while_it_is_read_waits(lab, monkeypatch):
    path = lab.add("a.h5ad", seed=1)
    real, attempts = one_file.annotate_file, []

    def change(bundle, source, **options):
        found = real(bundle, source, **options)
        if len(attempts) < 4:
            attempts.append(source)
            write_cells(lab.folder / "new.h5ad", n_cells=30, seed=len(attempts))
            (lab.folder / "new.h5ad").replace(path)
        return found

    monkeypatch.setattr(one_file, "annotate_file", change)
    assert lab.score() == {"a.h5ad": "waiting"}
    assert lab.list_outputs() == []
    assert lab.score() == {"a.h5ad": "annotated"}
    assert anndata.read_h5ad(lab.output / "a.annotated.h5ad").n_obs == 30


def test_a_locked_file_is_tried_again(lab, monkeypatch):
    lab.add("a.h5ad")
    real, attempts = one_file.annotate_file, []

    def lock(bundle, source, **options):
        attempts.append(source)
        if len(attempts) < 3:
            raise BlockingIOError(11, "unable to lock file")
        return real(bundle, source, **options)

    monkeypatch.setattr(one_file, "annotate_file", lock)
    assert lab.score() == {"a.h5ad": "annotated"}
    assert len(attempts) == 3


def test_fresh_files_of_a_folder_wait_but_one_that_is_named_does_not(lab):
    path = lab.add("a.h5ad")
    assert lab.score(settle_seconds=60) == {"a.h5ad": "waiting"}
    assert lab.score(settle_seconds=60, input=str(path)) == {"a.h5ad": "annotated"}


def test_a_file_that_another_run_is_at_is_left_to_it(lab):
    path = lab.add("a.h5ad")
    lab.output.mkdir()
    key = make_key(("model", "1"), lab.configure())
    with open_database(lab.output) as (database, _):
        other = Ledger(lab.output, key, database)
        with other.working():
            assert other.claim(str(path), identify(path), name="a").standing is Standing.CLAIMED
            assert lab.score() == {"a.h5ad": "waiting"}
    assert lab.score() == {"a.h5ad": "annotated"}


def leave_a_claim(lab: Lab, path: Path) -> str:
    """Claim a file as a process that is no longer there."""
    lab.output.mkdir(exist_ok=True)
    with open_database(lab.output) as (database, _):
        dead = Ledger(lab.output, make_key(("model", "1"), lab.configure()), database)
        dead.claim(str(path), identify(path), name=path.stem)
        database.execute("INSERT INTO runs VALUES (?, 'elsewhere', 1, '', 0)", (dead.run,))
        return dead.run


def test_what_a_killed_run_left_is_finished_and_cleared(lab):
    path = lab.add("a.h5ad")
    run = leave_a_claim(lab, path)
    (lab.output / f".annotary-score-{run}-abc.h5ad").touch()
    (lab.output / ".annotary-preprocess.h5ad").touch()
    assert lab.score() == {"a.h5ad": "annotated"}
    assert lab.list_outputs() == [".annotary-preprocess.h5ad", "a.annotated.h5ad"]


def test_an_output_that_got_its_name_before_the_kill_is_not_made_again(lab):
    path = lab.add("a.h5ad")
    [scored] = lab.iter_scored()
    run = read_record(scored.target)["ledger_run"]
    with sqlite3.connect(lab.output / LEDGER_NAME) as raw:
        raw.execute("UPDATE files SET status = 'claimed', sha256 = NULL, outputs_fingerprint = NULL")
        assert raw.execute("SELECT run FROM files").fetchone()[0] == run
    assert lab.score() == {"a.h5ad": "known"}
    assert lab.loads == ["1"]
    assert path.exists()


def test_a_damaged_ledger_is_set_aside_and_made_again_from_the_files(lab):
    for seed, name in enumerate(("a.h5ad", "below/b.h5ad")):
        lab.add(name, seed=seed)
    lab.score(recursive=True)
    (lab.output / LEDGER_NAME).write_bytes(b"not a database" * 100)
    assert set(lab.score(recursive=True).values()) == {"known"}
    assert lab.loads == ["1"]
    assert list(lab.output.glob("annotary-ledger-damaged-*.db"))
    lab.add("c.h5ad", seed=7)
    assert lab.score(recursive=True)["c.h5ad"] == "annotated"


def test_tables_alone_and_both(lab):
    lab.add("a.h5ad")
    lab.score(form="table", table_format="csv")
    assert lab.list_outputs() == ["a.annotated.csv"]
    lab.score(form="both")
    assert lab.list_outputs() == ["a.annotated.csv", "a.annotated.h5ad", "a.annotated.parquet"]
    assert lab.score(form="table", table_format="csv") == {"a.h5ad": "known"}


def test_other_formats_are_annotated_as_what_they_hold(lab):
    path = lab.add("plain.h5ad")
    pack(path, lab.incoming / "packed.h5ad.gz")
    anndata.read_h5ad(path).write_zarr(lab.incoming / "store.zarr")
    assert set(lab.score().values()) == {"annotated"}
    expected = anndata.read_h5ad(lab.output / "plain.annotated.h5ad")
    for name in ("packed", "store"):
        found = anndata.read_h5ad(lab.output / f"{name}.annotated.h5ad")
        assert list(found.obs[keys.PREDICTED_LABELS]) == list(expected.obs[keys.PREDICTED_LABELS])
        assert np.array_equal(found.X.toarray(), expected.X.toarray())
    assert set(lab.score().values()) == {"known"}
    assert len(lab.list_outputs()) == 3
    lab.score(form="table")
    assert sum(name.endswith(".parquet") for name in lab.list_outputs()) == 3
    assert len(lab.list_outputs()) == 6


def test_quarantine_takes_the_file_and_tells_why(lab):
    lab.incoming.mkdir()
    for content in ("bad", "also bad"):
        (lab.incoming / "bad.h5ad").write_text(content)
        [failed] = lab.iter_scored()
        assert failed.is_bad
        note = move_aside(failed, lab.folder / "quarantine")
        assert not (lab.incoming / "bad.h5ad").exists()
        assert json.loads(note.read_text())["found"].endswith("that is not HDF5")
        assert note.with_name(note.name.removesuffix(ERROR_SUFFIX)).read_text() == content
    assert len(list((lab.folder / "quarantine").iterdir())) == 4


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        ([], 0),
        (["annotated", "known", "waiting"], 0),
        (["annotated", "failed"], 3),
        (["known", "failed"], 3),
        (["waiting", "failed"], 2),
        (["failed", "failed"], 2),
    ],
)
def test_exit_codes(statuses, expected):
    files = [
        ScoredFile(f"{status}.h5ad", status, outputs=(Path("x"),) if status in ("annotated", "known") else ())
        for status in statuses
    ]
    assert Outcome(model="models:/m/1", run_id="", files=files).exit_code == expected


def test_dense_and_deep_rows_are_read_in_smaller_chunks(lab):
    adata = simulate_cells(50)
    lab.incoming.mkdir()
    adata.X = adata.X.toarray()
    adata.write_h5ad(lab.incoming / "dense.h5ad")
    lab.add("sparse.h5ad", n_cells=50)
    lab.score()
    dense, sparse = (anndata.read_h5ad(lab.output / f"{name}.annotated.h5ad") for name in ("dense", "sparse"))
    np.testing.assert_allclose(dense.obsm[keys.PROBABILITIES], sparse.obsm[keys.PROBABILITIES], atol=1e-6)


def test_a_remote_file_is_annotated_once_and_its_copy_goes(lab):
    from fsspec.implementations.memory import MemoryFileSystem

    MemoryFileSystem().put(str(lab.add("a.h5ad")), "/served/a.h5ad")
    [scored] = lab.iter_scored(input="memory://served/a.h5ad")
    assert (scored.status, scored.source) == ("annotated", "memory:///served/a.h5ad")
    assert lab.list_outputs() == ["a.annotated.h5ad"]
    assert read_record(scored.target)["input_name"] == "a.h5ad"
    [again] = lab.iter_scored(input="memory://served/a.h5ad")
    assert again.status == "known"
    assert lab.loads == ["1"]
