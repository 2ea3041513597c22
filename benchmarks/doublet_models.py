"""Whether models get worse of the cells that are taken for doublets: trained on what each rule leaves.

    python benchmarks/doublet_models.py --data pbmc3k_2638.h5ad sorted_pbmc_3874.h5ad --labels label_maps.csv
        [--scores FOLDER] [--out benchmarks/doublet_models.csv]

Labels come from ``obs["cell_type"]``; ``--labels`` is a table with ``file``, ``label`` and ``coarse``, the
type that each label of a file means. A logistic regression and a random forest, on all genes of 10 training
cells or more and with nothing to tune, are trained on all cells, or without those that SOLO calls above 0.5,
or without those that ``annotary preprocess`` takes by default, and label

- held-out cells of their own study, five stratified folds; none is left out of the held-out cells;
- the other study's cells, whose types both have;
- these, trained on cells with doublets mixed in, as many as the loading makes (``doublets.py``).

``hit_f1`` is the F1 of the label of which SOLO calls the largest share.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from doublet_mixes import (
    LABEL_KEY,
    SEED,
    SOLO,
    SOLO_HALF,
    Mix,
    choose_rate,
    make_mix,
    score_mix,
    take_doublets,
)
from scipy.sparse import csr_matrix
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from sklearn.model_selection import StratifiedKFold

from annotary.quality.prepare import TARGET_SUM, PreparedCells, log_normalize

NOTHING = "nothing"
CLEANINGS = (NOTHING, SOLO_HALF, SOLO)
WITHIN_STUDY, AWAY, AWAY_MIXED = "own study", "other study", "other study, doublets mixed in"
MODELS: dict[str, Callable[[], LogisticRegression | RandomForestClassifier]] = {
    "logistic regression": lambda: LogisticRegression(C=0.03, class_weight="balanced", max_iter=500),
    "random forest": lambda: RandomForestClassifier(100, class_weight="balanced", random_state=SEED),
}
N_FOLDS = 5
_MIN_CELLS = 10


class Study:
    """A file's cells, as they are or with doublets mixed in, and what each rule takes of them."""

    def __init__(self, mix: Mix, folder: Path) -> None:
        self.name = mix.file.stem
        adata = make_mix(mix)
        self.genes = adata.var_names
        self.log_expr = _log_normalize(adata)
        self.labels = adata.obs[LABEL_KEY].to_numpy(dtype=object)
        table = score_mix(mix, folder).loc[adata.obs_names]
        self.taken = {rule: take_doublets(table, rule) for rule in CLEANINGS if rule != NOTHING}
        self.taken[NOTHING] = np.zeros(len(self.labels), dtype=bool)

    @property
    def hit_label(self) -> str:
        """The label of which SOLO calls the largest share."""
        return str(pd.Series(self.taken[SOLO_HALF]).groupby(self.labels).mean().idxmax())


def _log_normalize(adata: anndata.AnnData) -> csr_matrix:
    """Scale to 1e4 counts a cell and take log1p, ``(n_cells, n_genes)``."""
    counts = csr_matrix(adata.X, dtype=np.float32)
    depth = counts.sum(axis=1, dtype=np.float64).A1
    return log_normalize(PreparedCells(counts, depth), target_sum=TARGET_SUM)


def label_cells(model: str, seen: csr_matrix, labels: np.ndarray, asked: csr_matrix) -> np.ndarray:
    """Train on cells, and label others by the genes that are expressed in enough of the first."""
    genes = np.flatnonzero(np.bincount(seen.indices, minlength=seen.shape[1]) >= _MIN_CELLS)
    return MODELS[model]().fit(seen[:, genes], labels).predict(asked[:, genes])


def label_own(study: Study, model: str, cleaning: str) -> dict[str, float]:
    """Label the held-out cells of each fold: scores of all together."""
    given = np.empty(len(study.labels), dtype=object)
    folds = StratifiedKFold(N_FOLDS, shuffle=True, random_state=SEED)
    for train, held_out in folds.split(study.labels, study.labels):
        kept = train[~study.taken[cleaning][train]]
        given[held_out] = label_cells(
            model, study.log_expr[kept], study.labels[kept], study.log_expr[held_out]
        )
    hit = f1_score(study.labels, given, labels=[study.hit_label], average="macro")
    return _score(study.labels, given) | {"hit_label": study.hit_label, "hit_f1": hit}


