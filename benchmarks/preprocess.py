"""How long preprocess takes and how much memory, beside reading and writing alone and the notebook's recipe.

    python benchmarks/preprocess.py [--cells 68579] [--large 500000] [--notebook-cells 20000] [--repeats 3]
        [--compression gzip] [--folder FOLDER] [--out benchmarks/preprocess.csv]

Simulates two files (``simulated_counts.py``) and measures whole processes, each a fresh Python, imports and
all (``processes.py`` says how memory is measured):

- read and write: the file once in row chunks, written again as the dataset file is (``read_and_write.py``);
- preprocess: ``annotary preprocess --doublets none`` on the same file, and once on the large one; the run,
  its figures and the dataset are logged to MLflow;
- the notebook's recipe: a dense array first (``notebook_recipe.py``), once, on as many cells as fit, at most
  ``--notebook-cells``.

The first two take turns, ``--repeats`` times. Before them, preprocess runs on the embedded data, so that no
measurement makes the tracking store or compiles Python; each then starts from a copy of that store, so that
none can reuse what another one cleaned. The files were just written: they are in the page cache if it can
hold them. ``--folder`` keeps the simulated files, and takes those that are there.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import pandas as pd
import psutil
from processes import Measurement, measure

HERE = Path(__file__).parent
READ_AND_WRITE, PREPROCESS, NOTEBOOK = "read and write", "annotary preprocess", "the notebook's recipe"
PLAIN, GZIP, LARGE = "", ", gzip input", ", large file"
MAX_RATIO = 3.0
MAX_PEAK_MB = 1_500.0
MAX_GROWTH = 1.2

_PROBES = (2_000, 5_000)
_SHARE_OF_MEMORY = 0.8


@dataclass(frozen=True)
class Bench:
    """How each process is started, in one folder that it leaves as it was."""

    folder: Path

    def prepare_store(self) -> None:
        """Make the tracking store that every measurement starts from."""
        self.preprocess(None)
        (self.folder / "mlflow.db").rename(self.folder / "ready.db")

    def run(self, *arguments: str) -> Measurement:
        """Measure one Python process, and remove what it wrote and logged."""
        store, ready, output = (self.folder / name for name in ("mlflow.db", "ready.db", "output"))
        if ready.exists():
            shutil.copy(ready, store)
        output.mkdir()
        environment = {"MLFLOW_TRACKING_URI": f"sqlite:///{store}"}
        measured = measure([sys.executable, *arguments], folder=self.folder, environment=environment)
        for written in (output, self.folder / "mlruns"):
            shutil.rmtree(written, ignore_errors=True)
        return measured

    def read_and_write(self, file: Path) -> Measurement:
        """Copy the file in chunks."""
        return self.run(str(HERE / "read_and_write.py"), str(file), "output/copy.h5ad")

    def preprocess(self, file: Path | None) -> Measurement:
        """Preprocess the file, or the embedded data."""
        data = ["--input", str(file), "--label-key", "cell_type"] if file else []
        return self.run("-m", "annotary", "preprocess", *data, "--doublets", "none", "--output", "output")

    def notebook(self, file: Path, n_cells: int) -> Measurement:
        """Preprocess the first cells of the file by way of a dense array."""
        return self.run(str(HERE / "notebook_recipe.py"), str(file), str(n_cells), "output")


def simulate(folder: Path, n_cells: int, compression: str | None) -> Path:
    """Write a simulated file, in a process of its own to keep this one small, unless it is there."""
    path = folder / f"simulated-{n_cells}{f'-{compression}' if compression else ''}.h5ad"
    if not path.exists():
        print(f"simulating {n_cells:,} cells", flush=True)
        part = path.with_suffix(".part")
        command = [sys.executable, str(HERE / "simulated_counts.py"), str(part), "--cells", str(n_cells)]
        subprocess.run(command + (["--compression", compression] if compression else []), check=True)
        part.rename(path)
    return path


def summarise(name: str, file: Path, measured: Sequence[Measurement], n_cells: int = 0) -> dict[str, object]:
    """Make one row of the table; of the first ``n_cells`` of the file, 0 for all."""
    with h5py.File(file) as read:
        n_all, n_genes = read["X"].attrs["shape"]
        n_cells = n_cells or int(n_all)
        n_nonzero = int(read["X/indptr"][n_cells])
    seconds = [one.seconds for one in measured]
    row = {
        "name": name,
        "cells": n_cells,
        "genes": int(n_genes),
        "nonzeros": n_nonzero,
        "repeats": len(measured),
        "seconds": statistics.median(seconds),
        "seconds_min": min(seconds),
        "seconds_max": max(seconds),
        "peak_mb": max(one.peak_bytes for one in measured) / 1e6,
        "cells_per_second": n_cells / statistics.median(seconds),
    }
    print(f"{name}: {n_cells:,} cells, {row['seconds']:.1f} s, {row['peak_mb']:,.0f} MB", flush=True)
    return row


def find_notebook_size(bench: Bench, file: Path, n_cells: int, at_most: int) -> int:
    """Find how many cells the notebook's recipe has room for, from its memory at two small sizes."""
    few, more = (min(size, n_cells) for size in _PROBES)
    low, high = (bench.notebook(file, size).peak_bytes for size in (few, more))
    per_cell = (high - low) / max(more - few, 1)
    available = psutil.virtual_memory().available
    if per_cell <= 0:
        return min(few, at_most)
    fitting = more + int((_SHARE_OF_MEMORY * available - high) / per_cell)
    whole = high + (n_cells - more) * per_cell
    chosen = min(fitting, n_cells, at_most)
    print(
        f"the notebook's recipe: {per_cell / 1e3:.0f} kB a cell; all {n_cells:,} cells need about "
        f"{whole / 1e9:.1f} GB, {'which does not fit' if whole > available else 'which fits'} in the "
        f"{available / 1e9:.1f} GB that are free; {chosen:,} cells taken",
        flush=True,
    )
    return chosen


