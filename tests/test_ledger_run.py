"""The ledger belongs to one registered model, whatever bears its name, and speaks of certain versions."""

import sqlite3
from dataclasses import asdict

import mlflow
import pytest
from mlflow.entities import Run

from annotary import ledger_run, promotions
from annotary.anchors import find_anchors
from annotary.config import CHAMPION, PREVIOUS, RollbackConfig
from annotary.errors import RegistryError
from annotary.ledger import (
    DELETED,
    PROMOTED,
    RENAMED,
    ROLLED_BACK,
    Decision,
    Entry,
    LedgerError,
    read_entries,
)
from annotary.ledger_run import LEDGER_TAG, MODEL_TAG, RUN_TAG, list_planted, read_memory
from annotary.promotions import (
    append,
    catch_up,
    describe_hashes,
    note_outside_move_if_possible,
    read_anchored_ledger,
    read_ledger,
    settle,
)
from annotary.registry import get_version, list_aliases
from annotary.stages.rollback import rollback

NAME, TITLE = "annotator", "annotary-promotions/annotator"


def register(name: str = NAME, n_versions: int = 3) -> mlflow.MlflowClient:
    """Versions without files: the ledger does not look at them."""
    client = mlflow.MlflowClient()
    client.create_registered_model(name)
    for _ in range(n_versions):
        client.create_model_version(name, source="nowhere")
    return client


