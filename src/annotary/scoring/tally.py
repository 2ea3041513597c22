"""What the cells of files add up to, in figures whose size does not grow with the files."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from annotary.models.profile import count_confidence
from annotary.scoring.annotate import AnnotatedCells


@dataclass(frozen=True)
class Tally:
    """Counts over cells.

    Attributes
    ----------
    label_names
        Labels of the model, ``(n_classes,)``.
    label_counts
        Cells that were given each label, ``(n_classes,)``.
    confidence
        Cells in each bin of confidence, ``(N_BINS,)``.
    n_low_information
        Cells with fewer expressed panel genes than any training cell.
    n_unassigned
        Cells whose label is too unsure.
    n_ood
        Cells out of distribution.
    """

    label_names: tuple[str, ...]
    label_counts: tuple[int, ...]
    confidence: tuple[int, ...]
    n_low_information: int
    n_unassigned: int
    n_ood: int

    @classmethod
    def count(cls, cells: AnnotatedCells) -> Self:
        """Count the cells of one file."""
        return cls(
            label_names=tuple(cells.label_names),
            label_counts=tuple(
                np.bincount(cells.annotation.codes, minlength=len(cells.label_names)).tolist()
            ),
            confidence=tuple(count_confidence(cells.annotation.confidence).tolist()),
            n_low_information=int(cells.annotation.low_information.sum()),
            n_unassigned=int(cells.annotation.unassigned.sum()),
            n_ood=int(cells.annotation.ood.sum()),
        )

    @classmethod
    def add(cls, tallies: Iterable[Self]) -> Self | None:
        """Add up the files of one model; None where there is none."""
        every = list(tallies)
        if not every:
            return None
        return cls(
            label_names=every[0].label_names,
            label_counts=tuple(np.sum([one.label_counts for one in every], axis=0).tolist()),
            confidence=tuple(np.sum([one.confidence for one in every], axis=0).tolist()),
            n_low_information=sum(one.n_low_information for one in every),
            n_unassigned=sum(one.n_unassigned for one in every),
            n_ood=sum(one.n_ood for one in every),
        )

    @property
    def n_cells(self) -> int:
        """Cells in all."""
        return sum(self.label_counts)

    @property
    def label_shares(self) -> dict[str, float]:
        """Share of each label, 0 to 1."""
        return {
            name: count / max(self.n_cells, 1)
            for name, count in zip(self.label_names, self.label_counts, strict=True)
        }

    def to_details(self) -> dict[str, Any]:
        """Give the counts as JSON holds them."""
        return {
            "labels": dict(zip(self.label_names, self.label_counts, strict=True)),
            "confidence_bins": list(self.confidence),
            "n_low_information": self.n_low_information,
            "n_unassigned": self.n_unassigned,
            "n_ood": self.n_ood,
        }

    @classmethod
    def from_details(cls, details: dict[str, Any]) -> Self | None:
        """Read what :meth:`to_details` gave; None where it is not there."""
        if "labels" not in details or "confidence_bins" not in details:
            return None
        return cls(
            label_names=tuple(details["labels"]),
            label_counts=tuple(details["labels"].values()),
            confidence=tuple(details["confidence_bins"]),
            n_low_information=details["n_low_information"],
            n_unassigned=details["n_unassigned"],
            n_ood=details["n_ood"],
        )
