"""How far two versions agree on the same cells."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from annotary import keys
from annotary.data.csv_text import unguard, unguard_table
from annotary.data.hdf5 import open_hdf5, read_element


@dataclass(frozen=True)
class Agreement:
    """Labels of two versions for the same cells.

    Attributes
    ----------
    pairs
        ``label``, ``shadow_label`` and ``cells``, most cells first, ``(n_pairs, 3)``.
    """

    pairs: pd.DataFrame

    @property
    def n_cells(self) -> int:
        """Cells that were compared."""
        return int(self.pairs["cells"].sum())

    @property
    def share(self) -> float:
        """Share of the cells with the same label from both, 0 to 1."""
        same = self.pairs["label"] == self.pairs["shadow_label"]
        return float(self.pairs.loc[same, "cells"].sum() / max(self.n_cells, 1))

    def tabulate(self) -> pd.DataFrame:
        """Give cells, and the share of them with another shadow label, of each label, ``(n_labels, 2)``."""
        differs = self.pairs["label"] != self.pairs["shadow_label"]
        cells = self.pairs.groupby("label")["cells"].sum()
        other = self.pairs[differs].groupby("label")["cells"].sum().reindex(cells.index, fill_value=0)
        return pd.DataFrame({"cells": cells, "disagreement": other / cells})


def compare_labels(labels: list[np.ndarray], shadow_labels: list[np.ndarray]) -> Agreement:
    """Compare the labels of files, one array ``(n_cells,)`` a file, in the same order of files and cells."""
    table = pd.DataFrame({"label": np.concatenate(labels), "shadow_label": np.concatenate(shadow_labels)})
    counts = table.value_counts(sort=True).rename("cells").reset_index()
    return Agreement(pairs=counts.astype({"label": str, "shadow_label": str}))


def read_labels(output: Path, prefix: str = "") -> np.ndarray:
    """Read the predicted labels of an annotated file or table, ``(n_cells,)``, as text."""
    name = f"{prefix}{keys.PREDICTED_LABELS}"
    if output.suffix == ".parquet":
        column = pd.read_parquet(output, columns=[name])[name]
    elif output.suffix == ".csv":
        table = pd.read_csv(
            output, usecols=lambda column: unguard(column) == name, dtype=str, keep_default_na=False
        )
        column = unguard_table(table)[name]
    else:
        with open_hdf5(output) as file:
            column = pd.Series(read_element(file["obs"][name], path=output))
    return column.astype(str).to_numpy()
