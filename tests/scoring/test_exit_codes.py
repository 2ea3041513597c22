"""What the command line ends with and says, for other programs."""

import json
import sys
from pathlib import Path

import pytest

from annotary import cli
from annotary.errors import InputFileError
from annotary.scoring.batch import ScoredFile
from annotary.scoring.drift import LABELS_PSI, Drift, DriftFigure
from annotary.scoring.outcome import Outcome

KNOWN = ScoredFile("a.h5ad", "known", outputs=(Path("a.annotated.h5ad"),), details={"n_cells": 3})
WAITING = ScoredFile("w.h5ad", "waiting", reason="it changed a moment ago")
FAILED = ScoredFile(
    "b.h5ad",
    "failed",
    reason="b.h5ad needs counts",
    error=InputFileError("b.h5ad", expected="counts", found="none", remedy="Give counts."),
)
ALERT = Drift(figures=(DriftFigure(LABELS_PSI, 2.0, 0.2, 0.5),))


@pytest.mark.parametrize(
    ("files", "drift", "expected"),
    [
        ([KNOWN, WAITING], Drift(), 0),
        ([], Drift(), 0),
        ([FAILED], Drift(), 2),
        ([KNOWN, FAILED], ALERT, 3),
        ([KNOWN], ALERT, 4),
    ],
)
def test_the_exit_code_and_the_json_tell_what_became_of_the_files(
    files, drift, expected, monkeypatch, capsys
):
    outcome = Outcome(model="models:/m/1", run_id="r", files=files, drift=drift, fails_on_drift=True)

    def score(config, *, process=None):
        outcome.raise_failures(config.input)
        return outcome

    monkeypatch.setattr("annotary.stages.score.score", score)
    monkeypatch.setattr(sys, "argv", ["annotary", "score", "--input", "x"])
    if expected:
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == expected
    else:
        cli.main()
    said = capsys.readouterr()
    told = json.loads(said.out)
    assert told["exit_code"] == expected
    assert [one["status"] for one in told["files"]] == [one.status for one in files]
    if FAILED in files:
        assert "annotary: error: " in said.err
        assert "b.h5ad" in said.err
