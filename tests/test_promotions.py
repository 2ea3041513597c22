"""The ledger in MLflow: written once, in step with the aliases, whoever writes at the same time."""

import os
import sqlite3
import subprocess
import sys

import mlflow
import pytest

from annotary import promotions
from annotary.config import CHALLENGER, CHAMPION, PREVIOUS, RollbackConfig
from annotary.errors import RegistryError
from annotary.ledger import KEPT, OUTSIDE, PROMOTED, ROLLED_BACK, Decision, LedgerError
from annotary.promotions import append, catch_up, note_outside_move, read_ledger, settle
from annotary.registry import find_alias, list_aliases
from annotary.stages.rollback import rollback

NAME = "annotator"


@pytest.fixture
def versions(store) -> list[str]:
    """Four versions without files: aliases and ledger do not look at them."""
    client = mlflow.MlflowClient()
    client.create_registered_model(NAME)
    return [str(client.create_model_version(NAME, source=str(store)).version) for _ in range(4)]


@pytest.fixture
def no_patience(monkeypatch):
    monkeypatch.setattr(promotions, "_PATIENCE_SECONDS", 0.0)


def decide(before: str, after: str, action: str = PROMOTED) -> Decision:
    return Decision(action=action, before=before, after=after, candidate=after, reason="a test")


def promote(after: str) -> None:
    ledger = catch_up(NAME)
    assert append(ledger, decide(ledger.champion, after))
    settle(NAME)


def set_alias_outside(number: str, alias: str = CHAMPION) -> None:
    mlflow.MlflowClient().set_registered_model_alias(NAME, alias, number)


def list_actions() -> list[str]:
    return [entry.decision.action for entry in read_ledger(NAME).entries]


def check_in_step() -> None:
    """The aliases are what the ledger says."""
    ledger = read_ledger(NAME)
    aliases = list_aliases(NAME)
    assert aliases.get(CHAMPION, "") == ledger.champion
    assert aliases.get(PREVIOUS, "") == ledger.previous
    assert aliases.get(CHALLENGER) != ledger.champion
    assert ledger.applied == len(ledger.entries)


def test_aliases_follow_promotions_and_rollbacks(versions):
    set_alias_outside("2", CHALLENGER)
    for number in ("1", "2", "3"):
        promote(number)
        check_in_step()
    assert CHALLENGER not in list_aliases(NAME), "a champion is no challenger any more"
    assert rollback(RollbackConfig(model_name=NAME, reason="poor on T cells")).number == "2"
    check_in_step()
    assert rollback(RollbackConfig(model_name=NAME)).number == "1"
    check_in_step()
    with pytest.raises(RegistryError, match=r"a champion before the present one; found version 1 alone"):
        rollback(RollbackConfig(model_name=NAME))
    assert list_actions() == [PROMOTED] * 3 + [ROLLED_BACK] * 2
    assert read_ledger(NAME).entries[3].decision.reason == "poor on T cells"


