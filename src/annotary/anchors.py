"""Where else the promotion ledger's head is remembered: every run that promotes, rolls back or scores.

The ledger's chain shows each change but not that its end was cut off, or that all of it
was replaced. So each such run keeps the head that it found, as parameters, which MLflow
writes once; an annotated file's record keeps it too.
"""

from dataclasses import dataclass

import mlflow
from mlflow.entities import ViewType
from mlflow.exceptions import MlflowException

from annotary.ledger import Ledger, check_mark
from annotary.outage import refuse_outage

HEAD_PARAM = "annotary.ledger_head"
MODEL_PARAM = "annotary.ledger_model"

_NEWEST = 20
_MOST_EXPERIMENTS = 10_000


@dataclass(frozen=True)
class Anchor:
    """A head of the ledger that a run remembers.

    Attributes
    ----------
    run_id
        The run.
    mark
        ``NUMBER:HASH``.
    """

    run_id: str
    mark: str


def drop_anchor(ledger: Ledger, created: str) -> None:
    """Have the active run remember the ledger's head; once, and where there is one.

    Parameters
    ----------
    created
        When the registered model was made, which tells it from others whatever its name.
    """
    run = mlflow.active_run()
    if run is None or not ledger.mark or HEAD_PARAM in run.data.params:
        return
    try:
        mlflow.log_params({MODEL_PARAM: created, HEAD_PARAM: ledger.mark})
    except MlflowException as error:  # it remembers an earlier one
        refuse_outage(error)


def recall_head(run_id: str) -> str:
    """Give the head of the ledger that a run remembers, ``NUMBER:HASH``; empty for none."""
    return str(mlflow.MlflowClient().get_run(run_id).data.params.get(HEAD_PARAM, ""))


def find_anchors(created: str) -> list[Anchor]:
    """Find the heads that the newest runs remember of a registered model's ledger.

    To be called before the ledger is read: a run that goes on meanwhile may know more.
    """
    client = mlflow.MlflowClient()
    experiments = client.search_experiments(view_type=ViewType.ALL, max_results=_MOST_EXPERIMENTS)
    runs = client.search_runs(
        [one.experiment_id for one in experiments],
        filter_string=f"params.`{MODEL_PARAM}` = '{created}'",
        run_view_type=ViewType.ALL,
        order_by=["attributes.start_time DESC"],
        max_results=_NEWEST,
    )
    return [Anchor(run.info.run_id, run.data.params.get(HEAD_PARAM, "")) for run in runs]


def check_anchors(ledger: Ledger, anchors: list[Anchor]) -> None:
    """Check that the ledger holds every entry that runs remember as its last.

    Raises
    ------
    LedgerError
        Naming the first run that remembers another.
    """
    for anchor in anchors:
        check_mark(
            ledger.entries,
            anchor.mark,
            place=f"promotion ledger of {ledger.name}",
            witness=f"run {anchor.run_id} remembers",
        )
