"""Where MLflow keeps a promotion ledger: the run with its entries, bound to one registered model.

The registered model remembers the id of that run, and the run the model by when it was
made, whatever its name. So a run planted beside it, or left by a deleted model of the same
name, is not taken for the ledger, and a renamed model keeps its own.
"""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass

import mlflow
from mlflow.entities import Run, ViewType
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE

from annotary.errors import RegistryError, summarize
from annotary.ledger import Entry, Ledger, LedgerError, check_mark, read_entries
from annotary.outage import refuse_outage

LEDGER_TAG = "annotary.ledger"
RUN_TAG = "annotary.ledger_run"
MODEL_TAG = "annotary.ledger_model"

_EXPERIMENTS = "annotary-promotions/"
_UNNAMED = "annotary-promotions.new/"
"""Experiments in which a ledger's run is made; not among those above, so that nobody takes it yet."""
_NOTE = (
    "The promotion ledger: each parameter is an entry, the oldest first, with the hash of the one before. "
    "`annotary ledger` prints it and checks the chain."
)
"""What MLflow's page of the run says."""
_MOST_INCARNATIONS = 1000
_MOST_EXPERIMENTS = 10_000


@dataclass(frozen=True)
class ModelMemory:
    """What a registered model remembers of its ledger.

    Attributes
    ----------
    name
        Its name now.
    created
        When it was made, milliseconds since 1970: tells it from another of the same name.
    mark
        ``NUMBER:HASH`` of the last entry whose aliases were set; empty for none.
    run_id
        Run that holds its ledger; empty while it has none, or one from before this was remembered.
    """

    name: str
    created: str
    mark: str
    run_id: str

    @property
    def place(self) -> str:
        """What an error names."""
        return f"promotion ledger of {self.name}"


def read_memory(name: str) -> ModelMemory:
    """Read what a registered model remembers.

    Raises
    ------
    RegistryError
        If there is no such model.
    """
    try:
        model = mlflow.MlflowClient().get_registered_model(name)
    except MlflowException as error:
        refuse_outage(error)
        raise RegistryError(
            f"registered model {name!r}",
            expected="to be in the registry",
            found=summarize(error),
            remedy=f"Check --model-name, and MLFLOW_TRACKING_URI (now {mlflow.get_registry_uri()}).",
        ) from error
    return ModelMemory(
        name=name,
        created=str(model.creation_timestamp),
        mark=str(model.tags.get(LEDGER_TAG, "")),
        run_id=str(model.tags.get(RUN_TAG, "")),
    )


def read_stored(run: Run | None, *, place: str) -> tuple[Entry, ...]:
    """Read the entries that a run holds and check their chain; none without a run."""
    stored = run.data.params if run else {}
    return read_entries(
        sorted((int(key), text) for key, text in stored.items() if key.isdigit()), place=place
    )


def find_run(model: ModelMemory, versions: Mapping[str, Mapping[str, str]]) -> Run | None:
    """Find the run that holds a registered model's entries; None if there is none yet.

    Parameters
    ----------
    model
        What it remembers.
    versions
        Its versions, as entries describe them.

    Raises
    ------
    LedgerError
        If the run is gone, or another one is there that the model knows nothing of.
    """
    if model.run_id:
        return _get_bound(model)
    if model.mark:
        return _find_by_mark(model)
    for run in filter(_is_active, _search(model.name)):
        made_for = run.data.tags.get(MODEL_TAG, "")
        if made_for == model.created and not _has_entries(run):
            return run
        if made_for in ("", model.created) and _speaks_of(run, versions):
            bound = read_memory(model.name).run_id  # another process may have bound it this moment
            if bound == run.info.run_id:
                return run
            raise _unbound(model, [run])
    return None


def bind(model: ModelMemory, run: Run) -> None:
    """Have model and run remember each other, if they do not yet."""
    client = mlflow.MlflowClient()
    if not run.data.tags.get(MODEL_TAG):
        client.set_tag(run.info.run_id, MODEL_TAG, model.created)
    if not model.run_id:
        client.set_registered_model_tag(model.name, RUN_TAG, run.info.run_id)


