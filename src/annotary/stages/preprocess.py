"""preprocess: raw counts in, one dataset file out."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from annotary import __version__, keys
from annotary.config import PreprocessConfig
from annotary.data import embedded
from annotary.data.atomic import make_folder, replacing
from annotary.data.dataset import FILE_NAME, Dataset, DatasetRecord, hash_dataset_cells, write_dataset
from annotary.data.formats import convert_to_h5ad
from annotary.data.genes import detect_id_type
from annotary.data.labels import count_rare_labels, encode_labels
from annotary.data.source import Columns, LabelledCounts, name_columns, read_labelled_counts
from annotary.data.splits import hash_split, split_by_group, split_stratified
from annotary.errors import ConfigError, CountsError
from annotary.evaluation.figures import draw_class_counts, draw_panel
from annotary.log import say, warn
from annotary.quality import doublets
from annotary.quality.panel import choose_panel
from annotary.quality.prepare import hash_panel
from annotary.quality.qc import QualityThresholds, find_common_genes, judge_cells, measure_pct_mito
from annotary.tracking import StageRun, stage_run, to_json

_DOUBLET_RATE_WARNING = 0.2
_DOUBLET_RATE_REFUSED = 0.5


@dataclass(frozen=True)
class Preprocessed:
    """What preprocess made.

    Attributes
    ----------
    address
        ``runs:/`` address of the dataset file.
    path
        The dataset file in the output folder.
    counts_path
        The file the counts came from.
    columns
        obs columns of that file that were used.
    """

    address: str
    path: Path
    counts_path: Path
    columns: Columns


def preprocess(config: PreprocessConfig) -> Preprocessed:
    """Check counts, remove poor cells, genes and doublets, split, choose the panel, write the dataset."""
    with stage_run("preprocess", config) as run:
        output = make_folder(Path(config.output))
        cells, columns, path = _read(config, output)
        steps = {"cells_read": cells.n_read}
        removed: list[pd.DataFrame] = []
        cells = _leave_out(cells, np.where(cells.labels.isna(), "no label", ""), removed)
        steps["cells_labelled"] = len(cells.cell_ids)
        cells = _leave_out(cells, _judge(cells, config), removed)
        steps["cells_after_qc"] = len(cells.cell_ids)
        if config.doublets == "solo":
            cells, is_doublet = _call_doublets(cells, config, run)
            cells = _leave_out(cells, np.where(is_doublet, "doublet (SOLO)", ""), removed)
        steps["cells_after_doublets"] = len(cells.cell_ids)
        cells = _leave_out(cells, _find_rare(cells, config.min_cells_per_label), removed)
        steps["cells_kept"] = len(cells.cell_ids)
        run.log_table(pd.concat(removed), "removed_cells", index=False)
        steps["genes_read"] = len(cells.gene_ids)
        cells = cells.take_genes(
            find_common_genes(cells.counts, min_cells=config.min_cells, place=cells.place)
        )
        steps["genes_after_qc"] = len(cells.gene_ids)
        dataset = _make_dataset(cells, config, columns)
        steps["genes_in_panel"] = len(dataset.panel)
        target = output / FILE_NAME
        write_dataset(dataset, target)
        address = run.log_file(target, "dataset")
        _record(run, dataset, steps, target)
        say(f"dataset {dataset.record.dataset_hash[:12]}: {target}")
        return Preprocessed(address=address, path=target, counts_path=path, columns=columns)


def _read(config: PreprocessConfig, output: Path) -> tuple[LabelledCounts, Columns, Path]:
    """Read labelled counts, the obs columns they came with, and the h5ad file they lie in."""
    source = Path(config.input) if config.input else _write_embedded(output)
    columns = name_columns(
        is_embedded=not config.input,
        label_key=config.label_key,
        depth_key=config.depth_key,
        n_genes_key=config.n_genes_key,
        group_key=_check_group_key(config),
    )
    path = convert_to_h5ad(source, output, allow_pickle=config.allow_pickle)
    cells = read_labelled_counts(
        path,
        columns,
        source=source,
        counts_layer=config.counts_layer,
        label_table=Path(config.labels) if config.labels else None,
    )
    return cells, columns, path


def _leave_out(cells: LabelledCounts, reasons: np.ndarray, removed: list[pd.DataFrame]) -> LabelledCounts:
    """Leave out the cells that have a reason, ``(n_cells,)``, and note it in ``removed``."""
    bad = reasons != ""
    table = pd.DataFrame(
        {"cell_id": cells.cell_ids[bad], "label": cells.labels[bad].to_numpy(), "reason": reasons[bad]}
    )
    removed.append(table)
    for reason, size in table["reason"].value_counts().items():
        say(f"left out {size} cells: {reason}")
    return cells.take_cells(~bad)


def _judge(cells: LabelledCounts, config: PreprocessConfig) -> np.ndarray:
    """Say what is wrong with the quality of each cell, ``(n_cells,)``."""
    thresholds = QualityThresholds(
        min_genes=config.min_genes,
        min_counts=config.min_counts,
        max_pct_mito=config.max_pct_mito,
        n_mads=config.n_mads,
    )
    pct_mito = measure_pct_mito(cells.counts, cells.gene_ids)
    return judge_cells(cells.n_genes, cells.depth, pct_mito, thresholds=thresholds, place=cells.place)


def _find_rare(cells: LabelledCounts, min_cells: int) -> np.ndarray:
    """Say which cells have a label that few cells have, ``(n_cells,)``."""
    rare = count_rare_labels(cells.labels, min_cells=min_cells)
    reasons = {name: f"{name!r} has {size} cells, fewer than {min_cells}" for name, size in rare.items()}
    return np.array([reasons.get(label, "") for label in cells.labels], dtype=object)


def _write_embedded(folder: Path) -> Path:
    """Write the embedded data as an h5ad file, so that all data go the same way."""
    path = folder / f"{embedded.NAME}.h5ad"
    with replacing(path) as temporary:
        embedded.load_embedded().write_h5ad(temporary)
    return path


def _call_doublets(
    cells: LabelledCounts, config: PreprocessConfig, run: StageRun
) -> tuple[LabelledCounts, np.ndarray]:
    """Give each cell SOLO's probability, and say which cells are doublets, ``(n_cells,)``."""
    if len(cells.cell_ids) < doublets.MIN_CELLS:
        warn(f"{cells.place}: {len(cells.cell_ids)} cells are too few for SOLO; no doublet is removed")
        return cells, np.zeros(len(cells.cell_ids), dtype=bool)
    calls = doublets.call_doublets(cells.counts, max_epochs=config.doublet_epochs, seed=config.seed)
    rate = float(calls.is_doublet.mean())
    run.log_metrics({"doublet_rate": rate})
    table = pd.DataFrame(
        {
            "label": cells.labels.to_numpy(),
            "doublet_probability": calls.probability,
            "doublet": calls.is_doublet,
        },
        index=cells.cell_ids.rename("cell_id"),
    )
    run.log_table(table, "doublets")
    by_label = table.groupby("label")["doublet"].agg(["size", "mean"])
    run.log_table(by_label.set_axis(["cells", "doublet_rate"], axis=1), "doublets_by_label")
    worst = by_label["mean"].idxmax()
    say(f"doublets: {rate:.1%} of the cells, at most {by_label['mean'].max():.1%} of a label ({worst})")
    if rate > _DOUBLET_RATE_REFUSED:
        raise CountsError(
            cells.place,
            expected=f"a doublet rate of at most {_DOUBLET_RATE_REFUSED:.0%}",
            found=f"{rate:.0%}: SOLO has not converged",
            remedy="Raise --doublet-epochs, or pass --doublets none.",
        )
    if rate > _DOUBLET_RATE_WARNING:
        warn(f"SOLO calls {rate:.0%} of the cells doublets; more than 20 % is seldom right")
    return replace(cells, doublet_probability=calls.probability), calls.is_doublet


