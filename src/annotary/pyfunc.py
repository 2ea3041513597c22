"""The models-from-code entry that the registry stores: the same file for every model.

MLflow runs this file when it loads a version; the code beside the version's
files is a copy of annotary, so a version loads where annotary is not installed.
"""

from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from anndata import AnnData
from mlflow.pyfunc import PythonModel

from annotary.errors import ConfigError
from annotary.models.bundle import Bundle
from annotary.models.bundle_files import load_bundle
from annotary.scoring.annotate import CHUNK_SIZE, AnnotatedCells, annotate_file
from annotary.scoring.in_memory import annotate_adata, annotate_table

BUNDLE_ARTIFACT = "bundle"
PATH_COLUMN = "path"
CELL_COLUMNS = {
    "cell_id": str,
    "predicted_labels": str,
    "conf_score": float,
    "unassigned": bool,
    "low_information": bool,
    "ood": bool,
    "ood_score": float,
}
"""Columns of every result and their types; two more for each label follow."""
PARAMS: dict[str, Any] = {"batch_size": CHUNK_SIZE, "device": "auto", "counts_layer": "", "depth_key": ""}
"""What ``params`` may hold, and what is taken without it."""


class CellAnnotator(PythonModel):
    """A bundle behind MLflow's ``predict``.

    Attributes
    ----------
    bundle
        The model; in process, ``load_model(...).unwrap_python_model()`` has it: its ``annotate`` takes
        a count matrix and its genes.
    """

    bundle: Bundle

    def load_context(self, context: Any) -> None:
        """Read and check the bundle's files."""
        self.bundle = load_bundle(Path(context.artifacts[BUNDLE_ARTIFACT]))

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Annotate h5ad files, or a table of counts.

        Parameters
        ----------
        model_input
            Either the column ``path``, one h5ad file with raw counts a row; or raw counts, one row a cell
            and one column a gene, with cell ids as the index.
        params
            ``batch_size``, cells annotated at a time; ``device``; ``depth_key``, the column (of the file's
            obs, or of the table) with each cell's counts over all genes; ``counts_layer``, for files.

        Returns
        -------
        One row a cell: ``path`` where files were given, ``CELL_COLUMNS``, and for each label its
        probability and whether it is in the cell's prediction set.
        """
        options = _check_params(params)
        if PATH_COLUMN not in model_input:
            cells = annotate_table(
                self.bundle,
                model_input,
                depth_key=options["depth_key"],
                device=options["device"],
                chunk_size=options["batch_size"],
            )
            return _tabulate(cells)
        if model_input.empty:
            raise ConfigError(
                "input of predict",
                expected=f"at least one h5ad file in the column {PATH_COLUMN!r}",
                found="none",
                remedy="Pass one row a file.",
            )
        tables = []
        for path in model_input[PATH_COLUMN]:
            cells = annotate_file(
                self.bundle,
                Path(path),
                counts_layer=options["counts_layer"],
                depth_key=options["depth_key"],
                device=options["device"],
                chunk_size=options["batch_size"],
            )
            table = _tabulate(cells)
            table.insert(0, PATH_COLUMN, path)
            tables.append(table)
        return pd.concat(tables)

    def annotate(self, adata: AnnData, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Annotate an AnnData object in process, just as :meth:`predict` annotates its file."""
        options = _check_params(params)
        cells = annotate_adata(
            self.bundle,
            adata,
            counts_layer=options["counts_layer"],
            depth_key=options["depth_key"],
            device=options["device"],
            chunk_size=options["batch_size"],
        )
        return _tabulate(cells)


def name_columns(label_names: tuple[str, ...]) -> dict[str, type]:
    """Name the columns of a result without ``path``, with their types."""
    probabilities = {f"probability {name}": float for name in label_names}
    return CELL_COLUMNS | probabilities | {f"in_set {name}": bool for name in label_names}


def _check_params(params: dict[str, Any] | None) -> dict[str, Any]:
    """Complete the parameters."""
    options = PARAMS | (params or {})
    if options["batch_size"] < 1:
        raise ConfigError(
            "params of predict",
            expected="a batch_size of at least 1",
            found=str(options["batch_size"]),
            remedy=f"Leave it out to take {CHUNK_SIZE}.",
        )
    return options


def _tabulate(cells: AnnotatedCells) -> pd.DataFrame:
    """Lay an annotation out as a table, one row a cell."""
    found = cells.annotation
    columns = [
        cells.cell_ids.astype(str),
        cells.predicted_labels.astype(str),
        found.confidence,
        found.unassigned,
        found.low_information,
        found.ood,
        found.ood_score,
        *found.probabilities.T,
        *found.prediction_sets.T,
    ]
    return pd.DataFrame(dict(zip(name_columns(cells.label_names), columns, strict=True)))


mlflow.models.set_model(CellAnnotator())
