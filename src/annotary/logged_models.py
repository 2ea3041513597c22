"""What MLflow keeps of a logged model besides its bundle: signature, requirements, tags, figures."""

from importlib.metadata import version

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

from annotary import pyfunc
from annotary.models.bundle import Bundle
from annotary.outage import refuse_outage

_BASE_REQUIREMENTS = ("mlflow", "anndata", "h5py", "numpy", "pandas", "safetensors", "scipy", "tqdm")
_NETWORK_REQUIREMENTS = ("torch", "einops")
_NETWORK_KINDS = ("transformer", "ensemble")


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
