"""The chain shows every change; what the entries say of the champion."""

import json

import pytest

from annotary.ledger import (
    KEPT,
    OUTSIDE,
    PROMOTED,
    ROLLED_BACK,
    Decision,
    Entry,
    Ledger,
    LedgerError,
    check_mark,
    read_entries,
)


def make_chain(*steps: tuple[str, str, str]) -> list[tuple[int, str]]:
    """Entries of (action, before, after) as they are stored."""
    stored, link = [], "0" * 64
    for number, (action, before, after) in enumerate(steps, start=1):
        decision = Decision(action=action, before=before, after=after, reason=f"step {number}")
        entry = Entry(number, link, "2026-01-01T00:00:00+00:00", "somebody", f"n{number}", decision)
        stored.append((number, entry.to_json()))
        link = entry.hash
    return stored


CHAIN = make_chain((PROMOTED, "", "1"), (KEPT, "1", "1"), (PROMOTED, "1", "3"), (OUTSIDE, "3", "2"))


def make_ledger(*steps) -> Ledger:
    return Ledger("m", "run", read_entries(make_chain(*steps), place="ledger"))


def alter(number: int, **changes) -> list[tuple[int, str]]:
    """Change an entry's decision and leave its hash."""
    stored = list(CHAIN)
    fields = json.loads(stored[number - 1][1])
    fields["decision"] |= changes
    stored[number - 1] = (number, json.dumps(fields, sort_keys=True))
    return stored


def test_what_was_written_is_read():
    entries = read_entries(CHAIN, place="ledger")
    assert [entry.decision.after for entry in entries] == ["1", "1", "3", "2"]
    assert entries[2].previous == entries[1].hash


@pytest.mark.parametrize("number", [1, 2, 3, 4])
@pytest.mark.parametrize("change", [{"after": "9"}, {"reason": "because"}, {"rules": [{"name": "x"}]}])
def test_a_changed_entry_is_named(number, change):
    with pytest.raises(LedgerError, match=rf"ledger, entry {number} needs content of SHA-256"):
        read_entries(alter(number, **change), place="ledger")


def test_an_entry_that_was_forged_with_its_hash_breaks_the_next_link():
    fields = json.loads(CHAIN[1][1])
    fields.pop("hash")
    fields["decision"]["reason"] = "forged"
    forged = Entry(**fields | {"decision": Decision(**fields["decision"])})
    stored = [CHAIN[0], (2, forged.to_json()), *CHAIN[2:]]
    with pytest.raises(LedgerError, match="entry 3 needs to follow entry 2"):
        read_entries(stored, place="ledger")


def test_a_missing_entry_and_another_order_are_named():
    with pytest.raises(LedgerError, match="entry 2 needs to be there; found entry 3 next"):
        read_entries([CHAIN[0], *CHAIN[2:]], place="ledger")
    swapped = [(1, CHAIN[1][1]), (2, CHAIN[0][1])]
    with pytest.raises(LedgerError, match="entry 1 needs"):
        read_entries(swapped, place="ledger")


@pytest.mark.parametrize("text", ["", "no JSON", "{}", "[]", '{"hash": "x", "decision": 1}'])
def test_text_that_is_no_entry_is_an_error_for_people(text):
    with pytest.raises(LedgerError, match="entry 1 needs an entry of the ledger"):
        read_entries([(1, text)], place="ledger")


def test_a_chain_whose_end_was_cut_off_does_not_hold_the_remembered_entry():
    entries = read_entries(CHAIN, place="ledger")
    assert check_mark(entries, f"4:{entries[3].hash}", place="ledger") == 4
    assert check_mark(entries, "", place="ledger") == 0
    with pytest.raises(LedgerError, match="entry 4 needs the entry"):
        check_mark(entries[:3], f"4:{entries[3].hash}", place="ledger")
    with pytest.raises(LedgerError, match="entry 1 needs the entry"):
        check_mark(entries, f"1:{entries[1].hash}", place="ledger")


@pytest.mark.parametrize(
    ("steps", "champion", "previous"),
    [
        ([], "", ""),
        ([(PROMOTED, "", "1")], "1", ""),
        ([(PROMOTED, "", "1"), (KEPT, "1", "1")], "1", ""),
        ([(PROMOTED, "", "1"), (PROMOTED, "1", "2")], "2", "1"),
        ([(PROMOTED, "", "1"), (OUTSIDE, "1", ""), (PROMOTED, "", "2")], "2", "1"),
        ([(PROMOTED, "", "1"), (PROMOTED, "1", "2"), (ROLLED_BACK, "2", "1")], "1", ""),
        (
            [(PROMOTED, "", "1"), (PROMOTED, "1", "2"), (OUTSIDE, "2", "3"), (ROLLED_BACK, "3", "2")],
            "2",
            "1",
        ),
    ],
)
def test_entries_say_who_is_champion_and_what_a_rollback_returns_to(steps, champion, previous):
    ledger = make_ledger(*steps)
    assert (ledger.champion, ledger.previous) == (champion, previous)
