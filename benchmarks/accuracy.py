"""How well the baselines label cells that they have not seen, beside a plain model and the field's own.

    python benchmarks/accuracy.py [--data FILE[,FILE]|embedded ...] [--models NAME ...] [--n-trials 8]
        [--resume] [--out benchmarks/accuracy.csv]

Data: ``embedded`` cells, and each file (labels in ``obs["cell_type"]``); files with a comma between them are
joined on their shared genes, cells of one barcode taken once. Five stratified folds of the cells
in the order of the file; a file with ``obs["donor"]`` leaves out one donor at a time. On each fold's other
cells

- each kind of baseline is tuned by ``--n-trials`` trials on folds within them, and fitted (``annotary
  baselines`` does the same);
- the transformer is trained with its defaults (``annotary transformer``), and votes with the tuned logistic
  regression (``ensemble``); so are three of other seeds, whose probabilities are averaged (``of 3``);
- the notebook's transformer is trained on its 1,200 highly variable genes, once;
- ``plain LR`` is one logistic regression on all genes, with nothing to tune;
- CellTypist is trained by SGD with feature selection; scANVI with the held-out cells beside them, unlabelled.
  Where a package is not installed its model is left out.

Macro-F1 is over the labels that are true or given in some held-out cell. Seconds are those of training and
labelling; what is tuned counts its tuning. Each fold is written as soon as it is done; ``--resume`` goes on
from there. ``confusion`` in the CSV has the held-out cells by true label (rows) and given label, labels in
alphabetical order: what the intervals of the embedded data are made of. ``truth`` and ``calls`` have a letter
for each held-out cell, by which two models are compared on the same cells.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from accuracy_comparison import make_comparison, write_letters
from accuracy_models import SEED, Cells, Model, drop_missing, list_models
from scipy.sparse import csr_matrix
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score
from sklearn.model_selection import StratifiedKFold

from annotary.data import embedded
from annotary.data.labels import read_labels
from annotary.models.baselines import BASELINES

LINEAR = "logistic_regression"
LABEL_KEY, DONOR_KEY = "cell_type", "donor"
N_FOLDS = 5
EMBEDDED = "embedded"
CLAIMS = {"sorted_pbmc_3874": 0.860, "kang_pbmc_8684": 0.993}
"""Least mean macro-F1 of the best baseline, by dataset."""

_DRAWS = 2_000
_INTERVAL = (2.5, 97.5)
_SUMMARY = (
    "dataset",
    "model",
    "folds",
    "macro_f1",
    "macro_f1_sd",
    "accuracy",
    "accuracy_sd",
    "seconds",
    "pooled",
    "pooled_low",
    "pooled_high",
)
_PACKAGES = ("annotary", "scikit-learn", "optuna", "celltypist", "scvi-tools")


@dataclass(frozen=True)
class LabelledData:
    """Cells of a file and what they are.

    Attributes
    ----------
    name
        Name of the dataset.
    cells, labels
        Its cells, in the order of the file, and their labels, ``(n_cells,)``.
    """

    name: str
    cells: Cells
    labels: np.ndarray


def read_data(files: str) -> LabelledData:
    """Read the labelled cells of a file, of several with commas between them, or the embedded ones."""
    paths = [] if files == EMBEDDED else [Path(file) for file in files.split(",")]
    adata = join([anndata.read_h5ad(path) for path in paths]) if paths else embedded.load_embedded()
    name = "+".join(path.stem for path in paths) or embedded.NAME
    labels = read_labels(adata.obs, LABEL_KEY if paths else embedded.LABEL_KEY, place=name)
    adata = adata[labels.notna().to_numpy()]
    counts = csr_matrix(adata.X, dtype=np.float32)
    depth = counts.sum(axis=1, dtype=np.float64).A1 if paths else adata.obs[embedded.DEPTH_KEY].to_numpy()
    cells = Cells(
        counts=counts,
        depth=depth.astype(np.float64),
        cell_ids=adata.obs_names.astype(str),
        gene_ids=adata.var_names.astype(str),
        donors=adata.obs[DONOR_KEY].astype(str).to_numpy(dtype=object) if DONOR_KEY in adata.obs else None,
    )
    return LabelledData(name, cells, labels.dropna().to_numpy(dtype=object))


def join(parts: Sequence[anndata.AnnData]) -> anndata.AnnData:
    """Join cells on shared genes; of those with one barcode the first is taken."""
    if len(parts) == 1:
        return parts[0]
    joined = anndata.concat(parts, join="inner")
    return joined[~joined.obs_names.duplicated()].copy()


def iter_folds(data: LabelledData) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Fold the cells: one donor left out at a time, or five stratified folds.

    Yields
    ------
    Name of the fold, and the positions of its training and of its held-out cells.
    """
    donors = data.cells.donors
    if donors is not None:
        for donor in np.unique(donors):
            yield str(donor), np.flatnonzero(donors != donor), np.flatnonzero(donors == donor)
        return
    splitter = StratifiedKFold(N_FOLDS, shuffle=True, random_state=SEED)
    for fold, (train, held_out) in enumerate(splitter.split(np.zeros(len(data.labels)), data.labels)):
        yield str(fold), train, held_out


