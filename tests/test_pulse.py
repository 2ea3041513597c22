"""Signs of progress pass from a process's threads to whoever looks at the board."""

import os
import threading

import pytest

from annotary import pulse
from annotary.pulse import COMPUTING, IDLE, READING, Board


@pytest.fixture
def seen(monkeypatch):
    """A board of this process, seen through a second mapping, as another process would."""
    handle = pulse.make_board_file()
    own, seen = Board(handle), Board(handle)
    monkeypatch.setattr(pulse, "_board", own)
    pulse.begin()
    yield seen
    for board in (own, seen):
        board.close()
    os.close(handle)


def test_a_thread_shows_its_steps_and_what_it_does(seen):
    with pulse.doing(READING):
        [first] = seen.read()
        pulse.beat()
        [second] = seen.read()
    [last] = seen.read()
    assert first.thread == threading.get_native_id()
    assert (first.doing, second.doing, last.doing) == (READING, READING, IDLE)
    assert first.beats < second.beats < last.beats


def test_what_is_done_within_something_else_ends_with_it(seen):
    with pulse.doing(READING):
        with pulse.computing():
            assert [one.doing for one in seen.read()] == [COMPUTING]
        assert [one.doing for one in seen.read()] == [READING]


def test_each_thread_has_a_sign_of_its_own(seen):
    pulse.beat()
    thread = threading.Thread(target=pulse.beat)
    thread.start()
    thread.join()
    assert len({one.thread for one in seen.read()}) == 2


def test_another_task_begins_with_an_empty_board(seen):
    pulse.beat()
    pulse.begin()
    assert seen.read() == []
    pulse.beat()
    assert len(seen.read()) == 1


def test_each_item_that_is_read_is_a_step_and_none_is_lost(seen):
    steps = []
    for item in pulse.reading(iter("abc")):
        steps.append((item, seen.read()[0].beats))
    assert [item for item, _ in steps] == ["a", "b", "c"]
    assert sorted(beats for _, beats in steps) == [beats for _, beats in steps]
    assert len({beats for _, beats in steps}) == 3


def test_a_process_that_nobody_looks_at_leaves_no_signs(monkeypatch):
    monkeypatch.setattr(pulse, "_board", None)
    with pulse.doing(READING):
        pulse.beat()
    assert list(pulse.reading(iter([1, 2]))) == [1, 2]
