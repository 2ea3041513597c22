"""How long score takes and how much memory, beside CellTypist and a plain read of the file.

    python benchmarks/score.py [--cells 68579] [--training-cells 5000] [--repeats 3] [--without-celltypist]
        [--folder FOLDER] [--out benchmarks/score.csv]

Simulates a file to annotate (``simulated_counts.py``), trains a linear champion and a CellTypist model on its
first cells, and measures whole processes, each a fresh Python from start to written file (``processes.py``
says how memory is measured):

- a plain read: the counts once in row chunks with h5py, each chunk multiplied with dense weights
  (``read_and_multiply.py``); nothing is written;
- annotary score: alias, model, ledger, a whole copy of the file with the annotation, MLflow run;
- annotary score with a table as its only output: what the annotating takes where no file is copied beside it;
- annotary score again: the same file, which is known;
- CellTypist: read, normalise, annotate, write (``celltypist_annotate.py``; ``pip install celltypist``);
- annotary score with a transformer as champion, of the default shape, trained on the same cells for a few
  epochs: its speed does not depend on what it has learnt;
- its bare forward pass on batches that are there already (``forward_pass.py``).

They take turns, ``--repeats`` times. The files were just written: they are in the page cache if it can hold
them. ``--folder`` keeps the simulated files and models, and takes those that are there.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from processes import Measurement, measure

from annotary.options import DEFAULT_MODEL_NAME

HERE = Path(__file__).parent
READ, CELLTYPIST = "a plain read", "CellTypist"
SCORE, TABLE, AGAIN = "annotary score", "annotary score, a table only", "annotary score again"
TRANSFORMER, FORWARD = "annotary score, transformer", "the transformer's forward pass"
MAX_SECONDS = 4.0
MAX_PEAK_MB = 600.0
MAX_RATIO = 1.5
MIN_TRANSFORMER_CELLS = 2_000
MAX_TRANSFORMER_PEAK_MB = 1_500.0
MAX_TRANSFORMER_RATIO = 1.3

_TRANSFORMER_EPOCHS = 4


@dataclass(frozen=True)
class Measured:
    """A process as a whole, and its seconds for reading and computing alone (NaN where it does not tell)."""

    whole: Measurement
    own_seconds: float


@dataclass(frozen=True)
class Bench:
    """How each process is started, in one folder."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """Environment of a process: the benchmark's own tracking store."""
        return {"MLFLOW_TRACKING_URI": f"sqlite:///{self.folder / 'mlflow.db'}"}

    def annotary(self, *arguments: str) -> None:
        """Run annotary, unmeasured."""
        subprocess.run(
            [sys.executable, "-m", "annotary", *arguments],
            check=True,
            cwd=self.folder,
            env=os.environ | self.environment,
        )

    def run(self, *arguments: str) -> Measured:
        """Measure one Python process."""
        whole = measure([sys.executable, *arguments], folder=self.folder, environment=self.environment)
        said = (self.folder / "output.log").read_text(errors="replace").splitlines()
        told = [json.loads(line) for line in said if line.startswith("{")]
        own = float("nan")
        if told:
            files = told[-1].get("files", told)
            new = [one for one in files if one.get("status", "annotated") == "annotated"]
            own = sum(one.get("annotating_seconds", one["seconds"]) for one in new)
        return Measured(whole=whole, own_seconds=own)

    def read(self, file: Path) -> Measured:
        """Read the file."""
        return self.run(str(HERE / "read_and_multiply.py"), str(file))

    def score(self, file: Path, *options: str) -> Measured:
        """Annotate the file into a new folder."""
        shutil.rmtree(self.folder / "annotated", ignore_errors=True)
        return self.again(file, *options)

    def again(self, file: Path, *options: str) -> Measured:
        """Ask for the file once more."""
        return self.run("-m", "annotary", "score", "--input", str(file), "--output", "annotated", *options)

    def tabulate(self, file: Path) -> Measured:
        """Annotate the file into a table in a new folder."""
        return self.score(file, "--form", "table")

    def forward(self, file: Path) -> Measured:
        """Label the file's cells with the transformer, nothing written."""
        return self.run(str(HERE / "forward_pass.py"), str(file), f"models:/{DEFAULT_MODEL_NAME}@champion")

    def celltypist(self, file: Path) -> Measured:
        """Annotate the file with CellTypist."""
        script, model = str(HERE / "celltypist_annotate.py"), str(self.folder / "celltypist.pkl")
        return self.run(script, "annotate", str(file), model, str(self.folder / "celltypist.h5ad"))


def simulate(folder: Path, n_cells: int, seed: int) -> Path:
    """Write a simulated file, unless it is there."""
    path = folder / f"cells-{n_cells}-{seed}.h5ad"
    if not path.exists():
        part = path.with_suffix(".part")
        command = [sys.executable, str(HERE / "simulated_counts.py"), str(part), "--cells", str(n_cells)]
        subprocess.run([*command, "--seed", str(seed)], check=True)
        part.rename(path)
    return path


def train(bench: Bench, file: Path, *, with_celltypist: bool) -> None:
    """Train both models on the same cells, unless they are there."""
    if not (bench.folder / "mlflow.db").exists():
        bench.annotary(
            "preprocess", "--input", str(file), "--doublets", "none", "--output", "dataset", "--n-folds", "2"
        )
        dataset = str(bench.folder / "dataset" / "dataset.h5ad")
        bench.annotary("baselines", "--dataset", dataset, "--kinds", "logistic_regression", "--n-trials", "2")
        bench.annotary("evaluate", "--dataset", dataset)
        bench.annotary("promote")
    if with_celltypist and not (bench.folder / "celltypist.pkl").exists():
        script = str(HERE / "celltypist_annotate.py")
        command = [sys.executable, script, "train", str(file), str(bench.folder / "celltypist.pkl")]
        subprocess.run(command, check=True)