def test_an_entry_says_who_and_when(versions, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ada")
    promote("1")
    entry = read_ledger(NAME).entries[0]
    assert entry.user == "ada"
    assert entry.time.endswith("+00:00")


def test_mlflow_itself_refuses_to_write_an_entry_again(versions):
    promote("1")
    run_id = read_ledger(NAME).run_id
    with pytest.raises(mlflow.MlflowException, match="Changing param values is not allowed"):
        mlflow.MlflowClient().log_param(run_id, "000001", "something else")


def test_of_two_that_read_the_same_ledger_one_writes(versions):
    ledger = catch_up(NAME)
    assert append(ledger, decide("", "1"))
    assert not append(ledger, decide("", "2")), "the first entry of a new ledger"
    ledger = settle(NAME)
    assert append(ledger, decide("1", "2"))
    assert not append(ledger, decide("1", "3"))
    settle(NAME)
    check_in_step()
    assert [entry.decision.after for entry in read_ledger(NAME).entries] == ["1", "2"]


def test_a_move_outside_the_gate_is_noted_once(versions):
    promote("1")
    assert note_outside_move(NAME) is None
    set_alias_outside("3")
    noted = note_outside_move(NAME)
    assert (noted.action, noted.before, noted.after) == (OUTSIDE, "1", "3")
    check_in_step()
    assert note_outside_move(NAME) is None
    assert list_actions() == [PROMOTED, OUTSIDE]
    assert rollback(RollbackConfig(model_name=NAME)).number == "1"


def test_a_champion_from_before_the_ledger_and_one_that_was_taken_away_are_noted(versions):
    set_alias_outside("2")
    assert note_outside_move(NAME).before == ""
    mlflow.MlflowClient().delete_registered_model_alias(NAME, CHAMPION)
    assert note_outside_move(NAME).after == ""
    check_in_step()


def test_a_promotion_that_was_killed_before_its_aliases_is_finished_by_the_next(versions, no_patience):
    promote("1")
    append(read_ledger(NAME), decide("1", "2"))
    assert find_alias(NAME, CHAMPION).number == "1"
    assert note_outside_move(NAME) is None, "an unfinished promotion is no move from outside"
    assert catch_up(NAME).champion == "2"
    check_in_step()


def test_a_late_process_does_not_bring_back_its_own_champion(versions, monkeypatch):
    """One stops after reading the ledger, another promotes meanwhile, then the first sets its aliases."""
    promote("1")
    append(read_ledger(NAME), decide("1", "2"))
    set_aliases = promotions._set_aliases

    def set_late(ledger):
        monkeypatch.setattr(promotions, "_set_aliases", set_aliases)
        settle(NAME)
        promote("3")
        set_aliases(ledger)

    monkeypatch.setattr(promotions, "_set_aliases", set_late)
    settle(NAME)
    check_in_step()
    assert find_alias(NAME, CHAMPION).number == "3"


def test_a_decision_that_moves_nothing_does_not_undo_what_a_person_did_meanwhile(versions):
    promote("1")
    ledger = read_ledger(NAME)
    set_alias_outside("4")
    append(ledger, decide("1", "1", KEPT))
    settle(NAME)
    assert find_alias(NAME, CHAMPION).number == "4"
    assert note_outside_move(NAME).after == "4"


@pytest.mark.full
def test_a_rollback_that_another_process_was_quicker_with_is_not_done_twice(versions, monkeypatch):
    for number in ("1", "2", "3"):
        promote(number)

    def append_late(ledger, decision):
        monkeypatch.setattr("annotary.stages.rollback.append", append)
        rollback(RollbackConfig(model_name=NAME))
        return append(ledger, decision)

    monkeypatch.setattr("annotary.stages.rollback.append", append_late)
    with pytest.raises(RegistryError, match="found version 2, which another process made champion"):
        rollback(RollbackConfig(model_name=NAME))
    assert find_alias(NAME, CHAMPION).number == "2"


def edit(store, statement: str, *values: str) -> None:
    with sqlite3.connect(store / "mlflow.db") as database:
        assert database.execute(statement, values).rowcount


def test_an_entry_that_was_edited_in_the_database_is_named_and_stops_the_gate(versions, store):
    for number in ("1", "2"):
        promote(number)
    edit(store, "UPDATE params SET value = replace(value, 'a test', 'no test') WHERE key = '000001'")
    with pytest.raises(LedgerError, match=r"ledger of annotator, entry 1 .*altered outside annotary"):
        catch_up(NAME)
    promotions.note_outside_move_if_possible(NAME)  # scoring goes on


def test_an_end_that_was_cut_off_is_noticed(versions, store):
    for number in ("1", "2"):
        promote(number)
    edit(store, "DELETE FROM params WHERE key = '000002'")
    with pytest.raises(LedgerError, match="entry 2 needs the entry"):
        read_ledger(NAME)


def test_a_deleted_run_is_noticed_and_can_be_restored(versions):
    promote("1")
    run_id = read_ledger(NAME).run_id
    mlflow.MlflowClient().delete_run(run_id)
    with pytest.raises(LedgerError, match="needs its run in the experiment"):
        read_ledger(NAME)
    mlflow.MlflowClient().restore_run(run_id)
    assert read_ledger(NAME).champion == "1"


def test_the_loser_of_a_race_for_a_new_ledger_takes_the_winner_s(versions, monkeypatch):
    client_class = type(mlflow.MlflowClient())
    rename = client_class.rename_experiment

    def rename_late(self, experiment_id, title):
        monkeypatch.setattr(client_class, "rename_experiment", rename)
        assert append(read_ledger(NAME), decide("", "1"))
        rename(self, experiment_id, title)

    monkeypatch.setattr(client_class, "rename_experiment", rename_late)
    assert not append(read_ledger(NAME), decide("", "2"))
    settle(NAME)
    check_in_step()
    assert find_alias(NAME, CHAMPION).number == "1"


WORKER = """
import sys
from annotary.ledger import PROMOTED, Decision
from annotary.promotions import append, catch_up, settle
from annotary.tracking import connect
name, number, times = sys.argv[1], sys.argv[2], int(sys.argv[3])
connect()
sys.stdin.readline()
for _ in range(times):
    while True:
        ledger = catch_up(name)
        decision = Decision(PROMOTED, ledger.champion, number, "a race", candidate=number)
        if append(ledger, decision):
            break
    settle(name)
"""


@pytest.mark.full
def test_two_processes_that_promote_at_once_end_in_one_consistent_state(versions):
    times = 5
    command = [sys.executable, "-c", WORKER, NAME]
    racers = [
        subprocess.Popen([*command, number, str(times)], stdin=subprocess.PIPE, text=True, env=os.environ)
        for number in ("1", "2")
    ]
    for racer in racers:
        racer.stdin.write("go\n")
        racer.stdin.flush()
    for racer in racers:
        assert racer.wait(timeout=120) == 0
        racer.stdin.close()
    assert len(read_ledger(NAME).entries) == 2 * times
    before = [entry.decision.before for entry in read_ledger(NAME).entries]
    after = [entry.decision.after for entry in read_ledger(NAME).entries]
    assert before[1:] == after[:-1], "each knew the champion that the one before it had made"
    check_in_step()