def score_fold(
    data: LabelledData, model: Model, train: np.ndarray, held_out: np.ndarray
) -> list[dict[str, object]]:
    """Train a model on some cells, by position, and score its results on others."""
    results = model.label(data.cells.take_rows(train), data.labels[train], data.cells.take_rows(held_out))
    truth = data.labels[held_out]
    rows = []
    for result in results:
        names = np.unique(data.labels)
        confusion = confusion_matrix(truth, result.labels, labels=names)
        rows.append(
            {
                "model": result.model,
                "macro_f1": f1_score(truth, result.labels, average="macro"),
                "accuracy": accuracy_score(truth, result.labels),
                "seconds": result.seconds,
                "n_train": len(train),
                "n_test": len(held_out),
                "n_trials": model.n_trials,
                "confusion": json.dumps(confusion.tolist(), separators=(",", ":")),
                "truth": write_letters(truth, names),
                "calls": write_letters(result.labels, names),
            }
        )
    return rows


def run(datasets: Sequence[LabelledData], models: Sequence[Model], out: Path) -> None:
    """Score each model on each fold that the CSV has not, and append it there."""
    done = find_done(out, models)
    for data in datasets:
        for fold, train, held_out in iter_folds(data):
            for model in models:
                if all((data.name, fold, name) in done for name in model.names):
                    continue
                key = {"dataset": data.name, "fold": fold}
                table = pd.DataFrame([key | row for row in score_fold(data, model, train, held_out)])
                table.to_csv(out, mode="a", header=not out.exists(), index=False, float_format="%.4f")
                for row in table.itertuples():
                    print(
                        f"{data.name}, fold {fold}, {row.model}: macro-F1 {row.macro_f1:.3f}, "
                        f"accuracy {row.accuracy:.3f}, {row.seconds:.1f} s",
                        flush=True,
                    )


def find_done(out: Path, models: Sequence[Model]) -> set[tuple[str, ...]]:
    """Find dataset, fold and model of the results that are there.

    Raises
    ------
    SystemExit
        If a model there was tuned by another number of trials.
    """
    if not out.exists():
        return set()
    results = read_results(out)
    for model in models:
        others = set(results.loc[results["model"].isin(model.names), "n_trials"]) - {model.n_trials}
        if others:
            raise SystemExit(
                f"{out}: {model.name} was tuned by {others.pop()} trials there, not by {model.n_trials}. "
                "Pass that as --n-trials, or another --out."
            )
    return set(results[["dataset", "fold", "model"]].itertuples(index=False, name=None))


def read_results(path: Path) -> pd.DataFrame:
    """Read the CSV, a row for each dataset, fold and model."""
    return pd.read_csv(path, dtype={"fold": str})


def summarise(results: pd.DataFrame) -> pd.DataFrame:
    """Average over folds.

    Returns
    -------
    Mean and standard deviation (n - 1; NaN for one fold) of macro-F1 and accuracy, mean seconds and number
    of folds of each dataset and model, in the order of the CSV; with macro-F1 of all held-out cells
    of the embedded data together, and its interval.
    """
    rows = []
    for (dataset, model), folds in results.groupby(["dataset", "model"], sort=False):
        row = {"dataset": dataset, "model": model, "folds": len(folds), "seconds": folds["seconds"].mean()}
        for score in ("macro_f1", "accuracy"):
            row |= {score: folds[score].mean(), f"{score}_sd": folds[score].std()}
        if dataset == embedded.NAME:
            confusion = np.sum([json.loads(text) for text in folds["confusion"]], axis=0)
            low, high = bootstrap_macro_f1(confusion, np.random.default_rng(SEED))
            row |= {"pooled": float(compute_macro_f1(confusion)), "pooled_low": low, "pooled_high": high}
        rows.append(row)
    return pd.DataFrame(rows).reindex(columns=_SUMMARY)


