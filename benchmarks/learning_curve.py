"""From how many cells on the transformer pays: macro-F1 against training cells, beside the linear model.

    python benchmarks/learning_curve.py --data sorted_pbmc_3874.h5ad [--sizes 300 600 1200 2400 0]
        [--folds 3] [--genes 1200 0] [--resume] [--out benchmarks/learning_curve.csv]

Labels come from ``obs["cell_type"]``. Of the training cells of the first stratified folds (those of
``accuracy.py``) a stratified part is drawn; 0 takes all. On it, and with genes chosen on it by an F test
between labels (0 takes all that ten cells express), are trained

- the transformer with its defaults, as ``annotary transformer`` does: an eighth of the cells decides when to
  stop, then it is trained again on all;
- the logistic regression with the hyperparameters that ``annotary baselines`` tries as its second trial;
  nothing is tuned.

Both label the same held-out cells. The picture beside the CSV has means over folds, and each fold as a dot.
"""

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
from accuracy import LabelledData, iter_folds, read_data
from accuracy_models import SEED, Cells, find_common
from accuracy_networks import train_and_ask
from levers import format_mean
from matplotlib.figure import Figure
from sklearn.metrics import f1_score
from sklearn.model_selection import train_test_split

from annotary.data.genes import align_genes
from annotary.models.baselines import BASELINES
from annotary.quality.panel import choose_panel
from annotary.quality.prepare import PreparedCells, log_normalize

TRANSFORMER, LINEAR = "transformer", "logistic regression"
SIZES, GENES, N_FOLDS = (300, 600, 1200, 2400, 0), (1200, 0), 3

_COLORS = {TRANSFORMER: "#b3446c", LINEAR: "#2f6f9f"}

Label = Callable[[Cells, np.ndarray, Cells], np.ndarray]
"""Cells to train on, their codes ``(n_train,)`` and held-out cells; codes of these."""


def label_by_transformer(train: Cells, codes: np.ndarray, held_out: Cells, *, n_genes: int) -> np.ndarray:
    """Train the transformer with its defaults, and label cells."""
    return train_and_ask(train, codes, held_out, n_genes=n_genes).held_out.argmax(axis=1)


def label_by_linear_model(train: Cells, codes: np.ndarray, held_out: Cells, *, n_genes: int) -> np.ndarray:
    """Fit the logistic regression on the same panel, and label cells."""
    params = BASELINES["logistic_regression"].start
    table = choose_panel(
        train.counts, train.gene_ids, depth=train.depth, codes=codes, method="f_test", n_top_genes=n_genes
    )
    panel = table.index[table["in_panel"]]
    seen, asked = (
        log_normalize(
            PreparedCells(align_genes(cells.counts, cells.gene_ids, panel), cells.depth),
            target_sum=float(params["target_sum"]),
        )
        for cells in (train, held_out)
    )
    fit = BASELINES["logistic_regression"].fit
    return fit(seen, codes, params, seed=SEED, n_jobs=1).predict(asked)


MODELS: dict[str, Callable[..., np.ndarray]] = {
    TRANSFORMER: label_by_transformer,
    LINEAR: label_by_linear_model,
}


def draw_part(labels: np.ndarray, train: np.ndarray, size: int) -> np.ndarray:
    """Draw a stratified part of the training cells, by position; 0 takes all."""
    if size in (0, len(train)):
        return train
    return np.sort(train_test_split(train, train_size=size, stratify=labels[train], random_state=SEED)[0])


def run(
    data: LabelledData, *, sizes: Sequence[int], genes: Sequence[int], n_folds: int, out: Path
) -> pd.DataFrame:
    """Measure what the CSV has not, and append it there."""
    done = set()
    if out.exists():
        done = set(pd.read_csv(out)[["fold", "size", "genes", "model"]].itertuples(index=False, name=None))
    for key, model, train, held_out in _iter_tasks(data, sizes, genes, n_folds):
        if (*key, model) in done:
            continue
        macro_f1, seconds = _score(data, partial(MODELS[model], n_genes=key[2]), train, held_out)
        row = dict(zip(("fold", "size", "genes"), key, strict=True)) | {
            "model": model,
            "n_train": len(train),
            "macro_f1": macro_f1,
            "seconds": seconds,
        }
        table = pd.DataFrame([row])
        table.to_csv(out, mode="a", header=not out.exists(), index=False, float_format="%.4f")
        print(
            f"fold {key[0]}, {len(train)} cells, {key[2] or 'all'} genes, {model}: {macro_f1:.3f}", flush=True
        )
    return pd.read_csv(out)


