"""Logged models, which may become versions: those there are, and what MLflow keeps of them."""

from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

from annotary import pyfunc
from annotary.errors import RegistryError
from annotary.models.bundle import Bundle
from annotary.outage import refuse_outage
from annotary.tracking import DATASET_HASH_TAG, KIND_TAG

CONTENTS_HASH_TAG = "annotary.contents_hash"

_BASE_REQUIREMENTS = ("mlflow", "anndata", "h5py", "numpy", "pandas", "safetensors", "scipy", "tqdm")
_NETWORK_REQUIREMENTS = ("torch", "einops")
_NETWORK_KINDS = ("transformer", "ensemble")


@dataclass(frozen=True)
class Candidate:
    """A logged model that may become a version.

    Attributes
    ----------
    model_id
        MLflow's id of the logged model.
    kind
        Model family.
    run_id
        Run that trained it.
    """

    model_id: str
    kind: str
    run_id: str

    @property
    def uri(self) -> str:
        """Address for :func:`load`."""
        return f"models:/{self.model_id}"


def make_signature(bundle: Bundle) -> ModelSignature:
    """Describe what ``predict`` takes and gives.

    The input has no schema: MLflow drops the columns that a schema does not name, but a table of counts
    needs all its genes, of the panel or not, for the depth of its cells.
    """
    types = {str: DataType.string, float: DataType.float, bool: DataType.boolean, int: DataType.long}
    columns = [ColSpec(types[kind], name) for name, kind in pyfunc.name_columns(bundle.label_names).items()]
    params = [ParamSpec(name, types[type(default)], default) for name, default in pyfunc.PARAMS.items()]
    return ModelSignature(
        outputs=Schema([ColSpec(DataType.string, pyfunc.PATH_COLUMN, required=False), *columns]),
        params=ParamSchema(params),
    )


def list_requirements(kind: str) -> list[str]:
    """List what a model needs to predict, in the versions that trained it."""
    names = _BASE_REQUIREMENTS + (_NETWORK_REQUIREMENTS if kind in _NETWORK_KINDS else ())
    return [f"{name}=={version(name).split('+')[0]}" for name in names]


def get_logged_tags(model_id: str) -> dict[str, str]:
    """Get the tags of a logged model; none where it is gone."""
    try:
        return dict(mlflow.get_logged_model(model_id).tags) if model_id else {}
    except MlflowException as error:
        refuse_outage(error)
        return {}


def read_measured(model_id: str, run_id: str) -> dict[str, float]:
    """Read the figures that a run logged of a logged model, by name; none where one of them is gone."""
    try:
        found = (mlflow.get_logged_model(model_id).metrics or []) if model_id else []
    except MlflowException as error:
        refuse_outage(error)
        return {}
    return {one.key: one.value for one in found if one.run_id == run_id}


def get_run_tags(run_id: str) -> dict[str, str]:
    """Get the tags of a run; none where it is gone."""
    try:
        return dict(mlflow.MlflowClient().get_run(run_id).data.tags)
    except MlflowException as error:
        refuse_outage(error)
        return {}


def find_candidates(dataset_hash: str) -> list[Candidate]:
    """Find every model of the current experiment that was trained on a dataset, oldest first.

    Workers of one study each log its best model: of models that say the same of cells, the oldest is taken.
    """
    run = mlflow.active_run()
    models = mlflow.search_logged_models(
        experiment_ids=[run.info.experiment_id] if run else None,
        filter_string=f"tags.`{DATASET_HASH_TAG}` = '{dataset_hash}'",
        order_by=[{"field_name": "creation_time", "ascending": True}],
        output_format="list",
    )
    different: dict[str, Any] = {}
    for model in models:
        different.setdefault(model.tags.get(CONTENTS_HASH_TAG, model.model_id), model)
    return [_to_candidate(model) for model in different.values()]


def get_candidate(model_id: str) -> Candidate:
    """Get one logged model.

    Raises
    ------
    RegistryError
        If there is none of this id, or annotary did not log it.
    """
    try:
        model = mlflow.get_logged_model(model_id)
    except MlflowException as error:
        refuse_outage(error)
        raise RegistryError(
            f"candidate {model_id!r}",
            expected="to be the id of a logged model",
            found="none of this id",
            remedy="Take the ids that baselines and transformer print, or leave --candidates empty.",
        ) from error
    return _to_candidate(model)


def get_candidates(model_ids: str) -> list[Candidate]:
    """Get the logged models of ids with commas between them; none for an empty text."""
    return [get_candidate(model_id.strip()) for model_id in model_ids.split(",") if model_id.strip()]


def _to_candidate(model: Any) -> Candidate:
    """Read kind and run of a logged model."""
    return Candidate(
        model_id=model.model_id, kind=model.tags.get(KIND_TAG, model.name), run_id=model.source_run_id
    )


def log_model_metrics(candidate: Candidate, metrics: dict[str, float], dataset: Any) -> None:
    """Link metrics to a logged model and the dataset they were measured on."""
    mlflow.log_metrics(
        {f"{candidate.kind}.{name}": value for name, value in metrics.items()},
        model_id=candidate.model_id,
        dataset=dataset,
    )
