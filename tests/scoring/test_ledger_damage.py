"""A ledger that lost its content, has odd rows, or cannot be used; and clocks that differ."""

import json
import sqlite3
import time

import pytest
from scoring_lab import Lab

from annotary.errors import OutputError
from annotary.liveness import Process, find_boot, name_host
from annotary.scoring import ledger_file, sightings
from annotary.scoring.heartbeat import Heartbeat
from annotary.scoring.identity import identify
from annotary.scoring.ledger import Ledger
from annotary.scoring.ledger_errors import describe_failure
from annotary.scoring.ledger_file import LEDGER_NAME, open_database
from annotary.scoring.ledger_rows import read_row
from annotary.scoring.outcome import make_key

NAMES = ("a.h5ad", "b.h5ad", "c.h5ad")
YEAR_S = 365 * 86_400


@pytest.fixture
def lab(tmp_path) -> Lab:
    return Lab(tmp_path)


@pytest.fixture
def scored(lab, monkeypatch) -> Lab:
    """Three files that were annotated."""
    monkeypatch.setattr(ledger_file, "_MAKING_S", 0.2)
    for seed, name in enumerate(NAMES):
        lab.add(name, seed=seed)
    assert set(lab.score().values()) == {"annotated"}
    lab.loads.clear()
    return lab


def change(lab: Lab, *statements: str) -> None:
    database = sqlite3.connect(lab.output / LEDGER_NAME)
    with database:
        for statement in statements:
            database.execute(statement)
    database.close()


def lose_content(lab: Lab, how: str) -> None:
    path = lab.output / LEDGER_NAME
    if how in ("empty", "other tables", "newer tables"):
        for part in lab.output.glob(f"{LEDGER_NAME}*"):
            part.unlink()
        path.touch()
    if how == "other tables":
        change(lab, "CREATE TABLE somebody (x)")
    elif how == "newer tables":
        change(lab, "CREATE TABLE files (address, key, what, size, target)")
    elif how == "no rows":
        change(lab, "DELETE FROM files")
    elif how == "filled in part":
        change(lab, "DELETE FROM files WHERE target != 'a'", "PRAGMA user_version = 2")


def test_a_ledger_without_its_content_is_filled_from_the_annotated_files(scored):
    before, after = scored.incoming / "b.h5ad", scored.incoming / "moved.h5ad"
    for how in ("empty", "other tables", "newer tables", "no rows", "filled in part"):
        lose_content(scored, how)
        before.rename(after)
        assert scored.score() == {"a.h5ad": "known", "c.h5ad": "known", "moved.h5ad": "known"}, how
        after.rename(before)
    assert scored.loads == []
    assert scored.list_outputs() == [name.replace(".h5ad", ".annotated.h5ad") for name in NAMES]


ODD = {
    "cut": "details = substr(details, 1, 20)",
    "no object": "details = '[1, 2]'",
    "a blob": "details = x'ff00fe'",
    "nothing": "details = NULL",
    "outputs elsewhere": """details = '{"outputs": ["../../b.h5ad"]}'""",
    "an output that is none": """details = '{"outputs": [3]}'""",
    "figures in words": "details = json_set(details, '$.n_cells', 'many')",
    "labels in words": """details = json_set(details, '$.labels', json('{"B": "two"}'))""",
    "a size in words": "size = 'large'",
    "another status": "status = 'lost'",
    "a refusal without a reason": """status = 'failed', details = '{"place": "x"}'""",
    "deep": "details = printf('%.*c', 100000, '[')",
}


def test_a_row_that_does_not_parse_costs_nothing_where_the_annotated_file_tells(scored):
    for odd, values in ODD.items():
        change(scored, f"UPDATE files SET {values} WHERE target = 'b'")
        assert set(scored.score().values()) == {"known"}, odd
    assert scored.loads == []


@pytest.mark.parametrize("odd", ODD)
def test_a_row_that_does_not_parse_is_none(scored_row, odd):
    assert read_row(scored_row.execute("SELECT * FROM files").fetchone()) is not None
    scored_row.execute(f"UPDATE files SET {ODD[odd]}")
    assert read_row(scored_row.execute("SELECT * FROM files").fetchone()) is None


@pytest.fixture
def scored_row(tmp_path):
    """A ledger with one file that was annotated."""
    details = {"outputs": ["b.annotated.h5ad"], "n_cells": 3, "labels": {"B": 3}}
    values = ("/in/b.h5ad", "k", "f", 3, "s", "done", "r", "b", "f", json.dumps(details), "1")
    with open_database(tmp_path) as (database, _):
        database.execute(f"INSERT INTO files VALUES ({', '.join('?' * 11)})", values)
        yield database


def test_a_row_that_does_not_parse_costs_that_file_one_more_annotation_where_nothing_tells(scored):
    (scored.output / "b.annotated.h5ad").unlink()
    change(scored, "UPDATE files SET details = '{' WHERE target = 'b'")
    assert scored.score() == {"a.h5ad": "known", "b.h5ad": "annotated", "c.h5ad": "known"}
    assert set(scored.score().values()) == {"known"}


def test_a_row_that_becomes_odd_during_a_run_is_taken_for_one_that_is_not_there(scored):
    found = {}
    for one in scored.iter_scored():
        found[one.source] = one.status
        change(scored, "UPDATE files SET details = '{' WHERE target = 'c'")
    assert sorted(found.values()) == ["annotated", "known", "known"]


def test_odd_rows_of_runs_are_runs_that_ended(scored):
    change(
        scored,
        "INSERT INTO runs VALUES ('x', NULL, 'many', 3, 'now')",
        "INSERT INTO runs VALUES ('y', 'elsewhere', 1, 'b', x'ff')",
    )
    assert set(scored.score().values()) == {"known"}


