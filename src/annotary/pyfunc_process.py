"""Predict with a registered version in a process of its own, by the code that it brings.

    python -P pyfunc_process.py MODEL_URI CELLS.h5ad TABLE.csv PARAMS_AS_JSON

Two versions in one process share the code that was loaded first, so a version
that an older annotary registered must answer elsewhere. Nothing of annotary may
be imported here: MLflow finds the version's own copy only if none is there yet.
"""

import json
import sys

import mlflow
import pandas as pd


def main(uri: str, cells: str, target: str, params: str) -> None:
    """Write the version's table for a file; parameters that the version does not know are left out."""
    model = mlflow.pyfunc.load_model(uri)
    schema = model.metadata.get_params_schema()
    known = {param.name for param in schema.params} if schema else set()
    values = {name: value for name, value in json.loads(params).items() if name in known}
    model.predict(pd.DataFrame({"path": [cells]}), params=values).to_csv(target, index=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
