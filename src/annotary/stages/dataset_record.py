"""What preprocess tells of a dataset: metrics, tables, pictures, and the page that puts them together."""

import json
from pathlib import Path

import pandas as pd

from annotary import keys
from annotary.data.atomic import replacing
from annotary.data.dataset import DatasetTables
from annotary.data.splits import iter_fold_tables, make_split_table
from annotary.evaluation.dataset_report import make_report
from annotary.evaluation.figures import draw_class_counts, draw_panel, to_png
from annotary.log import say, warn
from annotary.stages.cleaning import Cleaning, shorten_reasons
from annotary.stages.training_picture import TrainingPicture
from annotary.tracking import StageRun

REPORT_NAME = "dataset.html"
_CAPTIONS = {
    "quality": "Quality of the labelled cells, with the thresholds",
    "doublets": "Doublet scores",
    "doublet_training": "Training of the doublet caller",
    "panel": "Gene panel",
    "class_counts": "Cells of each label by side",
    "umap": "UMAP of a sample of the training cells (at most 2,000)",
}


def log_dataset_record(
    run: StageRun,
    dataset: DatasetTables,
    cleaning: Cleaning,
    picture: TrainingPicture,
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
    picture
        Picture of training cells, on its way; waited for when all else is logged.
    path
        The dataset file.
    """
    steps = cleaning.steps | {"genes_after_qc": len(dataset.var), "genes_in_panel": len(dataset.panel)}
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
    }
    run.log_metrics({name: float(size) for name, size in steps.items()} | cleaning.metrics)
    for name, table in (("class_counts", class_counts), ("genes", dataset.var)):
        run.log_table(table, name)
    _log_split(run, dataset)
    run.log_dataset(dataset, path, context="preprocessing")
    if (umap := picture.draw()) is not None:
        pictures["umap"] = umap
    for name, png in pictures.items():
        run.log_picture(png, name)
    report = make_report(
        title=f"Dataset {dataset.record.source}",
        facts=_list_facts(dataset, cleaning),
        steps=steps,
        removed=_count_reasons(cleaning.removed),
        labels=class_counts,
        pictures={_CAPTIONS[name]: pictures[name] for name in _CAPTIONS if name in pictures},
        notes=notes,
        doublets=cleaning.tables.get("doublets_by_label"),
    )
    run.log_text(report, REPORT_NAME)
    with replacing(path.with_name(REPORT_NAME)) as temporary:
        temporary.write_text(report)


def _log_split(run: StageRun, dataset: DatasetTables) -> None:
    """Log the split as a table, and as a table for each fold."""
    table = make_split_table(
        dataset.obs.index,
        dataset.obs[keys.SPLIT].to_numpy(dtype=object),
        dataset.obs[keys.FOLD].to_numpy(),
    )
    run.log_table(table, "split", index=False)
    for fold, of_fold in iter_fold_tables(table):
        run.log_table(of_fold, f"split_fold_{fold}", index=False)


def _count_reasons(removed: pd.DataFrame) -> pd.DataFrame:
    """Count the cells that were left out for each reason, ``(n_reasons, 2)``."""
    sizes = shorten_reasons(removed["reason"].astype(str)).value_counts()
    return sizes.rename_axis("reason").reset_index(name="cells")


def _list_facts(dataset: DatasetTables, cleaning: Cleaning) -> dict[str, str]:
    """List where a dataset comes from, for people."""
    record = dataset.record
    settings = json.loads(record.config)
    return {
        "Source": record.source,
        "Counts": "\n".join(cleaning.inputs),
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