def _iter_tasks(
    data: LabelledData, sizes: Sequence[int], genes: Sequence[int], n_folds: int
) -> Iterator[tuple[tuple[int, int, int], str, np.ndarray, np.ndarray]]:
    """List fold, size and genes, the model, and the cells to train on and to label."""
    for size in sizes:
        for fold, train, held_out in islice(iter_folds(data), n_folds):
            for n_genes in genes:
                for model in MODELS:
                    yield (int(fold), size, n_genes), model, draw_part(data.labels, train, size), held_out


def _score(data: LabelledData, label: Label, train: np.ndarray, held_out: np.ndarray) -> tuple[float, float]:
    """Train on some cells, by position, and label others: macro-F1 and seconds."""
    names, codes = np.unique(data.labels, return_inverse=True)
    seen = data.cells.take_rows(train)
    common = find_common(seen.counts)
    started = time.perf_counter()
    predicted = label(seen.take_genes(common), codes[train], data.cells.take_rows(held_out))
    seconds = time.perf_counter() - started
    return float(f1_score(codes[held_out], predicted, average="macro", labels=range(len(names)))), seconds


def make_markdown(table: pd.DataFrame) -> str:
    """Write mean and standard deviation over folds as README.md shows them: a row for each size and panel."""
    lines = [
        "| training cells | genes | transformer | logistic regression | difference |",
        "|---|---|---|---|---|",
    ]
    for (n_genes, _), rows in table.groupby(["genes", "size"], sort=False):
        folds = rows.pivot_table(index="fold", columns="model", values="macro_f1")
        difference = folds[TRANSFORMER] - folds[LINEAR]
        scores = [format_mean(folds[TRANSFORMER]), format_mean(folds[LINEAR]), format_mean(difference, "+")]
        cells = f"{rows['n_train'].mean():,.0f}"
        lines.append(f"| {cells} | {f'{n_genes:,}' if n_genes else 'all'} | {' | '.join(scores)} |")
    return "\n".join(lines)


def draw(table: pd.DataFrame) -> Figure:
    """Draw the curves: a panel for each number of genes."""
    panels = list(table["genes"].unique())
    figure = Figure(figsize=(4.6 * len(panels), 3.8), layout="constrained")
    for axes, n_genes in zip(
        np.atleast_1d(figure.subplots(1, len(panels), sharey=True)), panels, strict=True
    ):
        for model, rows in table[table["genes"] == n_genes].groupby("model", sort=False):
            mean = rows.groupby("size")[["n_train", "macro_f1"]].mean().sort_values("n_train")
            axes.plot(mean["n_train"], mean["macro_f1"], color=_COLORS[model], label=model)
            axes.plot(rows["n_train"], rows["macro_f1"], ".", color=_COLORS[model], alpha=0.5)
        axes.set_xscale("log")
        ticks = sorted(table.groupby("size")["n_train"].mean())
        axes.set_xticks(ticks, [f"{tick:,.0f}" for tick in ticks], minor=False, rotation=30)
        axes.minorticks_off()
        axes.set(xlabel="training cells", title=f"{n_genes:,} genes" if n_genes else "all genes")
        axes.spines[["top", "right"]].set_visible(False)
    first = figure.axes[0]
    first.set_ylabel("macro-F1 of held-out cells")
    first.legend(frameon=False, loc="lower right")
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--genes", type=int, nargs="+", default=GENES)
    parser.add_argument("--folds", type=int, default=N_FOLDS)
    parser.add_argument("--resume", action="store_true", help="keep what is in the CSV")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".csv"))
    options = parser.parse_args(arguments)
    if not options.resume:
        options.out.unlink(missing_ok=True)
    data = read_data(options.data)
    table = run(data, sizes=options.sizes, genes=options.genes, n_folds=options.folds, out=options.out)
    draw(table).savefig(options.out.with_suffix(".png"), dpi=120)
    print(make_markdown(table))


if __name__ == "__main__":
    main()
