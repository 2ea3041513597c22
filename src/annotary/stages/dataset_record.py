"""What preprocess tells of a dataset: metrics, tables, pictures, and the page that puts them together."""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from annotary import keys
from annotary.config import PreprocessConfig
from annotary.data.dataset import DatasetTables
from annotary.data.source import Cells
from annotary.data.splits import list_fold_tables, make_split_table
from annotary.evaluation.dataset_report import make_report
from annotary.evaluation.embedding_figure import draw_embedding
from annotary.evaluation.figures import draw_class_counts, draw_panel, to_png
from annotary.log import say, warn
from annotary.quality.prepare import TARGET_SUM, PreparedCells, log_normalize
from annotary.stages.cleaning import Cleaning, shorten_reasons
from annotary.tracking import StageRun

REPORT_NAME = "dataset.html"
EMBEDDED_CELLS = 2000
"""Training cells in the UMAP; a sample, so that its time does not grow with the data."""

_CAPTIONS = {
    "quality": "Quality of all labelled cells, with the thresholds",
    "doublets": "Doublet scores",
    "doublet_training": "Training of the doublet caller",
    "panel": "Gene panel",
    "class_counts": "Cells of each label by side",
    "umap": "UMAP of training cells",
}


def log_dataset_record(
    run: StageRun,
    dataset: DatasetTables,
    cleaning: Cleaning,
    steps: dict[str, int],
    config: PreprocessConfig,
    *,
    path: Path,
) -> None:
    """Log what there is to know of a dataset, and say the sizes after each step.

    Parameters
    ----------
    run
        Run of the stage.
    dataset
        The dataset's tables.
    cleaning
        What was kept and what was left out; its cells are those of the dataset.
    steps
        Cells and genes after each step.
    config
        Resolved configuration.
    path
        The dataset file.
    """
    for name, size in steps.items():
        say(f"{name.replace('_', ' ')}: {size}")
    notes = list(cleaning.notes)
    if dataset.record.leaky:
        notes.append(
            "The panel was chosen on all cells before the split, as in the notebook: "
            "figures on the test cells are too good."
        )
        warn(notes[-1])
    class_counts = pd.crosstab(dataset.obs[keys.LABEL], dataset.obs[keys.SPLIT])
    pictures = cleaning.pictures | {
        "panel": to_png(draw_panel(dataset.var)),
        "class_counts": to_png(draw_class_counts(class_counts)),
        "umap": _draw_umap(dataset, cleaning.cells, seed=config.seed),
    }
    for name, picture in pictures.items():
        run.log_picture(picture, name)
    run.log_metrics({name: float(size) for name, size in steps.items()} | cleaning.metrics)
    run.log_table(class_counts, "class_counts")
    run.log_table(dataset.var, "genes")
    _log_split(run, dataset)
    report = make_report(
        title=f"Dataset {dataset.record.source}",
        facts=_list_facts(dataset),
        steps=steps,
        removed=_count_reasons(cleaning.removed),
        labels=class_counts,
        pictures={_CAPTIONS[name]: pictures[name] for name in _CAPTIONS if name in pictures},
        notes=notes,
    )
    run.log_text(report, REPORT_NAME)
    path.with_name(REPORT_NAME).write_text(report)
    run.log_dataset(dataset, path, context="preprocessing")


def _log_split(run: StageRun, dataset: DatasetTables) -> None:
    """Log the split as a table, and as a table for each fold."""
    table = make_split_table(
        dataset.obs.index,
        dataset.obs[keys.SPLIT].to_numpy(dtype=object),
        dataset.obs[keys.FOLD].to_numpy(),
    )
    run.log_table(table, "split", index=False)
    for fold, of_fold in list_fold_tables(table).items():
        run.log_table(of_fold, f"split_fold_{fold}", index=False)


def _draw_umap(dataset: DatasetTables, cells: Cells, *, seed: int) -> bytes:
    """Draw a sample of the training cells by label and by source, on the panel."""
    from annotary.quality.embedding import embed_cells  # numba takes seconds to import

    training = np.flatnonzero(dataset.obs[keys.SPLIT] == keys.TRAIN)
    order = np.argsort(dataset.obs.index[training].to_numpy(dtype=str), kind="stable")
    drawn = np.random.default_rng(seed).permutation(training[order])[:EMBEDDED_CELLS]
    drawn = np.sort(drawn)
    panel = np.flatnonzero(cells.gene_ids.isin(dataset.panel))
    sample = PreparedCells(
        counts=cells.counts.take_rows(drawn).take_columns(panel).load(),
        depth=dataset.obs[keys.DEPTH].to_numpy(dtype=np.float64)[drawn],
    )
    positions = embed_cells(log_normalize(sample, target_sum=TARGET_SUM), seed=seed)
    groups = {"Label": dataset.obs[keys.LABEL].iloc[drawn].astype(str).to_numpy()}
    if len(dataset.obs[keys.SOURCE].cat.categories) > 1:
        groups["Source"] = dataset.obs[keys.SOURCE].iloc[drawn].astype(str).to_numpy()
    return to_png(draw_embedding(positions, groups))


def _count_reasons(removed: pd.DataFrame) -> pd.DataFrame:
    """Count the cells that were left out for each reason, ``(n_reasons, 2)``."""
    sizes = shorten_reasons(removed["reason"].astype(str)).value_counts()
    return sizes.rename_axis("reason").reset_index(name="cells")


def _list_facts(dataset: DatasetTables) -> dict[str, str]:
    """List where a dataset comes from, for people."""
    record = dataset.record
    settings = json.loads(record.config)
    return {
        "Source": record.source,
        "SHA-256 of the source": record.source_sha256,
        "Dataset hash": record.dataset_hash,
        "Counts hash": record.counts_hash,
        "Split hash": record.split_hash,
        "Panel hash": record.panel_hash,
        "Labels": f"{len(record.label_names)}, from {record.label_key!r}",
        "Gene ids": record.id_type,
        "Leaky": "yes" if record.leaky else "no",
        "annotary": record.package_version,
        "Settings": "\n".join(f"{name} = {value}" for name, value in sorted(settings.items())),
    }
