"""The first half of preprocess: read every cell, and keep the labelled, good, single ones."""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd

from annotary import __version__, keys
from annotary.config import PreprocessConfig
from annotary.data.atomic import make_folder, replacing
from annotary.data.csv_text import unguard_table, write_csv
from annotary.data.damage import READERS_RAISE
from annotary.data.discovery import Source
from annotary.data.hashing import hash_strings
from annotary.data.labels import count_rare_labels, hash_label_table
from annotary.data.similar_labels import settle_spellings
from annotary.data.source import ROW_HASH, Cells, Columns, find_repeated_cells, read_cells
from annotary.errors import InputFileError, summarize
from annotary.evaluation.figures import to_png
from annotary.evaluation.quality_figures import draw_quality
from annotary.log import say, warn
from annotary.quality.qc import QualityThresholds, judge_cells
from annotary.stages.doublet_calls import find_doublets
from annotary.tracking import to_json

_SUMMARY_NAME = "summary.json"
_REMOVED_NAME = "removed_cells"
_OPTIONAL_NAMES = (
    "doublets.csv",
    "doublets_by_lane.csv",
    "doublets_by_label.csv",
    "doublets.png",
    "doublet_training.png",
)

_SETTINGS = (
    "preset",
    "min_cells_per_label",
    "min_genes",
    "min_counts",
    "max_pct_mito",
    "n_mads",
    "min_cells",
    "doublets",
    "doublet_epochs",
    "doublet_rate",
    "doublet_label_limit",
    "counts_layer",
    "similar_labels",
    "seed",
)
"""Parameters that decide which cells are kept."""


@dataclass(frozen=True)
class Cleaning:
    """What was kept, and what there is to tell of the rest.

    Attributes
    ----------
    cells
        Labelled, good, single cells.
    steps
        Cells and genes after each step.
    removed
        ``cell_id``, ``label``, ``source`` and ``reason`` of each cell that was left out, ``(n_removed, 4)``.
    tables
        Other tables by name.
    pictures
        Pictures by name, PNG.
    metrics
        Other figures by name.
    notes
        What may be wrong, for people.
    inputs
        What was read of each input, for people.
    """

    cells: Cells
    steps: dict[str, int]
    removed: pd.DataFrame
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    pictures: dict[str, bytes] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)


def hash_cleaning(sources: list[Source], columns: Columns, config: PreprocessConfig) -> str:
    """Hash all that decides what :func:`clean_cells` gives: content of the inputs, and settings."""
    settings = {name: getattr(config, name) for name in _SETTINGS} | vars(columns)
    labels = hash_label_table(Path(config.labels)) if config.labels else ""
    inputs = sorted(f"{source.name}\t{source.sha256}" for source in sources)
    return hash_strings([to_json(settings), labels, __version__, *inputs])


@contextlib.contextmanager
def clean_cells(
    sources: list[Source], columns: Columns, folder: Path, config: PreprocessConfig
) -> Iterator[Cleaning]:
    """Read the sources and keep the labelled, good, single cells; their counts lie on disk meanwhile."""
    with read_cells(
        sources,
        columns,
        folder,
        counts_layer=config.counts_layer,
        label_table=Path(config.labels) if config.labels else None,
    ) as cells:
        steps = {"cells_read": len(cells.obs), "genes_read": cells.n_genes_read}
        if len(sources) > 1:
            steps["genes_shared"] = len(cells.gene_ids)
        draft = Cleaning(
            cells=cells,
            steps=steps,
            removed=pd.DataFrame(),
            inputs=list(cells.inputs),
            notes=_settle_labels(cells, config),
        )
        n_recovered = _count_recovered(cells.obs, config.min_genes)
        labels = cells.obs[keys.LABEL]
        draft = _leave_out(draft, np.where(labels.isna(), "no label", ""), "cells_labelled")
        draft = _leave_out_repeated(draft)
        del draft.cells.obs[ROW_HASH], labels
        draft.pictures["quality"] = to_png(draw_quality(draft.cells.obs, _list_limits(config)))
        in_notebook_order = config.preset == "seed"
        if in_notebook_order:
            draft = _remove_doublets(draft, config, n_recovered)
        draft = _leave_out(draft, _judge(draft.cells, config), "cells_after_qc")
        if not in_notebook_order:
            draft = _remove_doublets(draft, config, n_recovered)
        rare = _find_rare(draft.cells.obs[keys.LABEL], config.min_cells_per_label)
        draft = _leave_out(draft, rare, "cells_kept")
        yield draft


def _settle_labels(cells: Cells, config: PreprocessConfig) -> list[str]:
    """Settle labels that are spelt in several ways, and list what there is to know of the inputs."""
    cells.obs[keys.LABEL], notes = settle_spellings(
        cells.obs[keys.LABEL], choice=config.similar_labels, place=config.labels or cells.place
    )
    notes = [*cells.notes, *notes]
    for note in notes:
        warn(note)
    return notes


def write_cleaning(cleaning: Cleaning, folder: Path) -> Path:
    """Write all but the cells into a folder, as :func:`read_cleaning` reads it."""
    folder = make_folder(folder)
    for name in _OPTIONAL_NAMES:  # of another run into the same folder
        (folder / name).unlink(missing_ok=True)
    summary = {
        "steps": cleaning.steps,
        "metrics": cleaning.metrics,
        "notes": cleaning.notes,
        "inputs": cleaning.inputs,
    }
    with replacing(folder / _SUMMARY_NAME) as path:
        path.write_text(json.dumps(summary, indent=1))
    for name, table in {_REMOVED_NAME: cleaning.removed, **cleaning.tables}.items():
        with replacing(folder / f"{name}.csv") as path:
            write_csv(table, path, index=False)
    for name, picture in cleaning.pictures.items():
        with replacing(folder / f"{name}.png") as path:
            path.write_bytes(picture)
    return folder


