"""What is taken for doublets, and how many of known doublets are found, with the bounds and without.

    python benchmarks/doublets.py --data pbmc3k_2638.h5ad sorted_pbmc_3874.h5ad [--seeds 42]
        [--scores FOLDER] [--out benchmarks/doublets.csv]

Labels come from ``obs["cell_type"]``. Cells are scored by SOLO and by Scrublet as ``annotary preprocess``
does, each file as one lane: once as they are, and once for each seed with doublets mixed in, as many as the
loading of so many cells makes: sums of the counts of two cells, half of them of two labels, half of one.
``bounded`` are the calls of preprocess with its defaults. The files have doublets of their own, which compete
with those mixed in for the places under the bound, and count as errors in the precision: both figures are too
low. ``--scores`` keeps the scores of each run, and takes those that it finds.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from doublet_mixes import ACROSS, CELL, RULES, SEED, WITHIN, Mix, choose_rate, score_mix, take_doublets

from annotary import keys
from annotary.quality.doublet_limits import expect_rate


def measure_losses(table: pd.DataFrame, rule: str) -> dict[str, object]:
    """Measure what a rule takes of a file's own cells: of all, and of the label that loses most."""
    taken = take_doublets(table, rule)
    by_label = pd.Series(taken).groupby(table[keys.LABEL].to_numpy()).mean()
    return {
        "cells": len(table),
        "expected": expect_rate(len(table)),
        "taken": taken.mean(),
        "worst_label": by_label.idxmax(),
        "worst_taken": by_label.max(),
    }


def measure_mixes(tables: Sequence[pd.DataFrame], rule: str) -> dict[str, object]:
    """Measure how many of the doublets that were mixed in a rule finds, all mixes together."""
    kinds = np.concatenate([table["kind"].to_numpy(dtype=str) for table in tables])
    taken = np.concatenate([take_doublets(table, rule) for table in tables])
    return {
        "mixed_in": int((kinds != CELL).sum()),
        "found_across": taken[kinds == ACROSS].mean(),
        "found_within": taken[kinds == WITHIN].mean(),
        "precision": (kinds[taken] != CELL).mean() if taken.any() else np.nan,
    }


def run(files: Sequence[Path], seeds: Sequence[int], folder: Path) -> pd.DataFrame:
    """Score each file and its mixes, and measure each rule."""
    rows = []
    for file in files:
        rate = choose_rate(file)
        as_it_is = score_mix(Mix(file, 0, SEED), folder)
        mixes = [score_mix(Mix(file, rate, seed), folder) for seed in seeds]
        rows += [
            {"dataset": file.stem, "rule": rule} | measure_losses(as_it_is, rule) | measure_mixes(mixes, rule)
            for rule in RULES
        ]
    return pd.DataFrame(rows)


def make_markdown(table: pd.DataFrame) -> str:
    """Write the table for the README, shares in percent."""
    lines = [
        "| data | taken by | taken of all cells | of the label that loses most "
        "| found of doublets of two labels | found of doublets of one | known doublets among the taken |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in table.to_dict(orient="records"):
        worst = f"{row['worst_taken']:.1%} ({row['worst_label']})" if row["worst_taken"] else "0.0%"
        shares = [f"{row[name]:.0%}" for name in ("found_across", "found_within", "precision")]
        data = f"{row['dataset']}, {row['cells']:,} cells, {row['expected']:.1%} expected"
        lines.append(f"| {data} | {row['rule']} | {row['taken']:.1%} | {worst} | {' | '.join(shares)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[SEED])
    parser.add_argument("--scores", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".csv"))
    options = parser.parse_args(arguments)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        table = run(options.data, options.seeds, options.scores or Path(folder))
    table.round(6).to_csv(options.out, index=False)
    print(make_markdown(table), f"{time.perf_counter() - started:.0f} seconds", sep="\n")


if __name__ == "__main__":
    main()
