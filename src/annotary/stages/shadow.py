"""Scoring with another version beside the champion, in a process of its own, for comparison only."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from annotary.config import ScoreConfig
from annotary.log import say, warn
from annotary.registry import RegisteredVersion, find_alias, tag_version
from annotary.scoring.agreement import Agreement, compare_labels, read_labels
from annotary.scoring.outcome import Outcome
from annotary.tracking import StageRun

SHADOW_TAG = "annotary.shadow"
AGREEMENT_TAG = "shadow_agreement"

# Options that decide what a file's cells look like; the others only decide what is written.
_SAME = ("model_name", "counts_layer", "depth_key", "device", "chunk_size")


def score_shadow(config: ScoreConfig, outcome: Outcome, run: StageRun) -> Agreement | None:
    """Score the files that were annotated now with the shadow's version too, and log how far both agree.

    Nothing of it is written to the outputs, and nothing that goes wrong with it fails the run.

    Returns
    -------
    The comparison; None where there is nothing to compare.
    """
    new = {one.source: one for one in outcome.files if one.status == "annotated"}
    version = find_alias(config.model_name, config.shadow)
    if version is None or version.uri == outcome.model:
        say(f"no shadow: the alias {config.shadow} is {'not there' if version is None else outcome.model}")
        return None
    if not new:
        return None
    with tempfile.TemporaryDirectory(prefix="annotary-shadow-") as name:
        outputs = _run(config, [one.spelled or source for source, one in new.items()], Path(name))
        both = [source for source in new if source in outputs]
        if not both:
            return None
        agreement = compare_labels(
            [read_labels(new[source].target, config.prefix) for source in both],
            [read_labels(outputs[source]) for source in both],
        )
    _record(run, version, agreement, n_missing=len(new) - len(both))
    return agreement


def _run(config: ScoreConfig, sources: list[str], folder: Path) -> dict[str, Path]:
    """Score files into a folder by a process of its own: two versions share one process's code and memory.

    Returns
    -------
    Table of each file that could be scored.
    """
    listed = folder / "inputs.txt"
    listed.write_bytes(os.fsencode("\n".join(sources) + "\n"))
    options = {name: str(getattr(config, name)) for name in _SAME}
    options |= {"input": str(listed), "output": str(folder / "out"), "alias": config.shadow, "form": "table"}
    command = [sys.executable, "-m", "annotary", "score"]
    command += [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", value)]
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_RUN_ID"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if not lines:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        warn(f"the shadow {config.shadow} did not run: {last}")
        return {}
    files = json.loads(lines[-1])["files"]
    return {one["source"]: Path(one["outputs"][0]) for one in files if one["outputs"]}


def _record(run: StageRun, version: RegisteredVersion, agreement: Agreement, *, n_missing: int) -> None:
    """Say and log how far both agree; the figure is a tag of the version too, for who promotes it."""
    say(f"shadow {version.uri}: the same label for {agreement.share:.1%} of {agreement.n_cells} cells")
    if n_missing:
        warn(f"shadow {version.uri}: {n_missing} files could not be scored with it")
    run.set_tags({SHADOW_TAG: version.uri})
    run.log_metrics({AGREEMENT_TAG: agreement.share, "shadow_cells": float(agreement.n_cells)})
    run.log_table(agreement.pairs, "shadow_pairs", index=False)
    run.log_table(agreement.tabulate(), "shadow_labels")
    tag_version(version, {AGREEMENT_TAG: f"{agreement.share:.4f}"})