def train_transformer(bench: Bench, dataset: Path) -> None:
    """Train a transformer of the default shape, champion of a store of its own, unless it is there."""
    if (bench.folder / "mlflow.db").exists():
        return
    bench.folder.mkdir()
    epochs = str(_TRANSFORMER_EPOCHS)
    bench.annotary("transformer", "--dataset", str(dataset), "--max-epochs", epochs, "--refit", "false")
    bench.annotary("evaluate", "--dataset", str(dataset))
    bench.annotary("promote")


def summarise(name: str, n_cells: int, measured: Sequence[Measured]) -> dict[str, object]:
    """Make one row of the table."""
    seconds = [one.whole.seconds for one in measured]
    return {
        "name": name,
        "cells": n_cells,
        "repeats": len(measured),
        "seconds": statistics.median(seconds),
        "seconds_min": min(seconds),
        "seconds_max": max(seconds),
        "own_seconds": statistics.median(one.own_seconds for one in measured),
        "peak_mb": max(one.whole.peak_bytes for one in measured) / 1e6,
        "cells_per_second": n_cells / statistics.median(seconds),
    }


def run(options: argparse.Namespace, folder: Path) -> pd.DataFrame:
    """Simulate, train and measure."""
    bench = Bench(folder)
    file = simulate(folder, options.cells, seed=0)
    train(bench, simulate(folder, options.training_cells, seed=0), with_celltypist=options.celltypist)
    network = Bench(folder / "transformer")
    train_transformer(network, folder / "dataset" / "dataset.h5ad")
    kinds = {READ: bench.read, TABLE: bench.tabulate, SCORE: bench.score, AGAIN: bench.again}
    if options.celltypist:
        kinds[CELLTYPIST] = bench.celltypist
    kinds |= {TRANSFORMER: network.score, FORWARD: network.forward}
    turns = [{name: kind(file) for name, kind in kinds.items()} for _ in range(options.repeats)]
    return pd.DataFrame([summarise(name, options.cells, [turn[name] for turn in turns]) for name in kinds])


def check_claims(table: pd.DataFrame) -> list[str]:
    """Compare the table with what score promises."""
    rows = table.set_index("name")
    ours, read = rows.loc[SCORE], rows.loc[READ]
    alone, beside = (rows.loc[name, "own_seconds"] / read["own_seconds"] for name in (TABLE, SCORE))
    seconds, peak = ours["seconds"], ours["peak_mb"]
    claims = [
        (f"{seconds:.1f} s for the whole process", f"under {MAX_SECONDS:g}", seconds < MAX_SECONDS),
        (f"peak memory {peak:,.0f} MB", f"under {MAX_PEAK_MB:g}", peak < MAX_PEAK_MB),
        (f"annotating {alone:.2f} times the plain read", f"at most {MAX_RATIO}", alone <= MAX_RATIO),
        (
            f"annotating while the file is copied {beside:.2f} times the plain read",
            f"at most {MAX_RATIO}",
            beside <= MAX_RATIO,
        ),
    ]
    network, forward = rows.loc[TRANSFORMER], rows.loc[FORWARD]
    speed = network["cells"] / network["own_seconds"]
    ratio = network["own_seconds"] / forward["own_seconds"]
    peak = network["peak_mb"]
    claims += [
        (
            f"{speed:,.0f} cells a second by a transformer",
            f"at least {MIN_TRANSFORMER_CELLS:,}",
            speed >= MIN_TRANSFORMER_CELLS,
        ),
        (
            f"that is {ratio:.2f} times its bare forward pass",
            f"at most {MAX_TRANSFORMER_RATIO}",
            ratio <= MAX_TRANSFORMER_RATIO,
        ),
        (
            f"its peak memory {peak:,.0f} MB",
            f"under {MAX_TRANSFORMER_PEAK_MB:,.0f}",
            peak < MAX_TRANSFORMER_PEAK_MB,
        ),
    ]
    if CELLTYPIST in rows.index:
        theirs = rows.loc[CELLTYPIST]
        factor = theirs["seconds"] / ours["seconds"]
        claims.append((f"{factor:.1f} times as fast as CellTypist", "over 1", factor > 1))
    return [f"{found} ({promised}): {'kept' if kept else 'NOT KEPT'}" for found, promised, kept in claims]


def make_markdown(table: pd.DataFrame) -> str:
    """Write the table as README.md shows it: one row for each measurement."""
    lines = [
        "| | cells | seconds | of these reading and computing | peak memory, MB |",
        "|---|---|---|---|---|",
    ]
    for row in table.itertuples():
        seconds = f"{row.seconds:.1f}"
        if row.repeats > 1:
            seconds += f" ({row.seconds_min:.1f} to {row.seconds_max:.1f})"
        own = "" if pd.isna(row.own_seconds) else f"{row.own_seconds:.1f}"
        lines.append(f"| {row.name} | {row.cells:,} | {seconds} | {own} | {row.peak_mb:,.0f} |")
    return "\n".join(lines)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cells", type=int, default=68_579)
    parser.add_argument("--training-cells", type=int, default=5_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--without-celltypist", dest="celltypist", action="store_false")
    parser.add_argument("--folder", type=Path, help="for the simulated files and the models")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".csv"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = (options.folder or Path(scratch)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        table = run(options, folder)
    table.to_csv(options.out, index=False, float_format="%.4f")
    print("\n".join([make_markdown(table), *check_claims(table)]))


if __name__ == "__main__":
    main()