def make_run(model: ModelMemory) -> Run:
    """Make the run of a new ledger, or take the one that another process made first.

    The run is made in an experiment of a name of its own, which is then given
    the right one: MLflow lets only one process do that. Where that name is taken
    by something else (the ledger of a deleted model, an empty experiment), the next
    one in a fixed order is tried, so that processes meet at the same name.
    """
    client = mlflow.MlflowClient()
    experiment_id = client.create_experiment(f"{_UNNAMED}{uuid.uuid4().hex}")
    tags = {LEDGER_TAG: model.name, MODEL_TAG: model.created, MLFLOW_RUN_NOTE: _NOTE}
    run = client.create_run(experiment_id, tags=tags, run_name=f"promotions of {model.name}")
    client.set_terminated(run.info.run_id)
    for number in range(_MOST_INCARNATIONS):
        title = f"{_EXPERIMENTS}{model.name}" + (f"/{model.created}-{number}" if number else "")
        try:
            client.rename_experiment(experiment_id, title)
        except MlflowException as error:
            refuse_outage(error)
            if client.get_experiment_by_name(title) is None:
                raise
            first = _find_other(model, title)
            if first is None:
                continue
            client.delete_experiment(experiment_id)
            return first
        return client.get_run(run.info.run_id)
    raise LedgerError(
        model.place,
        expected=f"a free name for its experiment, {_EXPERIMENTS}{model.name}",
        found=f"{_MOST_INCARNATIONS} taken",
        remedy="Delete those that hold no ledger.",
    )


def take_name(run: Run, name: str) -> None:
    """Give a ledger and its experiment the new name of its registered model."""
    client = mlflow.MlflowClient()
    client.set_tag(run.info.run_id, LEDGER_TAG, name)
    try:
        client.rename_experiment(run.info.experiment_id, f"{_EXPERIMENTS}{name}")
    except MlflowException as error:  # the name is taken; the run is found by its id
        refuse_outage(error)


def list_planted(ledger: Ledger) -> list[str]:
    """List runs that claim to be the ledger of a registered model and are not."""
    others = [run for run in _search(ledger.name) if _has_entries(run) and _is_active(run)]
    mine = mlflow.MlflowClient().get_run(ledger.run_id).data.tags.get(MODEL_TAG, "") if ledger.run_id else ""
    return [
        run.info.run_id
        for run in others
        if run.info.run_id != ledger.run_id and run.data.tags.get(MODEL_TAG, "") in ("", mine)
    ]


def _get_bound(model: ModelMemory) -> Run:
    """Get the run that a model remembers."""
    try:
        run = mlflow.MlflowClient().get_run(model.run_id)
    except MlflowException as error:
        refuse_outage(error)
        raise LedgerError(
            model.place,
            expected=f"its run {model.run_id}, which the registered model remembers",
            found="none of this id",
            remedy="Restore the tracking store from its backup. Without one, begin a new history: "
            "annotary evaluate and promote with another --model-name.",
        ) from error
    return _refuse_deleted(_refuse_other(run, model), model)


def _refuse_other(run: Run, model: ModelMemory) -> Run:
    """Refuse a run that was made for another registered model."""
    if run.data.tags.get(MODEL_TAG, model.created) == model.created:
        return run
    raise LedgerError(
        model.place,
        expected=f"a run that was made for this registered model, {MODEL_TAG} = {model.created}",
        found=f"run {run.info.run_id} of another, {run.data.tags[MODEL_TAG]}",
        remedy=f"Somebody set the tag {RUN_TAG} of the registered model: set the right run.",
    )


def _refuse_deleted(run: Run, model: ModelMemory) -> Run:
    """Refuse a run in the trash, naming the command that brings it back."""
    experiment = mlflow.MlflowClient().get_experiment(run.info.experiment_id)
    commands = []
    if experiment.lifecycle_stage != "active":
        commands.append(f"mlflow experiments restore --experiment-id {run.info.experiment_id}")
    if run.info.lifecycle_stage != "active":
        commands.append(f"mlflow runs restore --run-id {run.info.run_id}")
    if not commands:
        return run
    raise LedgerError(
        model.place,
        expected=f"its run in the experiment {experiment.name!r}",
        found="it deleted",
        remedy=f"Restore it with {' and then, if it is still deleted, '.join(commands)}.",
    )


