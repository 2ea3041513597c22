"""preprocess: raw counts in, one dataset file out."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from annotary import __version__, keys
from annotary.config import PreprocessConfig
from annotary.data import embedded
from annotary.data.atomic import make_folder, replacing
from annotary.data.dataset import FILE_NAME, DatasetRecord, DatasetTables, write_dataset
from annotary.data.discovery import Source, find_sources
from annotary.data.genes import detect_id_type
from annotary.data.hashing import hash_strings
from annotary.data.labels import encode_labels
from annotary.data.source import Cells, Columns, name_columns
from annotary.data.splits import assign_folds, hash_split
from annotary.errors import ConfigError
from annotary.log import say
from annotary.quality.gene_tally import tally_genes
from annotary.quality.panel import rank_genes
from annotary.quality.prepare import hash_panel
from annotary.quality.qc import find_common_genes
from annotary.stages.cleaning import Cleaning, clean_cells, hash_cleaning, write_cleaning
from annotary.stages.dataset_record import log_dataset_record
from annotary.stages.opened_sources import open_sources
from annotary.stages.reuse import CLEANING_FOLDER, CLEANING_TAG, REUSED_TAG, reuse_cleaning
from annotary.stages.splitting import split_cells
from annotary.stages.training_picture import open_picture
from annotary.tracking import StageRun, stage_run, to_json

_SEED_PRESET = {
    "doublets": "solo",
    "min_genes": 200,
    "min_counts": 0,
    "max_pct_mito": 100.0,
    "n_mads": 0.0,
    "min_cells": 10,
    "panel_method": "seurat",
    "n_top_genes": 1200,
    "split": "stratified",
    "test_fraction": 0.2,
    "val_fraction": 0.1,
}
"""What the notebook did; a doublet caller that was switched off stays so."""


@dataclass(frozen=True)
class Preprocessed:
    """What preprocess made.

    Attributes
    ----------
    address
        ``runs:/`` address of the dataset file.
    path
        The dataset file in the output folder.
    sources
        The files that the counts came from.
    columns
        obs columns of those files that were used.
    """

    address: str
    path: Path
    sources: list[Source]
    columns: Columns


def preprocess(config: PreprocessConfig) -> Preprocessed:
    """Check counts, remove poor cells, genes and doublets, split, choose the panel, write the dataset."""
    with stage_run("preprocess", config) as run:
        config = _apply_preset(config)
        output = make_folder(Path(config.output))
        sources, columns = _find_sources(config, output)
        target = output / FILE_NAME
        with (
            open_picture(seed=config.seed) as picture,
            _get_clean_cells(sources, columns, output, config, run) as cleaning,
        ):
            cells, tables = _design_dataset(cleaning, sources, columns, config)
            picture.start(cells, tables)
            dataset = write_dataset(target, cells.counts.iter_chunks(), tables)
            address = run.log_file(target, "dataset")
            run.log_folder(write_cleaning(cleaning, output / CLEANING_FOLDER))
            log_dataset_record(run, dataset, cleaning, picture, path=target)
        say(f"dataset {dataset.record.dataset_hash[:12]}: {target}")
        return Preprocessed(address=address, path=target, sources=sources, columns=columns)


def _apply_preset(config: PreprocessConfig) -> PreprocessConfig:
    """Let a preset decide what it is about."""
    if config.preset != "seed":
        return config
    wanted = _SEED_PRESET | ({"doublets": "none"} if config.doublets == "none" else {})
    changed = {name: value for name, value in wanted.items() if getattr(config, name) != value}
    if changed:
        say("--preset seed takes " + ", ".join(f"{name} {value}" for name, value in changed.items()))
    return config.model_copy(update=wanted)


def _find_sources(config: PreprocessConfig, output: Path) -> tuple[list[Source], Columns]:
    """Find the input's files, each as h5ad, and the obs columns to use."""
    if config.split == "group" and not config.group_key:
        raise ConfigError(
            "--split group",
            expected="the obs column with the groups",
            found="none",
            remedy="Name it with --group-key, for instance --group-key donor.",
        )
    columns = name_columns(
        is_embedded=not config.input,
        label_key=config.label_key,
        depth_key=config.depth_key,
        n_genes_key=config.n_genes_key,
        group_key=config.group_key,
        lane_key=config.lane_key,
    )
    found = find_sources(config.input or str(_write_embedded(output)))
    _refuse_overwriting(found, output / FILE_NAME)
    sources = open_sources(
        found,
        output,
        counts_layer=config.counts_layer,
        allow_pickle=config.allow_pickle,
        read_timeout=config.read_timeout if config.input else 0,
    )
    return sources, columns