class Elsewhere:
    """A run on another machine that is at a file, and whose clock is ahead of ours or behind."""

    def __init__(self, lab: Lab, *, ahead_s: float) -> None:
        self._lab = lab
        path = lab.add("a.h5ad")
        lab.output.mkdir(exist_ok=True)
        with open_database(lab.output) as (database, _):
            ledger = Ledger(lab.output, make_key(("model", "1"), lab.configure()), database)
            ledger.claim(str(path), identify(path), name="a")
            self._run = ledger.run
            database.execute(
                "INSERT INTO runs VALUES (?, 'elsewhere', 1, 'then', ?)", (self._run, time.time() + ahead_s)
            )

    def beat(self) -> None:
        Heartbeat(self._lab.output / LEDGER_NAME, self._run)._write()


@pytest.fixture
def clock(monkeypatch):
    """Sets this machine's monotonic clock forward."""
    passed = [0.0]
    real = time.monotonic
    monkeypatch.setattr(sightings.time, "monotonic", lambda: real() + passed[0])

    def pass_time(seconds: float) -> None:
        passed[0] += seconds

    return pass_time


@pytest.mark.parametrize("ahead_s", [0, -3600, 3600, -YEAR_S, YEAR_S])
def test_a_claim_of_another_machine_is_left_to_it_whatever_its_clock_says(lab, clock, ahead_s):
    other = Elsewhere(lab, ahead_s=ahead_s)
    for _ in range(3):
        assert lab.score() == {"a.h5ad": "waiting"}
        clock(sightings.LEASE_S - 60)
        other.beat()
    assert lab.score() == {"a.h5ad": "waiting"}


def test_a_claim_of_another_machine_that_stood_still_for_the_lease_is_free(lab, clock):
    Elsewhere(lab, ahead_s=3600)
    assert lab.score() == {"a.h5ad": "waiting"}
    clock(sightings.LEASE_S / 2)
    assert lab.score() == {"a.h5ad": "waiting"}
    clock(sightings.LEASE_S / 2)
    assert lab.score() == {"a.h5ad": "annotated"}


def test_a_sign_of_life_differs_from_the_one_before_though_the_clock_stands_still(lab, clock, monkeypatch):
    other = Elsewhere(lab, ahead_s=0)
    monkeypatch.setattr("annotary.scoring.heartbeat.time.time", lambda: 5.0)
    for _ in range(3):
        other.beat()
        assert lab.score() == {"a.h5ad": "waiting"}
        clock(sightings.LEASE_S)


def test_what_was_seen_before_a_reboot_is_seen_anew(lab, clock):
    Elsewhere(lab, ahead_s=0)
    assert lab.score() == {"a.h5ad": "waiting"}
    clock(-1e9)
    assert lab.score() == {"a.h5ad": "waiting"}


@pytest.mark.skipif(not find_boot(), reason="no /proc here")
def test_a_process_of_a_machine_or_container_of_the_same_name_is_not_looked_up_here():
    own = Process.own()
    name, boot, _ = own.host.split()
    assert own.is_there() is True
    assert Process(own.host, own.pid, "another").is_there() is False
    assert Process(f"{name} {boot} pid:[1]", own.pid, "another").is_there() is None
    assert Process(f"{name} another-boot pid:[1]", own.pid, own.birth).is_there() is None
    assert Process(name, own.pid, own.birth).is_there() is True, "as earlier versions wrote it"
    assert name_host() == own.host


def test_a_folder_in_the_ledger_s_place_is_named(scored):
    (scored.output / LEDGER_NAME).unlink()
    (scored.output / LEDGER_NAME).mkdir()
    with pytest.raises(OutputError, match=r"found a folder of that name\. Move annotary-ledger\.db out"):
        scored.score()


def test_a_ledger_that_is_locked_for_long_ends_the_batch_with_one_line(scored, monkeypatch):
    scored.add("d.h5ad", seed=9)
    monkeypatch.setattr(ledger_file, "_BUSY_TIMEOUT_S", 0.1)
    holder = sqlite3.connect(scored.output / LEDGER_NAME, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    try:
        with pytest.raises(OutputError, match=r"locked by another program.*fuser annotary-ledger\.db"):
            scored.score()
    finally:
        holder.close()
    assert scored.score()["d.h5ad"] == "annotated"


def test_a_ledger_that_may_not_be_written_names_its_owner_and_the_user(scored):
    path = scored.output / LEDGER_NAME
    reader = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    with pytest.raises(sqlite3.OperationalError) as caught:
        reader.execute("DELETE FROM files")
    reader.close()
    message = str(describe_failure(path, caught.value))
    assert "readonly" in message
    assert f"is of user {path.stat().st_uid}, with mode" in message
    assert "chown" in message


@pytest.mark.parametrize("name", ["SQLITE_PROTOCOL", "SQLITE_IOERR_LOCK", "SQLITE_IOERR_SHMMAP"])
def test_a_file_system_without_locks_is_named(tmp_path, name):
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode, error.sqlite_errorname = getattr(sqlite3, name), name
    message = str(describe_failure(tmp_path / LEDGER_NAME, error))
    assert "gives no locks" in message
    assert "--output" in message


def test_a_log_left_of_another_ledger_is_no_part_of_a_new_one(scored):
    log = scored.output / f"{LEDGER_NAME}-wal"
    for part in scored.output.glob(f"{LEDGER_NAME}*"):
        part.unlink()
    log.write_bytes(b"left over" * 1000)
    (scored.output / f"{LEDGER_NAME}-shm").write_bytes(b"left over" * 1000)
    assert set(scored.score().values()) == {"known"}
