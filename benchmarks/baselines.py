"""How long our fit of the notebook's models takes, beside the notebook's own way and CellTypist's training.

    python benchmarks/baselines.py [--data FILE ...] [--cells 20000] [--genes 30000] [--repeats 3]
        [--peer-repeats 1] [--folder FOLDER] [--out benchmarks/baselines.csv]

On each file (labels in ``obs["cell_type"]``) and on a simulated one (``simulated_counts.py``), the same four
fifths of the cells are trained on and the others labelled (``train_once.py``), each model in a process of its
own (the simulated labels are about as hard to tell apart as real ones):

- annotary: the hyperparameters of the notebook's grid on 1,200 highly variable genes, cross-validated in
  three folds that choose their own genes, then fitted to all training cells; sparse throughout. This is what
  ``annotary baselines --n-trials 1`` does. With two trials the second one's hyperparameters, on all genes,
  are cross-validated too, and the better of the two is fitted;
- the notebook that this project grew from: scikit-learn's GridSearchCV in three folds on the dense array of
  as many genes;
- CellTypist: SGD training with feature selection, on all genes. Left out where it is not installed
  (``pip install celltypist==1.7.1``).

Seconds are those of training and labelling, median over the repeats; whole seconds are those of the process,
imports and reading among them; peak memory is that of the process and its children (``processes.py``).
"""

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from accuracy_comparison import draw_difference
from accuracy_models import SEED
from processes import measure

from annotary.evaluation.bootstrap import find_interval

HERE = Path(__file__).parent
OURS = (
    "annotary logistic regression",
    "annotary logistic regression, two trials",
    "annotary random forest",
)
NOTEBOOK = ("notebook logistic regression", "notebook random forest")
CELLTYPIST = "CellTypist"
PEERS = {OURS[0]: NOTEBOOK[0], OURS[1]: CELLTYPIST}
MARKER_FOLD = 3.0
MIN_SPEED_UP = 10.0
MAX_PEAK_MB = 2_000.0


def simulate(folder: Path, n_cells: int, n_genes: int) -> Path:
    """Write the simulated file, in a process of its own, unless it is there."""
    path = folder / f"simulated_{n_cells}x{n_genes}.h5ad"
    if not path.exists():
        part = path.with_suffix(".part")
        size = ["--cells", str(n_cells), "--genes", str(n_genes), "--marker-fold", str(MARKER_FOLD)]
        subprocess.run([sys.executable, str(HERE / "simulated_counts.py"), str(part), *size], check=True)
        part.rename(path)
    return path


def measure_model(path: Path, model: str, repeats: int) -> dict[str, object]:
    """Train a model in new processes: one row of the table."""
    whole, peaks, found = [], [], []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, str(HERE / "train_once.py"), str(path.resolve()), model]
            measured = measure(command, folder=Path(folder))
            lines = (Path(folder) / "output.log").read_text().splitlines()
        whole.append(measured.seconds)
        peaks.append(measured.peak_bytes)
        found.append(json.loads(next(line for line in reversed(lines) if line.startswith("{"))))
    seconds = [one["seconds"] for one in found]
    row = {
        "data": path.stem,
        "model": model,
        "cells": found[0]["cells"],
        "genes": found[0]["genes"],
        "repeats": repeats,
        "seconds": statistics.median(seconds),
        "seconds_min": min(seconds),
        "seconds_max": max(seconds),
        "whole_seconds": statistics.median(whole),
        "peak_mb": max(peaks) / 1e6,
        **{name: found[0][name] for name in ("macro_f1", "truth", "calls")},
    }
    print(
        f"{path.stem}, {model}: {row['seconds']:.1f} s of {row['whole_seconds']:.1f}, "
        f"{row['peak_mb']:,.0f} MB, macro-F1 {row['macro_f1']:.3f}",
        flush=True,
    )
    return row


def run(files: Sequence[Path], *, repeats: int, peer_repeats: int) -> pd.DataFrame:
    """Measure each model on each file."""
    peers = [*NOTEBOOK]
    if importlib.util.find_spec("celltypist"):
        peers.append(CELLTYPIST)
    else:
        print("CellTypist skipped: it is not installed", flush=True)
    rows = []
    for path in files:
        rows += [measure_model(path, model, repeats) for model in OURS]
        rows += [measure_model(path, model, peer_repeats) for model in peers]
    return pd.DataFrame(rows)


def make_markdown(table: pd.DataFrame) -> str:
    """Write the table as README.md shows it: one row for each data set and model."""
    lines = [
        "| data | cells x genes | model | seconds | whole process, seconds | peak memory, MB | macro-F1 |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in table.itertuples():
        seconds = f"{row.seconds:.1f}"
        if row.repeats > 1:
            seconds += f" ({row.seconds_min:.1f} to {row.seconds_max:.1f})"
        lines.append(
            f"| {row.data} | {row.cells:,} x {row.genes:,} | {row.model} | {seconds} | "
            f"{row.whole_seconds:.1f} | {row.peak_mb:,.0f} | {row.macro_f1:.3f} |"
        )
    return "\n".join(lines)


def check_claims(table: pd.DataFrame) -> list[str]:
    """Compare what a logistic regression promises beside each peer with what was found.

    The notebook's hyperparameters stand beside the notebook; CellTypist reads all genes, so it has the two
    trials beside it. Macro-F1 is compared on the same cells, drawn again 2,000 times (paired, by true label;
    95 %). The forest promises to take no more memory.
    """
    lines = []
    for data, rows in table.groupby("data", sort=False):
        claims = []
        models = rows.set_index("model")
        for name, peer in PEERS.items():
            if peer in models.index:
                claims += _compare(models.loc[name], models.loc[peer])
        peak = models.loc[list(OURS), "peak_mb"].max()
        claims.append((f"peak memory {peak:,.0f} MB", f"under {MAX_PEAK_MB:,.0f}", peak < MAX_PEAK_MB))
        lines += [
            f"{data}: {found} ({promised}): {'kept' if kept else 'NOT KEPT'}"
            for found, promised, kept in claims
        ]
    return lines


def _compare(ours: pd.Series, peer: pd.Series) -> list[tuple[str, str, bool]]:
    speed_up = peer["seconds"] / ours["seconds"]
    drawn = draw_difference(ours["truth"], ours["calls"], peer["calls"], np.random.default_rng(SEED))
    low, high = find_interval(drawn)
    difference = ours["macro_f1"] - peer["macro_f1"]
    return [
        (
            f"{ours.name}: {speed_up:.1f} times as fast as {peer.name}",
            f"at least {MIN_SPEED_UP:g}",
            speed_up >= MIN_SPEED_UP,
        ),
        (
            f"{ours.name}: macro-F1 {difference:+.3f} ({low:+.3f} to {high:+.3f}) beside {peer.name}",
            "not surely lower",
            bool(high >= 0),
        ),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="*", default=[])
    parser.add_argument("--cells", type=int, default=20_000)
    parser.add_argument("--genes", type=int, default=30_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peer-repeats", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="for the simulated file")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".csv"))
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        folder = (options.folder or Path(scratch)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        simulated = simulate(folder, options.cells, options.genes)
        table = run([*options.data, simulated], repeats=options.repeats, peer_repeats=options.peer_repeats)
    table.to_csv(options.out, index=False, float_format="%.4f")
    print("\n".join([make_markdown(table), *check_claims(table)]))
    print(json.dumps({"python": sys.version.split()[0], "cpus": os.cpu_count()}))


if __name__ == "__main__":
    main()
