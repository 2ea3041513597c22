"""The annotation as a table of its own, one row a cell."""

import json
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from annotary import keys
from annotary.data.csv_text import write_csv
from annotary.scoring.annotate import AnnotatedCells
from annotary.scoring.outputs import list_columns

TABLE_SUFFIXES = {"parquet": ".annotated.parquet", "csv": ".annotated.csv"}
CELL_ID = "cell_id"


def make_table(cells: AnnotatedCells, prefix: str = "") -> pd.DataFrame:
    """Make the table: ids, the columns of an annotated file, and those of each label."""
    probabilities = {
        f"probability {name}": cells.annotation.probabilities[:, column]
        for column, name in enumerate(cells.label_names)
    }
    sets = {
        f"in_set {name}": cells.annotation.prediction_sets[:, column]
        for column, name in enumerate(cells.label_names)
    }
    columns = list_columns(cells, prefix)
    return pd.DataFrame({CELL_ID: cells.cell_ids.astype(str), **columns, **probabilities, **sets})


def write_table(
    path: Path, cells: AnnotatedCells, record: Mapping[str, object], *, kind: str, prefix: str = ""
) -> None:
    """Write the table; a parquet file also holds the record, as the metadata ``annotary``.

    Parameters
    ----------
    path
        File to write.
    cells
        The annotation.
    record
        Where it comes from, as :func:`annotary.scoring.outputs.describe` gives it.
    kind
        ``parquet`` or ``csv``.
    prefix
        Put before the name of every column of the annotation.
    """
    table = make_table(cells, prefix)
    if kind == "csv":
        write_csv(table, path, index=False)
        return
    import pyarrow
    import pyarrow.parquet

    arrow = pyarrow.Table.from_pandas(table, preserve_index=False)
    about = {keys.RECORD.encode(): json.dumps(dict(record), default=list).encode()}
    arrow = arrow.replace_schema_metadata((arrow.schema.metadata or {}) | about)
    pyarrow.parquet.write_table(arrow, path)


def read_table_record(path: Path) -> dict[str, object]:
    """Read the record of a parquet file; an empty one where there is none."""
    import pyarrow.parquet

    about = (pyarrow.parquet.read_schema(path).metadata or {}).get(keys.RECORD.encode())
    record: dict[str, object] = json.loads(about) if about else {}
    return record
