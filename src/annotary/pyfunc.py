"""The models-from-code entry that the registry stores: the same file for every model.

MLflow runs this file when it loads a version; the code beside the version's
files is a copy of annotary, so a version loads where annotary is not installed.
"""

from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.pyfunc import PythonModel

from annotary.errors import ConfigError
from annotary.models.bundle import Bundle, load_bundle
from annotary.scoring.annotate import annotate_file

BUNDLE_ARTIFACT = "bundle"
PATH_COLUMN = "path"
PARAMS = {"device": "auto", "counts_layer": "", "depth_key": ""}


class CellAnnotator(PythonModel):
    """A bundle behind MLflow's ``predict``.

    Attributes
    ----------
    bundle
        The model; in process, ``load_model(...).unwrap_python_model().bundle``
        annotates count matrices without a file.
    """

    bundle: Bundle

    def load_context(self, context: Any) -> None:
        """Read and check the bundle's files."""
        self.bundle = load_bundle(Path(context.artifacts[BUNDLE_ARTIFACT]))

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Annotate h5ad files.

        Parameters
        ----------
        model_input
            Column ``path``: one h5ad file with raw counts a row.
        params
            ``device``, ``counts_layer``, ``depth_key``, as in ``annotary score``.

        Returns
        -------
        One row a cell: ``path``, ``cell_id``, ``predicted_labels``, ``conf_score``, and one
        probability column a label.
        """
        if PATH_COLUMN not in model_input:
            raise ConfigError(
                "input of predict",
                expected=f"a column {PATH_COLUMN!r} with h5ad files",
                found=f"columns {', '.join(map(str, model_input.columns))}",
                remedy="Pass a DataFrame such as pandas.DataFrame({'path': ['cells.h5ad']}).",
            )
        options = PARAMS | (params or {})
        return pd.concat([self._annotate(path, options) for path in model_input[PATH_COLUMN]])

    def _annotate(self, path: str, options: dict[str, Any]) -> pd.DataFrame:
        """Annotate one file."""
        cells = annotate_file(
            self.bundle,
            Path(path),
            counts_layer=options["counts_layer"],
            depth_key=options["depth_key"],
            device=options["device"],
        )
        table = pd.DataFrame(
            {
                PATH_COLUMN: path,
                "cell_id": cells.cell_ids,
                "predicted_labels": cells.predicted_labels,
                "conf_score": cells.annotation.confidence,
            }
        )
        probabilities = pd.DataFrame(
            cells.annotation.probabilities, columns=[f"probability {name}" for name in cells.label_names]
        )
        return pd.concat([table, probabilities], axis=1)


mlflow.models.set_model(CellAnnotator())