@pytest.fixture
def client(store, monkeypatch) -> mlflow.MlflowClient:
    monkeypatch.setattr(promotions, "_PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr("annotary.stages.rollback.fetch_checked", lambda version: None)
    return register()


def promote(after: str, name: str = NAME, **more: str) -> None:
    ledger = read_ledger(name)
    hashes = describe_hashes(get_version(name, after))
    decision = Decision(PROMOTED, ledger.champion, after, "a test", after, hashes=hashes | more)
    assert append(ledger, decision)
    settle(name)


def promote_without_identity(client, *numbers: str) -> None:
    """Promote as annotary did before entries and runs were bound."""
    for number in numbers:
        ledger = read_ledger(NAME)
        decision = Decision(PROMOTED, ledger.champion, number, "a test", number, hashes={"model": ""})
        assert append(ledger, decision)
        settle(NAME)
    unbind(client)
    client.delete_tag(read_ledger(NAME).run_id, MODEL_TAG)


def unbind(client) -> None:
    client.delete_registered_model_tag(NAME, RUN_TAG)


def plant(client, number: str, title: str = TITLE) -> str:
    """Make a run that says it is the ledger and that a version was promoted."""
    found = client.get_experiment_by_name(title)
    experiment_id = found.experiment_id if found else client.create_experiment(title)
    run = client.create_run(experiment_id, tags={LEDGER_TAG: NAME}, start_time=1)
    decision = Decision(PROMOTED, "", number, "a forgery", number)
    entry = Entry(1, "0" * 64, "2030-01-01T00:00:00+00:00", "somebody", "n", decision)
    client.log_param(run.info.run_id, "000001", entry.to_json())
    return run.info.run_id


def list_actions(name: str = NAME) -> list[str]:
    return [entry.decision.action for entry in read_ledger(name).entries]


def edit(store, statement: str, *values: str) -> None:
    with sqlite3.connect(store / "mlflow.db") as database:
        assert database.execute(statement, values).rowcount


def test_a_model_made_anew_does_not_inherit_the_promotions_of_the_one_before(client):
    promote("1")
    promote("2")
    before = read_ledger(NAME).run_id
    client.delete_registered_model(NAME)
    register()
    assert catch_up(NAME).champion == ""
    with pytest.raises(RegistryError, match="no champion yet"):
        rollback(RollbackConfig(model_name=NAME))
    assert CHAMPION not in list_aliases(NAME)
    promote("3")
    assert read_ledger(NAME).run_id != before
    assert list_actions() == [PROMOTED]
    assert len(mlflow.get_run(before).data.params) == 2, "the old history is as it was"


def test_a_model_made_anew_does_not_inherit_an_old_ledger_without_identities(client, store):
    promote_without_identity(client, "1", "2")
    edit(store, "UPDATE registered_models SET creation_time = creation_time + 3600000")
    edit(store, "UPDATE model_versions SET creation_time = creation_time + 3600000")
    client.delete_registered_model_tag(NAME, LEDGER_TAG)
    for alias in (CHAMPION, PREVIOUS):
        client.delete_registered_model_alias(NAME, alias)
    assert catch_up(NAME).champion == ""
    assert CHAMPION not in list_aliases(NAME)


def test_an_old_ledger_goes_on_and_is_bound(client):
    promote_without_identity(client, "1", "2")
    assert read_ledger(NAME).champion == "2"
    promote("3")
    assert read_memory(NAME).run_id == read_ledger(NAME).run_id
    assert [entry.decision.after for entry in read_ledger(NAME).entries] == ["1", "2", "3"]
    assert rollback(RollbackConfig(model_name=NAME)).number == "2"


@pytest.mark.full
@pytest.mark.parametrize(("deleted", "left"), [("3", "2"), ("2", "1")])
def test_a_deleted_version_is_noted_and_passed_over(client, deleted, left):
    for number in ("1", "2", "3"):
        promote(number)
    client.delete_model_version(NAME, deleted)
    ledger = catch_up(NAME)
    assert list_actions() == [PROMOTED] * 3 + [DELETED]
    assert (ledger.champion, ledger.lost_champion) == (("", "3") if deleted == "3" else ("3", ""))
    assert list_aliases(NAME)[PREVIOUS] == left
    catch_up(NAME)
    assert list_actions()[3:] == [DELETED], "it is noted once"
    assert rollback(RollbackConfig(model_name=NAME)).number == left
    assert list_aliases(NAME)[CHAMPION] == left
    assert list_actions()[4:] == [ROLLED_BACK]


def test_a_deleted_only_champion_leaves_none_and_the_next_can_be_promoted(client):
    promote("1")
    client.delete_model_version(NAME, "1")
    assert catch_up(NAME).champion == ""
    promote("2")
    assert list_aliases(NAME) == {CHAMPION: "2"}


def test_a_champion_deleted_before_the_next_one_s_alias_was_set_does_not_undo_the_promotion(client):
    promote("1")
    hashes = describe_hashes(get_version(NAME, "2"))
    assert append(read_ledger(NAME), Decision(PROMOTED, "1", "2", "a test", "2", hashes=hashes))
    client.delete_model_version(NAME, "1")
    assert catch_up(NAME).champion == "2"
    assert list_aliases(NAME) == {CHAMPION: "2"}


@pytest.mark.full
@pytest.mark.parametrize("is_old", [False, True])
def test_the_history_of_a_renamed_model_goes_on_and_says_so(client, is_old):
    if is_old:
        promote_without_identity(client, "1", "2")
    else:
        promote("1")
        promote("2")
    run_id = read_ledger(NAME).run_id
    client.rename_registered_model(NAME, "other")
    catch_up("other")
    promote("3", "other")
    ledger = read_ledger("other")
    assert ledger.run_id == run_id
    assert list_actions("other") == [PROMOTED, PROMOTED, RENAMED, PROMOTED]
    assert "'annotator' before" in ledger.entries[2].decision.reason
    register()
    promote("1")
    assert read_ledger(NAME).run_id != run_id, "a new model of the old name has a ledger of its own"
    assert list_actions() == [PROMOTED]


def test_a_ledger_planted_beside_the_real_one_is_not_read_and_told(client, caplog):
    promote("1")
    planted = plant(client, "3")
    assert catch_up(NAME).champion == "1"
    assert list_planted(read_ledger(NAME)) == [planted]
    assert f"run {planted} says that it is the promotion ledger" in caplog.text
    client.set_registered_model_tag(NAME, RUN_TAG, planted)
    with pytest.raises(LedgerError):
        read_ledger(NAME)


def test_a_ledger_planted_before_the_first_promotion_is_refused_with_the_remedy(client):
    planted = plant(client, "3")
    with pytest.raises(LedgerError, match=rf"run {planted}.*delete that run"):
        catch_up(NAME)
    client.delete_run(planted)
    promote("1")
    assert list_aliases(NAME)[CHAMPION] == "1"


def test_an_empty_experiment_of_the_ledger_s_name_is_no_ledger_and_no_obstacle(client):
    client.create_experiment(TITLE)
    promote("1")
    assert list_aliases(NAME)[CHAMPION] == "1"


@pytest.mark.parametrize("moment", ["before it looks for the run", "after it looked for the run"])
def test_two_first_promotions_at_once_meet_in_one_ledger(client, monkeypatch, moment):
    ours, rename, search = read_ledger(NAME), mlflow.MlflowClient.rename_experiment, ledger_run._search

    def rename_second(*arguments: str) -> None:
        monkeypatch.setattr(mlflow.MlflowClient, "rename_experiment", rename)
        ledger_run.make_run(read_memory(NAME))  # the other process
        rename(*arguments)

    def search_beside(*arguments: str, **named: str) -> list[Run]:
        monkeypatch.setattr(ledger_run, "_search", search)
        if moment.startswith("before"):
            promote("1")
        found = search(*arguments, **named)
        if moment.startswith("after"):
            promote("1")
        return found

    monkeypatch.setattr(mlflow.MlflowClient, "rename_experiment", rename_second)
    monkeypatch.setattr(ledger_run, "_search", search_beside)
    assert not append(ours, Decision(PROMOTED, "", "2", "a test", "2"))
    assert [entry.decision.after for entry in catch_up(NAME).entries] == ["1"]


def test_a_run_that_another_process_is_about_to_name_is_not_taken_for_the_ledger(client, monkeypatch):
    found = []

    def rename(*_: str) -> None:
        monkeypatch.undo()
        found.append(ledger_run.find_run(read_memory(NAME), {}))
        raise KeyboardInterrupt

    monkeypatch.setattr(mlflow.MlflowClient, "rename_experiment", rename)
    with pytest.raises(KeyboardInterrupt):
        ledger_run.make_run(read_memory(NAME))
    assert found == [None]


@pytest.mark.parametrize("trash", ["run", "experiment"])
def test_a_ledger_in_the_trash_names_the_command_that_brings_it_back(client, trash):
    promote("1")
    run = mlflow.get_run(read_ledger(NAME).run_id)
    if trash == "run":
        client.delete_run(run.info.run_id)
        command = f"mlflow runs restore --run-id {run.info.run_id}"
    else:
        client.delete_experiment(run.info.experiment_id)
        command = f"mlflow experiments restore --experiment-id {run.info.experiment_id}"
    with pytest.raises(LedgerError, match=command):
        read_ledger(NAME)


def drop_anchor(n_entries: int) -> None:
    """Have a run remember the ledger, as each run of score does."""
    with mlflow.start_run():
        note_outside_move_if_possible(NAME)
    assert find_anchors(read_memory(NAME).created)[0].mark.startswith(f"{n_entries}:")


def test_a_chain_cut_short_with_all_marks_that_the_model_has_is_noticed_by_the_runs(client, store, caplog):
    promote("1")
    promote("2")
    drop_anchor(2)
    edit(store, "DELETE FROM params WHERE key = '000002'")
    ledger_head = Entry(**_first(store)).hash
    client.set_registered_model_tag(NAME, LEDGER_TAG, f"1:{ledger_head}")
    assert read_ledger(NAME).champion == "1", "the chain alone does not show it"
    with pytest.raises(LedgerError, match=r"entry 2 needs the entry \w+ that run \w+ remembers"):
        read_anchored_ledger(NAME)
    with pytest.raises(LedgerError):
        catch_up(NAME)
    with mlflow.start_run():
        note_outside_move_if_possible(NAME)
    assert "could not be brought up to date" in caplog.text
    assert find_anchors(read_memory(NAME).created)[0].mark.startswith("2:"), "a short head is not remembered"


def _first(store) -> dict:
    with sqlite3.connect(store / "mlflow.db") as database:
        text = database.execute("SELECT value FROM params WHERE key = '000001'").fetchone()[0]
    entry = read_entries([(1, text)], place="")[0]
    return asdict(entry) | {"decision": entry.decision}


def test_a_ledger_made_anew_with_all_its_hashes_is_noticed_by_the_runs(client):
    promote("1")
    drop_anchor(1)
    planted = plant(client, "3")
    client.set_tag(planted, MODEL_TAG, read_memory(NAME).created)
    client.set_registered_model_tag(NAME, RUN_TAG, planted)
    client.delete_registered_model_tag(NAME, LEDGER_TAG)
    with pytest.raises(LedgerError, match="remembers"):
        catch_up(NAME)


def test_a_reason_in_another_script_is_shortened_until_the_entry_fits(client):
    decision = Decision(PROMOTED, "", "1", "細胞" * 700, "1", rules=[{"name": "x"}] * 7)
    assert append(read_ledger(NAME), decision)
    assert settle(NAME).entries[0].decision.reason.endswith(" ...")


def test_a_user_without_a_name_is_named_by_number(client, monkeypatch):
    def fail():
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME", raising=False)
    monkeypatch.setattr("getpass.getuser", fail)
    promote("1")
    assert read_ledger(NAME).entries[0].user.startswith("user ")