def read_cleaning(folder: Path, cells: Cells) -> Cleaning:
    """Read what :func:`write_cleaning` wrote of these cells.

    Raises
    ------
    InputFileError
        If something is missing.
    """
    try:
        summary = json.loads((folder / _SUMMARY_NAME).read_text())
        tables = {
            path.stem: unguard_table(
                pd.read_csv(path, keep_default_na=False, na_values=[""], float_precision="round_trip")
            )
            for path in sorted(folder.glob("*.csv"))
        }
        return Cleaning(
            cells=cells,
            steps=summary["steps"],
            removed=tables.pop(_REMOVED_NAME),
            tables=tables,
            pictures={path.stem: path.read_bytes() for path in sorted(folder.glob("*.png"))},
            metrics=summary["metrics"],
            notes=summary["notes"],
            inputs=summary["inputs"],
        )
    except READERS_RAISE as error:
        raise InputFileError(
            folder,
            expected="to be the record of an earlier preprocess",
            found=f"{summarize(error)}",
            remedy="Pass --reuse false to start anew.",
        ) from error


def _leave_out(draft: Cleaning, reasons: np.ndarray, step: str) -> Cleaning:
    """Leave out the cells that have a reason, ``(n_cells,)``, and note it."""
    obs = draft.cells.obs
    bad = np.asarray(reasons != "", dtype=bool)
    table = pd.DataFrame(
        {
            "cell_id": obs.index[bad],
            "label": obs[keys.LABEL].to_numpy()[bad],
            "source": obs[keys.SOURCE].astype(str).to_numpy()[bad],
            "reason": np.asarray(reasons, dtype=object)[bad],
        }
    )
    for reason, size in shorten_reasons(table["reason"]).value_counts().items():
        say(f"left out {size} cells: {reason}")
    return replace(
        draft,
        cells=draft.cells.take(~bad) if bad.any() else draft.cells,
        steps=draft.steps | {step: int((~bad).sum())},
        removed=pd.concat([draft.removed, table]),
    )


def _leave_out_repeated(draft: Cleaning) -> Cleaning:
    """Leave out cells that are in the data twice, and tell where the two have different labels."""
    labels = draft.cells.obs[keys.LABEL]
    originals = pd.Series(find_repeated_cells(draft.cells), index=labels.index)
    repeated = originals[originals != ""]
    kept_labels = labels.loc[repeated].to_numpy()
    reasons = originals.copy()
    reasons[repeated.index] = [
        f"same counts as {cell} ({label})" for cell, label in zip(repeated, kept_labels, strict=True)
    ]
    n_disputed = int((labels.loc[repeated.index].to_numpy() != kept_labels).sum())
    notes = list(draft.notes)
    if n_disputed:
        notes.append(
            f"{n_disputed} cells are in the data twice with two different labels; "
            "the one whose id comes first was kept, removed_cells names both labels."
        )
        warn(notes[-1])
    return _leave_out(replace(draft, notes=notes), reasons.to_numpy(), "cells_not_repeated")


def shorten_reasons(reasons: pd.Series) -> pd.Series:
    """Drop what differs from cell to cell."""
    return reasons.str.replace(r"^same counts as .*", "same counts as another cell", regex=True)


def _judge(cells: Cells, config: PreprocessConfig) -> np.ndarray:
    """Say what is wrong with the quality of each cell, ``(n_cells,)``."""
    thresholds = QualityThresholds(
        min_genes=config.min_genes, min_counts=config.min_counts, max_pct_mito=config.max_pct_mito
    )
    n_genes, depth, pct_mito = (
        cells.obs[name].to_numpy() for name in (keys.N_GENES, keys.DEPTH, keys.PCT_MITO)
    )
    return judge_cells(
        n_genes, depth, pct_mito, thresholds=thresholds, n_mads=config.n_mads, place=cells.place
    )


def _list_limits(config: PreprocessConfig) -> dict[str, float]:
    """List the thresholds that are drawn."""
    names = ("min_genes", "min_counts", "max_pct_mito")
    return {name: float(getattr(config, name)) for name in names}


def _find_rare(labels: pd.Series, min_cells: int) -> np.ndarray:
    """Say which cells have a label that few cells have, ``(n_cells,)``."""
    rare = count_rare_labels(labels, min_cells=min_cells)
    reasons = {name: f"{name!r} has {size} cells, fewer than {min_cells}" for name, size in rare.items()}
    return labels.map(lambda label: reasons.get(label, "")).to_numpy(dtype=object)


def _remove_doublets(draft: Cleaning, config: PreprocessConfig, n_recovered: dict[str, int]) -> Cleaning:
    """Call doublets in each lane, and leave them out."""
    if config.doublets == "none":
        return replace(draft, steps=draft.steps | {"cells_after_doublets": len(draft.cells.obs)})
    found = find_doublets(draft.cells, config, n_recovered=n_recovered)
    draft = replace(
        draft,
        cells=replace(draft.cells, obs=found.obs),
        tables=draft.tables | found.tables,
        pictures=draft.pictures | found.pictures,
        metrics=draft.metrics | found.metrics,
        notes=draft.notes + found.notes,
    )
    reasons = np.where(found.obs[keys.DOUBLET], f"doublet ({config.doublets})", "")
    return _leave_out(draft, reasons, "cells_after_doublets")


def _count_recovered(obs: pd.DataFrame, min_genes: int) -> dict[str, int]:
    """Count each lane's cells with enough genes, labelled or not: they were loaded together."""
    is_cell = obs[keys.N_GENES] >= min_genes
    return {str(lane): int(size) for lane, size in obs.loc[is_cell, keys.LANE].value_counts().items()}