def run(options: argparse.Namespace, files: Path, folder: Path) -> pd.DataFrame:
    """Simulate and measure everything."""
    bench = Bench(folder)
    file = simulate(files, options.cells, None)
    inputs = {
        PLAIN: (file, options.repeats),
        GZIP: (simulate(files, options.cells, "gzip"), options.repeats),
        LARGE: (simulate(files, options.large, None), 1),
    }
    bench.prepare_store()
    rows = []
    for kind, (read, repeats) in inputs.items():
        turns = [(bench.read_and_write(read), bench.preprocess(read)) for _ in range(repeats)]
        for name, measured in zip((READ_AND_WRITE, PREPROCESS), zip(*turns, strict=True), strict=True):
            rows.append(summarise(name + kind, read, measured))
    size = find_notebook_size(bench, file, options.cells, options.notebook_cells)
    rows.append(summarise(NOTEBOOK, file, [bench.notebook(file, size)], size))
    return pd.DataFrame(rows)


def check_claims(table: pd.DataFrame) -> list[str]:
    """Compare the table with what preprocess promises."""
    rows = table.set_index("name")
    peak = rows.loc[PREPROCESS, "peak_mb"]
    growth = rows.loc[PREPROCESS + LARGE, "peak_mb"] / peak
    claims = []
    for kind in (PLAIN, GZIP, LARGE):
        ratio = rows.loc[PREPROCESS + kind, "seconds"] / rows.loc[READ_AND_WRITE + kind, "seconds"]
        text = f"{ratio:.2f} times reading and writing{kind}"
        claims.append((text, f"at most {MAX_RATIO:g}", ratio <= MAX_RATIO))
    claims += [
        (f"peak memory {peak:,.0f} MB", f"under {MAX_PEAK_MB:,.0f}", peak < MAX_PEAK_MB),
        (
            f"peak memory of the large file {growth:.2f} times that",
            f"at most {MAX_GROWTH:g}",
            growth <= MAX_GROWTH,
        ),
    ]
    return [f"{found} ({promised}): {'kept' if kept else 'NOT KEPT'}" for found, promised, kept in claims]


def make_markdown(table: pd.DataFrame) -> str:
    """Write the table as README.md shows it: one row for each measurement."""
    lines = ["| | cells | seconds | cells a second | peak memory, MB |", "|---|---|---|---|---|"]
    for row in table.itertuples():
        seconds = f"{row.seconds:.1f}"
        if row.repeats > 1:
            seconds += f" ({row.seconds_min:.1f} to {row.seconds_max:.1f})"
        lines.append(
            f"| {row.name} | {row.cells:,} | {seconds} | {row.cells_per_second:,.0f} | {row.peak_mb:,.0f} |"
        )
    return "\n".join(lines)


def describe_machine() -> dict[str, object]:
    """Name what the figures depend on."""
    return {
        "python": platform.python_version(),
        "system": platform.system(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS", ""),
        **{name: importlib.metadata.version(name) for name in ("annotary", "anndata", "h5py", "scanpy")},
    }


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cells", type=int, default=68_579)
    parser.add_argument("--large", type=int, default=500_000)
    parser.add_argument("--notebook-cells", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="for the simulated files")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".csv"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = (options.folder or Path(folder)).resolve()
        files.mkdir(parents=True, exist_ok=True)
        table = run(options, files, Path(folder))
    table.to_csv(options.out, index=False, float_format="%.4f")
    print("\n".join([make_markdown(table), *check_claims(table), json.dumps(describe_machine())]))


if __name__ == "__main__":
    main()
