"""What each lever of the transformer brings: macro-F1 beside the defaults, on the same folds and seeds.

    python benchmarks/levers.py --data sorted_pbmc_3874.h5ad [--folds 3] [--seeds 42] [--levers NAME ...]
        [--resume] [--out benchmarks/levers.csv]

Labels come from ``obs["cell_type"]``. Each lever changes the named options of ``annotary transformer``; the
network is trained on all training cells of a fold (those of ``accuracy.py``) for all epochs, and labels the
held-out cells. Differences from the defaults are paired by fold and seed. The tuned logistic regression's row
of ``accuracy.csv`` is what to beat.
"""

import argparse
import time
from collections.abc import Sequence
from itertools import islice, product
from pathlib import Path

import numpy as np
import pandas as pd
from accuracy import LabelledData, iter_folds, read_data
from accuracy_models import Cells, find_common
from sklearn.metrics import f1_score

from annotary.data.genes import align_genes
from annotary.models.transformer.classifier import TransformerAnnotator
from annotary.models.transformer.config import NetworkConfig, TrainingConfig
from annotary.models.transformer.training import fit_transformer
from annotary.quality.panel import choose_panel, rank_by_score
from annotary.quality.prepare import PreparedCells

DEFAULTS = "defaults"
LEVERS: dict[str, tuple[dict[str, object], dict[str, object]]] = {
    DEFAULTS: ({}, {}),
    "no block: pooled genes and linear path alone": ({"n_layers": 0}, {}),
    "no linear path": ({"linear_path": False}, {}),
    "no thinning": ({}, {"thinning": 0.0}),
    "thinning 0.8": ({}, {"thinning": 0.8}),
    "gene dropout 0.4": ({}, {"gene_dropout": 0.4}),
    "summary token (cls pooling)": ({"pooling": "cls"}, {}),
    "expression bins": ({"values": "bins"}, {}),
    "post-norm blocks": ({"norm": "post"}, {}),
    "logit-adjusted loss": ({}, {"loss": "logit_adjusted"}),
    "plain loss": ({}, {"loss": "plain"}),
    "label smoothing 0.1": ({}, {"label_smoothing": 0.1}),
    "100 attended genes": ({"attention_genes": 100}, {}),
    "1,000 attended genes": ({"attention_genes": 1000}, {}),
    "twice as wide, 4 heads": ({"d_model": 192, "n_heads": 4}, {}),
    "3 blocks": ({"n_layers": 3}, {}),
    "9 epochs": ({}, {"max_epochs": 9}),
    "24 epochs": ({}, {"max_epochs": 24}),
}
"""What each lever changes: of the network's shape, and of its training."""


def train_and_score(
    train: Cells, codes: np.ndarray, held_out: Cells, truth: np.ndarray, lever: str, seed: int
) -> float:
    """Train with a lever, and label held-out cells: macro-F1."""
    shape, training = LEVERS[lever]
    train = train.take_genes(find_common(train.counts))
    table = choose_panel(
        train.counts, train.gene_ids, depth=train.depth, codes=codes, method="f_test", n_top_genes=0
    )
    panel = rank_by_score(table[table["in_panel"]])
    seen, asked = (
        PreparedCells(align_genes(cells.counts, cells.gene_ids, panel), cells.depth)
        for cells in (train, held_out)
    )
    network, _ = fit_transformer(
        seen,
        codes,
        None,
        None,
        network=NetworkConfig(len(panel), int(codes.max()) + 1, **shape),
        training=TrainingConfig(**{"seed": seed} | training),
    )
    predicted = TransformerAnnotator([network]).predict_proba(asked).argmax(axis=1)
    return float(f1_score(truth, predicted, average="macro"))


def run(
    data: LabelledData, *, levers: Sequence[str], n_folds: int, seeds: Sequence[int], out: Path
) -> pd.DataFrame:
    """Measure what the CSV has not, and append it there."""
    done = set()
    if out.exists():
        done = set(pd.read_csv(out)[["lever", "fold", "seed"]].itertuples(index=False, name=None))
    _, codes = np.unique(data.labels, return_inverse=True)
    folds = list(islice(iter_folds(data), n_folds))
    for seed, lever, (fold, train, held_out) in product(seeds, levers, folds):
        if (lever, int(fold), seed) in done:
            continue
        started = time.perf_counter()
        macro_f1 = train_and_score(
            data.cells.take_rows(train),
            codes[train],
            data.cells.take_rows(held_out),
            codes[held_out],
            lever,
            seed,
        )
        seconds = time.perf_counter() - started
        row = {"lever": lever, "fold": int(fold), "seed": seed, "macro_f1": macro_f1, "seconds": seconds}
        pd.DataFrame([row]).to_csv(out, mode="a", header=not out.exists(), index=False, float_format="%.4f")
        print(f"{lever}, fold {fold}, seed {seed}: {macro_f1:.3f}, {seconds:.0f} s", flush=True)
    return pd.read_csv(out)


def make_markdown(table: pd.DataFrame) -> str:
    """Write the levers as transformer.md shows them, mean and standard deviation over folds and seeds."""
    lines = ["| lever | trainings | macro-F1 | beside the defaults | seconds |", "|---|---|---|---|---|"]
    base = table[table["lever"] == DEFAULTS].set_index(["fold", "seed"])["macro_f1"]
    for lever, rows in table.groupby("lever", sort=False):
        scores = rows.set_index(["fold", "seed"])["macro_f1"]
        difference = (scores - base).dropna()
        beside = "" if lever == DEFAULTS else format_mean(difference, "+")
        lines.append(
            f"| {lever} | {len(rows)} | {format_mean(scores)} | {beside} | {rows['seconds'].median():.0f} |"
        )
    return "\n".join(lines)


def format_mean(scores: pd.Series, sign: str = "") -> str:
    """Write a mean with its standard deviation, if there is one."""
    mean, spread = f"{scores.mean():{sign}.3f}", scores.std()
    return mean if np.isnan(spread) else f"{mean} ± {spread:.3f}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[42])
    parser.add_argument("--levers", nargs="+", choices=LEVERS, default=list(LEVERS))
    parser.add_argument("--resume", action="store_true", help="keep what is in the CSV")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".csv"))
    options = parser.parse_args(arguments)
    if not options.resume:
        options.out.unlink(missing_ok=True)
    table = run(
        read_data(options.data),
        levers=options.levers,
        n_folds=options.folds,
        seeds=options.seeds,
        out=options.out,
    )
    print(make_markdown(table))


if __name__ == "__main__":
    main()
