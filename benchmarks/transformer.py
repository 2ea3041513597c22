"""How fast the transformer labels and trains, beside the notebook's dense model of the same size.

    python benchmarks/transformer.py [--cells 500] [--dense-cells 32] [--repeats 3]
        [--panels 1200:63 1200:250 12000:700] [--out benchmarks/transformer.csv]

Cells are simulated: genes of a panel, and how many of them a cell expresses on average; the longer, the fewer
cells. All networks have random weights and run in this process (``transformer_speed.py``):

- notebook, dense: all panel genes are tokens, expressed or not; four post-norm blocks, d = 128, four heads,
  softmax attention written out, batches of 32, float32: what the notebook does that this project grew from.
  Once more with torch's fused attention, which the notebook does not use. Its speed does not depend on how
  many genes a cell expresses, so it runs on the first panel only, and on fewer cells;
- annotary, notebook's size: the same network on the expressed genes only. Labelling in float32, as annotary
  does, and in bfloat16; training as ``annotary transformer`` does, without thinning;
- annotary, default: what ``annotary transformer`` trains and ``annotary score`` runs.

Seconds run from tokens to logits, or are an epoch's; medians over the repeats. ``bare`` is the forward pass
on batches that are there already, ``loading`` the share of training that making batches takes. ``peak share``
is how much of this machine's matrix products of 2048 x 2048 (float32, or bfloat16 where that multiplies) the
forward pass reaches with all its padding; training counts three forward passes. Memory is the peak of a
process of its own that imports, draws the cells and does that one thing.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd
import torch
from processes import measure
from transformer_speed import (
    DEFAULT,
    NOTEBOOK,
    SAME_SIZE,
    SAME_SIZE_BF16,
    VARIANTS,
    Variant,
    find_peak,
    label_once,
    simulate_cells,
    time_labelling,
    time_training,
)

MIN_SPEED_UP = {"labelling": 100.0, "training": 40.0}
MAX_LOADING = 0.1
_TRAINED = (NOTEBOOK, SAME_SIZE, DEFAULT)
_FEWEST_CELLS = 64
_FORWARD_PASSES_OF_A_STEP = 3  # forward, and backward by weights and by inputs


class Machine:
    """The matrix products that this machine reaches, by number of threads and type."""

    def __init__(self) -> None:
        self._peaks: dict[tuple[int, torch.dtype], float] = {}

    def find_peak(self, dtype: torch.dtype) -> float:
        """Give operations a second with the threads of now."""
        key = (torch.get_num_threads(), dtype)
        if key not in self._peaks:
            self._peaks[key] = find_peak(dtype)
        return self._peaks[key]


def measure_variant(
    name: str, task: str, panel: tuple[int, int], *, n_cells: int, repeats: int, machine: Machine
) -> dict[str, object]:
    """Time one network at one task: a row of the table."""
    n_genes, n_tokens = panel
    variant = VARIANTS[name]
    cells = simulate_cells(n_cells, n_genes, n_tokens)
    labelling = time_labelling(variant, cells, repeats if task == "labelling" else 0)
    if task == "labelling":
        seconds, loading = labelling.seconds, None
        computing, flops = statistics.median(labelling.bare_seconds), labelling.flops
        low = variant.bfloat16
    else:
        seconds, loading = time_training(variant, cells, repeats)
        computing, flops = statistics.median(seconds), _FORWARD_PASSES_OF_A_STEP * labelling.flops
        low = not variant.as_notebook
    peak = machine.find_peak(torch.bfloat16 if low else torch.float32)
    row = {
        "task": task,
        "model": name,
        "panel_genes": n_genes,
        "tokens": n_tokens,
        "attended": labelling.attended,
        "threads": torch.get_num_threads(),
        "cells": n_cells,
        "cells_per_second": n_cells / statistics.median(seconds),
        "cells_per_second_min": n_cells / max(seconds),
        "cells_per_second_max": n_cells / min(seconds),
        "bare_cells_per_second": n_cells / computing if task == "labelling" else None,
        "loading_share": loading,
        "padding": labelling.padding,
        "gflop_per_cell": flops / n_cells / 1e9,
        "peak_share": flops / computing / peak,
    }
    print(
        f"{task}, {name}, {n_genes} genes, {n_tokens} tokens, {row['threads']} threads: "
        f"{row['cells_per_second']:,.1f} cells/s, {row['peak_share']:.0%} of peak",
        flush=True,
    )
    return row


def measure_memory(name: str, task: str, panel: tuple[int, int], n_cells: int) -> float:
    """Do it once in a new process: its peak memory, MB."""
    command = [sys.executable, str(Path(__file__).resolve()), "--one", name, task]
    command += ["--cells", str(n_cells), "--panels", f"{panel[0]}:{panel[1]}"]
    with tempfile.TemporaryDirectory() as folder:
        return measure(command, folder=Path(folder)).peak_bytes / 1e6


def run_once(variant: Variant, task: str, panel: tuple[int, int], n_cells: int) -> None:
    """Do one thing once, for its memory to be measured."""
    cells = simulate_cells(n_cells, *panel)
    if task == "labelling":
        label_once(variant, cells)
    else:
        time_training(variant, cells, 0)


def iter_tasks(panels: Sequence[tuple[int, int]]) -> Iterator[tuple[str, str, tuple[int, int], int]]:
    """List network, task, panel and threads; the notebook's run on the first panel only."""
    n_threads = torch.get_num_threads()
    for panel in panels:
        for name, variant in VARIANTS.items():
            if variant.as_notebook and panel != panels[0]:
                continue
            yield name, "labelling", panel, n_threads
            if name in _TRAINED:
                yield name, "training", panel, n_threads
    if n_threads > 1:
        for name in (NOTEBOOK, SAME_SIZE, SAME_SIZE_BF16, DEFAULT):
            yield name, "labelling", panels[0], 1


