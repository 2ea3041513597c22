"""How often each panel gene is found in a batch, beside the training cells."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from annotary.scoring.survey import Survey

LEAST_SHIFT = 0.2
"""A smaller difference of two shares of cells is none worth telling (0 to 1)."""
_LEAST_ERRORS = 4.0
"""Nor is one of fewer standard errors: of 10,000 genes, chance alone shifts less than one so far."""


@dataclass(frozen=True)
class GeneShift:
    """Detection of the panel genes that some file of the batch has.

    Attributes
    ----------
    table
        One row a gene, the furthest first: ``in_training`` and ``found``, shares of cells that express it;
        ``is_shifted``, whether they differ more than a little, and more than by chance.
    """

    table: pd.DataFrame

    @property
    def n_shifted(self) -> int:
        """Genes that are shifted."""
        return int(self.table["is_shifted"].sum())

    @property
    def share_shifted(self) -> float:
        """Their share of the genes, 0 to 1."""
        return self.n_shifted / max(len(self.table), 1)

    def list_shifted(self, most: int) -> list[str]:
        """List the genes that are shifted furthest."""
        return list(self.table.index[self.table["is_shifted"]][:most])


def compare_detection(survey: Survey, expected: np.ndarray, panel: tuple[str, ...]) -> GeneShift:
    """Compare how often genes are found.

    Parameters
    ----------
    survey
        The batch.
    expected
        Share of training cells that express each panel gene, ``(n_panel,)``.
    panel
        The genes, ``(n_panel,)``.
    """
    has_gene = survey.n_cells > 0
    found, expected = survey.detection[has_gene], expected[has_gene].astype(np.float64)
    middle = (found + expected) / 2
    errors = np.sqrt(middle * (1 - middle) / survey.n_cells[has_gene])
    shift = np.abs(found - expected)
    table = pd.DataFrame(
        {
            "in_training": expected,
            "found": found,
            "is_shifted": (shift >= LEAST_SHIFT) & (shift > _LEAST_ERRORS * errors),
        },
        index=pd.Index(np.array(panel, dtype=object)[has_gene], name="gene"),
    )
    return GeneShift(table=table.iloc[np.argsort(-shift, kind="stable")])