def _make_dataset(cells: LabelledCounts, config: PreprocessConfig, columns: Columns) -> Dataset:
    """Split the cells, choose the panel on the training side, and compute the hashes."""
    labels = encode_labels(cells.labels, place=f"{cells.source}: obs[{columns.label!r}]")
    sides = _split(cells, labels.codes, config, columns)
    training = np.flatnonzero(sides == keys.TRAIN)
    var = choose_panel(
        cells.counts[training],
        cells.gene_ids,
        depth=cells.depth[training],
        codes=labels.codes[training],
        method=config.panel_method,
        n_top_genes=config.n_top_genes,
    )
    obs = pd.DataFrame(
        {
            keys.LABEL: pd.Categorical(cells.labels, categories=list(labels.names)),
            keys.SPLIT: pd.Categorical(sides, categories=list(keys.SIDES)),
            keys.DEPTH: cells.depth,
            keys.N_GENES: cells.n_genes,
        },
        index=cells.cell_ids,
    )
    if cells.groups is not None:
        obs[keys.GROUP] = pd.Categorical(cells.groups)
    if cells.doublet_probability is not None:
        obs[keys.DOUBLET_PROBABILITY] = cells.doublet_probability
    record = DatasetRecord(
        source=cells.source.name,
        source_sha256=cells.sha256,
        label_key=columns.label,
        depth_key=columns.depth,
        label_names=labels.names,
        id_type=detect_id_type(cells.gene_ids),
        counts_hash=hash_dataset_cells(cells.counts, obs, cells.gene_ids),
        split_hash=hash_split(cells.cell_ids, sides),
        panel_hash=hash_panel(var.index[var[keys.IN_PANEL]].sort_values()),
        config=to_json(config.model_dump()),
        package_version=__version__,
    )
    return Dataset(counts=cells.counts, obs=obs, var=var, record=record)


def _check_group_key(config: PreprocessConfig) -> str:
    """Ask for the column that a group split needs."""
    if config.split == "group" and not config.group_key:
        raise ConfigError(
            "--split group",
            expected="the obs column with the groups",
            found="none",
            remedy="Name it with --group-key, for instance --group-key donor.",
        )
    return config.group_key


def _split(
    cells: LabelledCounts, codes: np.ndarray, config: PreprocessConfig, columns: Columns
) -> np.ndarray:
    """Put each cell on a side, ``(n_cells,)``."""
    if config.split == "group" and cells.groups is not None:
        return split_by_group(
            codes,
            cells.groups,
            val_fraction=config.val_fraction,
            test_fraction=config.test_fraction,
            seed=config.seed,
            place=f"{cells.source}: obs[{columns.group!r}]",
        )
    return split_stratified(
        cells.cell_ids,
        codes,
        val_fraction=config.val_fraction,
        test_fraction=config.test_fraction,
        rng=np.random.default_rng(config.seed),
    )


def _record(run: StageRun, dataset: Dataset, steps: dict[str, int], path: Path) -> None:
    """Log counts at each step, class counts, the panel, and the dataset."""
    run.log_metrics({name: float(value) for name, value in steps.items()})
    class_counts = pd.crosstab(dataset.obs[keys.LABEL], dataset.obs[keys.SPLIT])
    run.log_table(class_counts, "class_counts")
    run.log_figure(draw_class_counts(class_counts), "class_counts")
    run.log_table(dataset.var, "genes")
    run.log_figure(draw_panel(dataset.var), "panel")
    run.log_dataset(dataset, path, context="preprocessing")
    for name, value in steps.items():
        say(f"{name.replace('_', ' ')}: {value}")