def _find_by_mark(model: ModelMemory) -> Run:
    """Find the run of a ledger from before runs were bound: it holds the entry that the model remembers."""
    number, _, wanted = model.mark.partition(":")
    runs = [run for run in _search() if run.data.tags.get(MODEL_TAG, model.created) == model.created]
    holding = [run for run in runs if number.isdigit() and _holds(run, int(number), wanted)]
    named = [run for run in holding if run.data.tags.get(LEDGER_TAG) == model.name]
    if len(named or holding) == 1:
        return _refuse_deleted((named or holding)[0], model)
    if holding:
        raise _unbound(model, holding)
    own = [run for run in runs if run.data.tags.get(LEDGER_TAG) == model.name]
    for run in own:
        check_mark(read_stored(run, place=model.place), model.mark, place=model.place)
    raise LedgerError(
        model.place,
        expected=f"its run in the experiment {_EXPERIMENTS}{model.name}, with entry {number}",
        found="none",
        remedy="Restore the tracking store from its backup. Without one, begin a new history: "
        "annotary evaluate and promote with another --model-name.",
    )


def _holds(run: Run, number: int, wanted: str) -> bool:
    """Tell whether a run's entry of a number has a hash."""
    try:
        return check_mark(read_stored(run, place=""), f"{number}:{wanted}", place="") == number
    except LedgerError:
        return False


def _speaks_of(run: Run, versions: Mapping[str, Mapping[str, str]]) -> bool:
    """Tell whether a run's entries say that versions which are there now were champion."""
    try:
        ledger = Ledger("", entries=read_stored(run, place=""), versions=versions)
    except LedgerError:
        return False
    moves = [entry for entry in ledger.entries if entry.decision.moves and entry.decision.after]
    return any(map(ledger.is_there, moves))


def _has_entries(run: Run) -> bool:
    """Tell whether a run holds entries."""
    return any(key.isdigit() for key in run.data.params)


def _is_active(run: Run) -> bool:
    """Tell whether a run is not in the trash."""
    return bool(run.info.lifecycle_stage == "active")


def _find_other(model: ModelMemory, title: str) -> Run | None:
    """Find the run that another process made for the same registered model in an experiment.

    The model is asked after the runs: whoever wrote an entry had bound the run to it before.
    """
    runs = filter(_is_active, _search(model.name, title=title))
    same = [run for run in runs if run.data.tags.get(MODEL_TAG) == model.created]
    bound = read_memory(model.name).run_id
    return next((run for run in same if run.info.run_id == bound or not _has_entries(run)), None)


def _search(name: str = "", *, title: str = "") -> list[Run]:
    """Search the runs that say they are a ledger, those in the trash too, oldest first."""
    client = mlflow.MlflowClient()
    experiments = client.search_experiments(
        view_type=ViewType.ALL,
        filter_string=f"name LIKE '{_EXPERIMENTS}%'",
        max_results=_MOST_EXPERIMENTS,
    )
    ids = [one.experiment_id for one in experiments if title in ("", one.name)]
    runs = client.search_runs(ids, run_view_type=ViewType.ALL, order_by=["attributes.start_time ASC"])
    return [
        run
        for run in runs
        if run.data.tags.get(LEDGER_TAG) == name or (not name and LEDGER_TAG in run.data.tags)
    ]


def _unbound(model: ModelMemory, runs: list[Run]) -> LedgerError:
    """Make the error of a ledger that the registered model knows nothing of."""
    found = ", ".join(run.info.run_id for run in runs)
    return LedgerError(
        model.place,
        expected=f"the registered model to remember its run, by the tag {RUN_TAG}",
        found=f"a ledger that it does not remember, run {found}",
        remedy="Somebody planted it or took the tag away: delete that run, or, if it is this model's own, "
        f"set the registered model's tag {RUN_TAG} to its id.",
    )