def compute_macro_f1(confusion: np.ndarray) -> np.ndarray:
    """Average F1 over the labels that are true or given in some cell.

    Parameters
    ----------
    confusion
        Cells by true and given label, ``(..., n_classes, n_classes)``.

    Returns
    -------
    Macro-F1, ``(...,)``.
    """
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    total = confusion.sum(axis=-1) + confusion.sum(axis=-2)
    f1 = np.divide(2.0 * hits, total, out=np.zeros(hits.shape), where=total > 0)
    return f1.sum(axis=-1) / (total > 0).sum(axis=-1)


def bootstrap_macro_f1(confusion: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    """Draw the cells again with replacement: percentile interval of macro-F1, 95 %.

    True and given label are all that macro-F1 sees of a cell, so that a multinomial draw of the
    confusion matrix is a draw of the cells. The models are not trained again.

    Parameters
    ----------
    confusion
        Cells by true and given label, ``(n_classes, n_classes)``.
    """
    n_cells = confusion.sum()
    draws = rng.multinomial(n_cells, confusion.ravel() / n_cells, size=_DRAWS)
    low, high = np.percentile(compute_macro_f1(draws.reshape(_DRAWS, *confusion.shape)), _INTERVAL)
    return float(low), float(high)


def make_markdown(table: pd.DataFrame) -> str:
    """Write the results as README.md shows them: one row for each dataset and model."""
    titles = ("data", "model", "folds", "macro-F1", "accuracy", "seconds a fold", "pooled macro-F1 (95 %)")
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for row in summarise(table).itertuples():
        scores = (_format(row.macro_f1, row.macro_f1_sd), _format(row.accuracy, row.accuracy_sd))
        pooled = ""
        if not np.isnan(row.pooled):
            pooled = f"{row.pooled:.3f} ({row.pooled_low:.3f} to {row.pooled_high:.3f})"
        name = row.model.replace("_", " ")
        lines.append(
            f"| {row.dataset} | {name} | {row.folds} | {' | '.join(scores)} | {row.seconds:.1f} | {pooled} |"
        )
    return "\n".join([*lines, "", make_comparison(table)]).strip()


def _format(mean: float, sd: float) -> str:
    """Write a mean with its standard deviation, if there is one."""
    return f"{mean:.3f}" if np.isnan(sd) else f"{mean:.3f} ± {sd:.3f}"


def check_claims(table: pd.DataFrame) -> list[str]:
    """Compare the best baseline of each dataset with what the baselines promise there."""
    summary = summarise(table)
    ours = summary[summary["model"].isin(list(BASELINES))]
    claims = []
    for dataset, least in CLAIMS.items():
        there = ours[ours["dataset"] == dataset]
        if there.empty:
            continue
        best = there.loc[there["macro_f1"].idxmax()]
        claims.append(
            f"{dataset}: mean macro-F1 {best['macro_f1']:.4f} over {best['folds']} folds by {best['model']} "
            f"(at least {least:.3f}): {'kept' if best['macro_f1'] >= least else 'NOT KEPT'}"
        )
    return claims


def describe_machine() -> dict[str, object]:
    """Name what the figures depend on."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "none"
    return {"python": platform.python_version(), "cpus": os.cpu_count(), **versions}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run and print."""
    names = [model.name for model in list_models(1)]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", nargs="+", default=[EMBEDDED])
    parser.add_argument("--models", nargs="+", choices=names, default=names)
    parser.add_argument("--n-trials", type=int, default=8, help="of each of our baselines")
    parser.add_argument("--resume", action="store_true", help="keep the folds that are in the CSV")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".csv"))
    options = parser.parse_args(arguments)
    models = drop_missing([one for one in list_models(options.n_trials) if one.name in options.models])
    if not models:
        sys.exit("None of the models can be run.")
    if not options.resume:
        options.out.unlink(missing_ok=True)
    run([read_data(path) for path in options.data], models, options.out)
    results = read_results(options.out)
    print("\n".join([make_markdown(results), *check_claims(results), json.dumps(describe_machine())]))


if __name__ == "__main__":
    main()
