"""pretrain: counts without labels in, a network for the transformer to begin with out."""

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd

from annotary import __version__, keys
from annotary.config import PretrainConfig
from annotary.data.counts import count_genes_per_cell
from annotary.data.dataset import reread_cells
from annotary.data.discovery import find_sources
from annotary.data.hashing import hash_strings
from annotary.data.source import Cells, Columns, read_cells
from annotary.errors import ConfigError, CountsError
from annotary.log import say
from annotary.models.transformer.config import NetworkConfig, TrainingConfig
from annotary.models.transformer.pretrained import PretrainedNetwork
from annotary.models.transformer.pretraining import PretrainingEpoch, pretrain_network
from annotary.models.transformer.tokens import TokenizedCells, store_chunks
from annotary.network_options import NetworkOptions
from annotary.network_registry import FOLDER, register_network
from annotary.quality.prepare import PreparedCells, hash_panel
from annotary.registry import RegisteredVersion
from annotary.stages.dataset_input import fetch_dataset
from annotary.stages.opened_sources import open_sources
from annotary.tracking import KIND_TAG, PANEL_HASH_TAG, StageRun, stage_run, to_json

_LEAST_GENES = 5
"""Expressed genes of a cell that can be asked for some of them."""

_LEAST_CELLS = 20


def pretrain(config: PretrainConfig) -> RegisteredVersion:
    """Read counts in chunks, train a network to tell hidden genes, register it."""
    with stage_run("pretrain", config) as run, tempfile.TemporaryDirectory(prefix="annotary-") as name:
        folder = Path(name)
        options = config.part(NetworkOptions, attention_genes=0)
        with _read_cells(config, folder) as (cells, origin):
            cells, n_tokens = _choose(cells, config.pretraining_genes)
            shape = NetworkConfig.from_options(options, n_genes=len(cells.gene_ids), n_classes=1)
            tokens = store_chunks(shape, _iter_prepared(cells), folder, most_tokens=n_tokens)
        network, epochs = pretrain_network(
            tokens,
            network=shape,
            training=TrainingConfig.from_options(options, seed=config.seed, device=config.device),
            mask_share=config.mask_share,
            on_epoch=_logging_epochs(run),
        )
        run.log_table(pd.DataFrame([asdict(epoch) for epoch in epochs]), "epochs", index=False)
        origin |= {
            "run_id": run.run_id,
            "package_version": __version__,
            "config": to_json(config.model_dump()),
        }
        pretrained = PretrainedNetwork.take(network, cells.gene_ids, origin)
        return _register(pretrained, tokens, run, folder / FOLDER, config)


def _logging_epochs(run: StageRun) -> Callable[[PretrainingEpoch], None]:
    """Make what logs each epoch's metrics."""

    def log(epoch: PretrainingEpoch) -> None:
        run.log_metrics(asdict(epoch), step=epoch.epoch)

    return log


@contextlib.contextmanager
def _read_cells(config: PretrainConfig, folder: Path) -> Iterator[tuple[Cells, dict[str, str]]]:
    """Read the files, or the training and validation cells of a dataset, and say what they are."""
    if bool(config.input) == bool(config.dataset):
        raise ConfigError(
            "--input",
            expected="files with counts, or a dataset file as --dataset instead",
            found="both" if config.input else "neither",
            remedy="Name one of them.",
        )
    if config.dataset:
        path = fetch_dataset(config.dataset, read_timeout=config.read_timeout)
        with reread_cells(path, folder) as cells:
            kept = (cells.obs[keys.SPLIT] != keys.TEST).to_numpy()
            yield cells.take(kept), {"input": cells.place, "input_sha256": ""}
        return
    sources = open_sources(
        find_sources(config.input),
        folder,
        counts_layer=config.counts_layer,
        allow_pickle=False,
        read_timeout=config.read_timeout,
    )
    columns = Columns(label="", depth=config.depth_key, n_genes="", group="", lane="")
    with read_cells(sources, columns, folder, counts_layer=config.counts_layer, label_table=None) as cells:
        hashes = hash_strings(sorted(source.sha256 for source in sources))
        yield cells, {"input": ", ".join(source.path.name for source in sources), "input_sha256": hashes}


def _choose(cells: Cells, n_genes: int) -> tuple[Cells, int]:
    """Keep the genes that most cells express and the cells that express some; count what is left of both."""
    n_expressing = np.zeros(len(cells.gene_ids), dtype=np.int64)
    for _, chunk in cells.iter_chunks():
        n_expressing += np.bincount(chunk.indices[chunk.data > 0], minlength=len(n_expressing))
    ranked = np.argsort(-n_expressing, kind="stable")[:n_genes]  # genes are in alphabetical order
    chosen = np.sort(ranked[n_expressing[ranked] > 0])
    cells = cells.take_genes(chosen)
    rich = [count_genes_per_cell(chunk) >= _LEAST_GENES for _, chunk in cells.iter_chunks()]
    kept = np.concatenate(rich) if rich else np.zeros(0, dtype=bool)
    if kept.sum() < _LEAST_CELLS:
        raise CountsError(
            cells.place,
            expected=f"at least {_LEAST_CELLS} cells that express {_LEAST_GENES} genes or more",
            found=f"{kept.sum()} of {len(kept)}",
            remedy="Pretrain on more cells.",
        )
    say(f"pretraining on {kept.sum():,} cells x {len(chosen):,} genes")
    return cells.take(kept), int(n_expressing[chosen].sum())


def _iter_prepared(cells: Cells) -> Iterator[PreparedCells]:
    """Read cells in chunks as a network takes them."""
    depth = cells.obs[keys.DEPTH].to_numpy(dtype=np.float64)
    for rows, chunk in cells.iter_chunks():
        yield PreparedCells(counts=chunk, depth=depth[rows])


def _register(
    pretrained: PretrainedNetwork,
    tokens: TokenizedCells,
    run: StageRun,
    folder: Path,
    config: PretrainConfig,
) -> RegisteredVersion:
    """Write the network, log it, make it a version."""
    tags = {
        KIND_TAG: "pretrained",
        PANEL_HASH_TAG: hash_panel(pd.Index(pretrained.gene_ids)),
        "annotary.n_cells": str(len(tokens)),
    }
    version = register_network(run, pretrained.save(folder), config.pretrained_name, tags=tags)
    say(f"registered {version.uri}; begin with it by annotary transformer --init-from {version.uri}")
    return version