def run(
    panels: Sequence[tuple[int, int]], *, n_cells: int, n_dense_cells: int, repeats: int, out: Path
) -> pd.DataFrame:
    """Measure all networks; each row is in the CSV as soon as it is known."""
    machine, n_threads = Machine(), torch.get_num_threads()
    out.unlink(missing_ok=True)
    for name, task, panel, threads in iter_tasks(panels):
        count = max(_FEWEST_CELLS, n_cells * panels[0][1] // panel[1])
        if VARIANTS[name].as_notebook:
            count = n_dense_cells
        torch.set_num_threads(threads)
        row = measure_variant(name, task, panel, n_cells=count, repeats=repeats, machine=machine)
        row["peak_mb"] = measure_memory(name, task, panel, count) if threads == n_threads else None
        table = pd.DataFrame([row])
        table.to_csv(out, mode="a", header=not out.exists(), index=False, float_format="%.4f")
    torch.set_num_threads(n_threads)
    return pd.read_csv(out)


def make_markdown(table: pd.DataFrame) -> str:
    """Write the table as README.md shows it."""
    lines = [
        "| task | network | panel | tokens a cell (attended) | threads | cells a second | bare | loading "
        "| peak share | memory, MB |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in table.itertuples():
        speeds = [_write_speed(speed) for speed in (row.cells_per_second, row.bare_cells_per_second)]
        lines.append(
            f"| {row.task} | {row.model} | {row.panel_genes:,} | {row.tokens} ({row.attended:.0f}) "
            f"| {row.threads} | {' | '.join(speeds)} "
            f"| {'' if pd.isna(row.loading_share) else f'{row.loading_share:.0%}'} | {row.peak_share:.0%} "
            f"| {'' if pd.isna(row.peak_mb) else f'{row.peak_mb:,.0f}'} |"
        )
    return "\n".join(lines)


def _write_speed(speed: float) -> str:
    if pd.isna(speed):
        return ""
    return f"{speed:,.0f}" if speed >= 100 else f"{speed:.1f}"


def check_claims(table: pd.DataFrame) -> list[str]:
    """Compare what is promised at the notebook's size, with all threads, with what was found."""
    threads = table["threads"].max()
    here = table[(table["threads"] == threads) & (table["panel_genes"] == table["panel_genes"].iloc[0])]
    here = here[here["tokens"] == table["tokens"].iloc[0]].set_index(["task", "model"]).sort_index()
    claims = []
    for task, name in (("labelling", SAME_SIZE), ("labelling", SAME_SIZE_BF16), ("training", SAME_SIZE)):
        ratio = here.loc[(task, name), "cells_per_second"] / here.loc[(task, NOTEBOOK), "cells_per_second"]
        promised = MIN_SPEED_UP[task]
        claims.append((f"{name}, {task}: {ratio:.0f} times", f"at least {promised:g}", ratio >= promised))
    loading = here.loc[("training", SAME_SIZE), "loading_share"]
    claims.append(
        (f"making batches {loading:.1%} of training", f"under {MAX_LOADING:.0%}", loading < MAX_LOADING)
    )
    return [f"{found} ({promised}): {'kept' if kept else 'NOT KEPT'}" for found, promised, kept in claims]


def _read_panel(text: str) -> tuple[int, int]:
    n_genes, n_tokens = text.split(":")
    return int(n_genes), int(n_tokens)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cells", type=int, default=500)
    parser.add_argument("--dense-cells", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--panels", type=_read_panel, nargs="*", default=[(1200, 63), (1200, 250), (12000, 700)]
    )
    parser.add_argument("--one", nargs=2, metavar=("MODEL", "TASK"), help="do one thing once, write nothing")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".csv"))
    options = parser.parse_args(arguments)
    if options.one:
        name, task = options.one
        run_once(VARIANTS[name], task, options.panels[0], options.cells)
        return
    table = run(
        options.panels,
        n_cells=options.cells,
        n_dense_cells=options.dense_cells,
        repeats=options.repeats,
        out=options.out,
    )
    print("\n".join([make_markdown(table), *check_claims(table)]))
    print(json.dumps({"python": sys.version.split()[0], "torch": torch.__version__, "cpus": os.cpu_count()}))


if __name__ == "__main__":
    main()
