"""How long each stage of the main job takes, and what its models reach.

    python benchmarks/main_job.py [--data FILE ...] [--out benchmarks/main_job.csv]

Runs the main job once on the embedded data and once on each file (labels in
``obs["cell_type"]``), each in a process and a tracking store of its own, prints
the table, and writes it as the CSV that README.md's table is made of.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import mlflow
import pandas as pd

STAGES = ("preprocess", "baselines", "transformer", "ensemble", "evaluate", "promote", "score")
KINDS = ("logistic_regression", "random_forest", "transformer", "ensemble")
FIGURES = ("macro_f1", "accuracy")


def run_main(data: Path | None, folder: Path) -> dict[str, object]:
    """Run the main job in a new process and read its figures out of MLflow."""
    address = f"sqlite:///{folder / 'mlflow.db'}"
    command = [sys.executable, "-m", "annotary", "main", "--output", str(folder / "out")]
    if data:
        command += ["--input", str(data.resolve())]
    subprocess.run(command, check=True, cwd=folder, env=os.environ | {"MLFLOW_TRACKING_URI": address})
    mlflow.set_tracking_uri(address)
    runs = mlflow.search_runs(search_all_experiments=True).set_index("tags.annotary.stage")
    row: dict[str, object] = {
        "data": data.name if data else "embedded (pbmc68k_reduced)",
        "cells": int(runs.loc["preprocess", "metrics.cells_read"]),
        "total_s": runs.loc["main", "metrics.stage_seconds"],
    }
    row |= {f"{stage}_s": runs.loc[stage, "metrics.stage_seconds"] for stage in STAGES}
    for kind in KINDS:
        row |= {f"{kind} {figure}": runs.loc["evaluate", f"metrics.{kind}.{figure}"] for figure in FIGURES}
    return row


def make_markdown(table: pd.DataFrame) -> str:
    """Write the table as README.md shows it: one column for each data set."""
    seconds = {"total_s": "whole job", **{f"{stage}_s": stage for stage in STAGES}}
    lines = ["| | " + " | ".join(table["data"]) + " |", "|---" * (len(table) + 1) + "|"]
    lines.append("| cells | " + " | ".join(f"{cells:,}" for cells in table["cells"]) + " |")
    for column, title in seconds.items():
        lines.append(f"| {title}, seconds | " + " | ".join(f"{value:.0f}" for value in table[column]) + " |")
    for kind in KINDS:
        pairs = zip(table[f"{kind} macro_f1"], table[f"{kind} accuracy"], strict=True)
        cells = " | ".join(f"{macro_f1:.3f} / {accuracy:.3f}" for macro_f1, accuracy in pairs)
        lines.append(f"| {kind.replace('_', ' ')}, macro-F1 / accuracy | {cells} |")
    return "\n".join(lines)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="*", default=[])
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".csv"))
    options = parser.parse_args()
    rows = []
    for data in [None, *options.data]:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(run_main(data, Path(folder)))
    table = pd.DataFrame(rows)
    table.to_csv(options.out, index=False, float_format="%.4f")
    print(make_markdown(table))
    print(json.dumps({"python": sys.version.split()[0], "cpus": os.cpu_count()}))


if __name__ == "__main__":
    main()