def _refuse_overwriting(sources: list[Source], target: Path) -> None:
    """Refuse an input that lies where the dataset will be written."""
    for source in sources:
        if target.exists() and source.path.samefile(target):
            raise ConfigError(
                "--output",
                expected="another folder than that of the input",
                found=f"{source.path}, which the dataset would replace",
                remedy="Name another folder with --output, or rename the input.",
            )


def _write_embedded(folder: Path) -> Path:
    """Write the embedded data as an h5ad file, so that all data go the same way."""
    path = folder / f"{embedded.NAME}.h5ad"
    with replacing(path) as temporary:
        embedded.load_embedded().write_h5ad(temporary)
    return path


@contextlib.contextmanager
def _get_clean_cells(
    sources: list[Source], columns: Columns, output: Path, config: PreprocessConfig, run: StageRun
) -> Iterator[Cleaning]:
    """Take the clean cells of an earlier run, or clean the input's."""
    cleaning_hash = hash_cleaning(sources, columns, config)
    with contextlib.ExitStack() as stack:
        reused = None
        if config.reuse:
            reused = stack.enter_context(
                reuse_cleaning(run, cleaning_hash, output, read_timeout=config.read_timeout)
            )
        if reused:
            cleaning, run_id = reused
            run.set_tags({REUSED_TAG: run_id})
        else:
            cleaning = stack.enter_context(clean_cells(sources, columns, output, config))
        run.set_tags({CLEANING_TAG: cleaning_hash})
        yield cleaning


def _design_dataset(
    cleaning: Cleaning, sources: list[Source], columns: Columns, config: PreprocessConfig
) -> tuple[Cells, DatasetTables]:
    """Split the cells and choose the panel on the training side: kept genes of the cells, and tables."""
    cells = cleaning.cells
    labels = encode_labels(cells.obs[keys.LABEL], place=f"{cells.place}: obs[{columns.label!r}]")
    sides, groups = split_cells(cells, labels.codes, config, group_column=columns.group)
    folds = assign_folds(
        cells.obs.index,
        labels.codes,
        sides,
        groups,
        n_folds=config.n_folds,
        seed=config.seed,
        place=cells.place,
    )
    leaky = config.preset == "seed"
    in_panel_choice = np.ones(len(sides), dtype=bool) if leaky else sides == keys.TRAIN
    tally = tally_genes(cells, labels.codes, in_panel_choice, method=config.panel_method)
    common = find_common_genes(
        tally.n_expressing, n_cells=len(sides), min_cells=config.min_cells, place=cells.place
    )
    var = rank_genes(tally, cells.gene_ids, n_top_genes=config.n_top_genes, among=common)
    obs = _make_obs(cells.obs, labels.names, sides, folds, groups)
    record = DatasetRecord(
        source=", ".join(source.path.name for source in sources),
        source_sha256=_hash_sources(sources),
        label_key=columns.label,
        depth_key=columns.depth,
        label_names=labels.names,
        id_type=detect_id_type(var.index),
        counts_hash="",  # known when they are written
        split_hash=hash_split(obs.index, sides, folds),
        panel_hash=hash_panel(var.index[var[keys.IN_PANEL]].sort_values()),
        leaky=leaky,
        config=to_json(config.model_dump()),
        package_version=__version__,
        doublets=to_json({name: n for name, n in cleaning.metrics.items() if name.startswith("doublet")}),
    )
    return cells.take_genes(common), DatasetTables(obs=obs, var=var, record=record)


def _make_obs(
    cleaned: pd.DataFrame,
    label_names: tuple[str, ...],
    sides: np.ndarray,
    folds: np.ndarray,
    groups: np.ndarray | None,
) -> pd.DataFrame:
    """Make the dataset's table of cells."""
    obs = pd.DataFrame(
        {
            keys.LABEL: pd.Categorical(cleaned[keys.LABEL], categories=list(label_names)),
            keys.SPLIT: pd.Categorical(sides, categories=list(keys.SIDES)),
            keys.FOLD: folds.astype(np.int16),
            keys.SOURCE: cleaned[keys.SOURCE].cat.remove_unused_categories(),
            keys.LANE: cleaned[keys.LANE].cat.remove_unused_categories(),
        },
        index=cleaned.index,
    )
    obs[keys.N_GENES] = cleaned[keys.N_GENES].to_numpy().astype(np.int64)
    for name in (keys.DEPTH, keys.PCT_MITO, keys.DOUBLET_PROBABILITY, keys.DOUBLET, keys.DOUBLET_KEPT):
        if name in cleaned:
            obs[name] = cleaned[name].to_numpy()
    if groups is not None:
        obs[keys.GROUP] = pd.Categorical(groups.astype(str))
    return obs


def _hash_sources(sources: list[Source]) -> str:
    """Hash the bytes of one source, or of several in any order."""
    hashes = sorted(source.sha256 for source in sources)
    return hashes[0] if len(hashes) == 1 else hash_strings(hashes)