def label_other(
    study: Study, other: Study, model: str, cleaning: str, coarse: dict[str, dict[str, str]]
) -> dict[str, float]:
    """Label the other study's cells of types that both have: scores by type."""
    kept = ~study.taken[cleaning]
    genes = study.genes.intersection(other.genes)
    seen = study.log_expr[kept][:, study.genes.get_indexer(genes)]
    truth = np.array([coarse[other.name].get(label, label) for label in other.labels])
    types = np.array([coarse[study.name].get(label, label) for label in study.labels])
    asked = np.isin(truth, types)
    given = label_cells(
        model, seen, study.labels[kept], other.log_expr[asked][:, other.genes.get_indexer(genes)]
    )
    return _score(truth[asked], np.array([coarse[study.name].get(label, label) for label in given]))


def _score(truth: np.ndarray, given: np.ndarray) -> dict[str, float]:
    """Score labels; macro-F1 is over those that are true of some cell."""
    macro_f1 = f1_score(truth, given, labels=np.unique(truth), average="macro")
    return {"macro_f1": float(macro_f1), "accuracy": float(accuracy_score(truth, given))}


def run(files: Sequence[Path], coarse: dict[str, dict[str, str]], folder: Path) -> pd.DataFrame:
    """Train on what each rule leaves of each study."""
    studies = [Study(Mix(file, 0, SEED), folder) for file in files]
    mixed = [Study(Mix(file, choose_rate(file), SEED), folder) for file in files]
    rows = []
    for number, model, cleaning in product(range(len(files)), MODELS, CLEANINGS):
        study, other = studies[number], studies[(number + 1) % len(files)]
        found = {
            WITHIN_STUDY: label_own(study, model, cleaning),
            AWAY: label_other(study, other, model, cleaning, coarse),
            AWAY_MIXED: label_other(mixed[number], other, model, cleaning, coarse),
        }
        for task, scores in found.items():
            row = {"trained_on": study.name, "task": task, "model": model, "left_out": cleaning}
            rows.append(row | scores)
            print(rows[-1], flush=True)
    return pd.DataFrame(rows)


def make_markdown(table: pd.DataFrame) -> str:
    """Write the table for the README: macro-F1 / accuracy of each model, by what was left out."""
    lines = [
        f"| trained on | labels | model | all cells | without {' | without '.join(CLEANINGS[1:])} |",
        "|---|---|---|---|---|---|",
    ]
    ordered = table.groupby(["trained_on", "task", "model"], sort=False)
    for (trained_on, task, model), rows in ordered:
        by_cleaning = rows.set_index("left_out")
        shown = [
            f"{by_cleaning.loc[name, 'macro_f1']:.3f} / {by_cleaning.loc[name, 'accuracy']:.3f}"
            for name in CLEANINGS
        ]
        lines.append(f"| {trained_on} | {task} | {model} | {' | '.join(shown)} |")
    return "\n".join(lines)


def read_types(path: Path) -> dict[str, dict[str, str]]:
    """Read the type that each label of each file means, by the file's name without its suffix."""
    table = pd.read_csv(path, dtype=str)
    return {
        Path(str(file)).stem: dict(zip(rows["label"], rows["coarse"], strict=True))
        for file, rows in table.groupby("file")
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, nargs=2, required=True)
    parser.add_argument("--labels", type=Path, required=True)
    parser.add_argument("--scores", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".csv"))
    options = parser.parse_args(arguments)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        table = run(options.data, read_types(options.labels), options.scores or Path(folder))
    table.round(6).to_csv(options.out, index=False)
    print(make_markdown(table), f"{time.perf_counter() - started:.0f} seconds", sep="\n")


if __name__ == "__main__":
    main()
