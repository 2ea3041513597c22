"""What a run of scoring came to: its files, its figures, its exit code."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from annotary.config import ScoreConfig
from annotary.data.hashing import hash_file, hash_strings
from annotary.errors import AnnotaryError
from annotary.scoring.batch import ScoredFile
from annotary.scoring.drift import Drift, Reference
from annotary.scoring.survey import Survey
from annotary.scoring.tally import Tally

NONE_WENT, SOME_FAILED, HAS_DRIFTED, UNRECORDED = 2, 3, 4, 5

POOR_QUALITY = "cells_poor_quality"
_MOST_GENES = 10

# Settings that change what is written; the others only change where and how fast.
_DECISIVE = (
    "counts_layer",
    "depth_key",
    "form",
    "table_format",
    "prefix",
    "majority_voting",
    "cluster_key",
    "min_prop",
)


class BatchError(AnnotaryError):
    """Files that could not be annotated; exit code 2 where none could be, 3 where others could.

    Attributes
    ----------
    outcome
        What the run came to.
    """

    def __init__(self, place: object, *, expected: str, found: str, remedy: str, outcome: "Outcome") -> None:
        super().__init__(place, expected=expected, found=found, remedy=remedy)
        self.outcome = outcome
        self.exit_code = outcome.exit_code


@dataclass(frozen=True)
class Outcome:
    """What a run came to.

    Attributes
    ----------
    model
        Address of the version.
    run_id
        MLflow run.
    files
        What became of each input.
    reference
        What is known of the training cells.
    drift
        How far the cells that were annotated now are from the training cells.
    survey
        Which genes they express, and some of them; None where no cell was annotated.
    fails_on_drift
        Whether drift decides the exit code.
    is_recorded
        Whether MLflow was told all this.
    """

    model: str
    run_id: str
    files: list[ScoredFile]
    reference: Reference = field(default_factory=Reference)
    drift: Drift = field(default_factory=Drift)
    survey: Survey | None = None
    fails_on_drift: bool = False
    is_recorded: bool = True

    @property
    def annotated(self) -> list[ScoredFile]:
        """Files that have an annotation, from this run or an earlier one."""
        return [one for one in self.files if one.outputs]

    @property
    def failed(self) -> list[ScoredFile]:
        """Files that could not be annotated."""
        return [one for one in self.files if one.status == "failed"]

    @property
    def exit_code(self) -> int:
        """0 if all is well, 2 if no file could be annotated, 3 if some could not, 4 drift, 5 unrecorded."""
        if self.failed:
            return SOME_FAILED if self.annotated else NONE_WENT
        if self.fails_on_drift and self.drift.level == "alert":
            return HAS_DRIFTED
        return 0 if self.is_recorded else UNRECORDED

    @property
    def tally(self) -> Tally | None:
        """Labels and confidence of the cells that were annotated now."""
        new = [one.tally for one in self.files if one.status == "annotated"]
        return Tally.add(one for one in new if one is not None)

    def count(self, status: str) -> int:
        """Count the files of a status."""
        return sum(one.status == status for one in self.files)

    def measure(self) -> dict[str, float]:
        """Give the run's figures."""
        new = [one for one in self.files if one.status == "annotated"]
        n_cells, seconds = sum(one.n_cells for one in new), sum(one.seconds for one in new)
        figures = {
            "files_annotated": float(len(new)),
            "files_known": float(self.count("known")),
            "files_waiting": float(self.count("waiting")),
            "files_refused": float(len(self.failed)),
            "cells_annotated": float(n_cells),
            "cells_per_second": n_cells / seconds if seconds else 0.0,
        }
        drift = {figure.name: figure.value for figure in self.drift.figures}
        figures |= {f"drift.{name}": value for name, value in drift.items() if value is not None}
        if self.drift.genes:
            figures["genes_shifted"] = float(self.drift.genes.n_shifted)
        poor = [one.details["n_poor_quality"] for one in new if "n_poor_quality" in one.details]
        if poor:
            figures[POOR_QUALITY] = float(sum(poor))
        if n_cells:
            sums = sum(one.details["mean_confidence"] * one.n_cells for one in new)
            figures["mean_confidence"] = sums / n_cells
        return figures

    def tabulate(self) -> pd.DataFrame:
        """Make a table of the files, one a row."""
        table = pd.DataFrame([_describe(one) for one in self.files])
        return table.drop(columns="labels", errors="ignore")

    def to_json(self) -> str:
        """Write as one line of JSON, for other programs."""
        return json.dumps(
            {
                "model": self.model,
                "run_id": self.run_id,
                "exit_code": self.exit_code,
                "figures": self.measure(),
                "drift": self.drift.level,
                "genes_shifted": self.drift.genes.list_shifted(_MOST_GENES) if self.drift.genes else [],
                "files": [_describe(one) for one in self.files],
            }
        )

    def raise_failures(self, place: str) -> None:
        """Raise an error where files failed.

        Raises
        ------
        BatchError
            With the only file's error, or one that counts them.
        """
        if not self.failed:
            return
        errors = [one.error for one in self.failed if one.error]
        if len(self.files) == 1:
            [error] = errors
            raise BatchError(
                error.place,
                expected=error.expected,
                found=error.found,
                remedy=error.remedy,
                outcome=self,
            ) from error
        raise BatchError(
            place,
            expected="files that can all be annotated",
            found=f"{len(self.failed)} of {len(self.files)} that cannot (named above), "
            f"such as {errors[0].place}",
            remedy=f"The other {len(self.files) - len(self.failed)} were annotated or wait.",
            outcome=self,
        )


def make_key(model: Sequence[str], config: ScoreConfig) -> str:
    """Hash the version and the settings that decide what is written.

    Parameters
    ----------
    model
        Registered name, version, and the id of the run that trained it, which tells two registries apart.
    config
        Settings.
    """
    values = config.model_dump()
    terms = hash_file(Path(config.ontology)) if config.ontology else ""
    return hash_strings([*model, *(f"{name}={values[name]}" for name in _DECISIVE), terms])[:16]


def _describe(one: ScoredFile) -> dict[str, Any]:
    """Describe a file as tables and JSON hold it."""
    return {
        "source": one.source,
        "status": one.status,
        "outputs": [str(output) for output in one.outputs],
        **{name: value for name, value in one.details.items() if name not in ("confidence_bins", "outputs")},
        "seconds": round(one.seconds, 3),
        "reason": one.reason,
    }
