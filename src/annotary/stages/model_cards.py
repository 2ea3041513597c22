"""Model cards of the versions that evaluate measured."""

import json
from dataclasses import dataclass

import numpy as np

from annotary import keys
from annotary.config import CHAMPION, EvaluateConfig
from annotary.data.dataset import Dataset, LabelledCells
from annotary.evaluation.card import (
    ModelCard,
    Rival,
    list_limits,
    measure_figures,
    to_html,
    to_markdown,
)
from annotary.evaluation.figures import draw_confusion, to_png
from annotary.evaluation.gate import compare
from annotary.evaluation.metrics import Evaluation
from annotary.models.bundle import Bundle
from annotary.promotions import EVALUATION_TAG
from annotary.registry import RegisteredVersion, describe_version, find_alias, tag_version
from annotary.stages.held_out_calls import name_column, read_calls
from annotary.tracking import COUNTS_HASH_TAG, KIND_TAG, SPLIT_HASH_TAG, StageRun
from annotary.version_check import load_version
from annotary.version_files import MODEL_HASH_TAG

CARD_TAG = "annotary.card"
N_DRAWS = 2000

_NOT_STATED = "not stated"


@dataclass(frozen=True)
class Measured:
    """A version with what it was measured by.

    Attributes
    ----------
    version
        The version.
    evaluation
        Its figures.
    calls
        What it called the test cells, ``(n_cells,)``, codes.
    """

    version: RegisteredVersion
    evaluation: Evaluation
    calls: np.ndarray

    @property
    def kind(self) -> str:
        """Model family, for people."""
        return self.version.tags[KIND_TAG].replace("_", " ")


def write_cards(
    run: StageRun, measured: list[Measured], dataset: Dataset, cells: LabelledCells, config: EvaluateConfig
) -> None:
    """Write each version's card: Markdown as its description, a page among the run's artifacts.

    Parameters
    ----------
    run
        Run of the stage.
    measured
        Versions that were measured on the same cells.
    dataset, cells
        The dataset and its test cells.
    config
        The stage's configuration.
    """
    names = np.array(dataset.record.label_names, dtype=object)
    calls = {f"{one.kind}, version {one.version.number}": names[one.calls] for one in measured}
    champion = find_alias(config.model_name, CHAMPION)
    measured_now = {one.version.number for one in measured}
    if champion is not None and champion.number not in measured_now and _has_same_cells(champion, dataset):
        calls[f"champion, version {champion.number}"] = read_calls(champion).take(cells.cell_ids).calls
    for one in measured:
        mine = f"{one.kind}, version {one.version.number}"
        rivals = [
            Rival(
                name,
                compare(
                    names[cells.codes],
                    calls[mine],
                    theirs,
                    n_draws=N_DRAWS,
                    rng=np.random.default_rng(config.seed),
                ),
            )
            for name, theirs in calls.items()
            if name != mine
        ]
        page = f"cards/{name_column(one.version.tags[KIND_TAG], one.version.number)}.html"
        card = _make_card(one, rivals, dataset, cells, config, address=run.link(page))
        confusion = to_png(draw_confusion({mine: one.evaluation.confusion_by_row}))
        run.log_text(to_html(card, confusion), page)
        describe_version(one.version, to_markdown(card))
        tag_version(one.version, {CARD_TAG: f"runs:/{run.run_id}/{page}"})


def _has_same_cells(champion: RegisteredVersion, dataset: Dataset) -> bool:
    """Tell whether the champion was measured on the same test cells."""
    wanted = {SPLIT_HASH_TAG: dataset.record.split_hash, COUNTS_HASH_TAG: dataset.record.counts_hash}
    same = all(champion.tags.get(tag) == value for tag, value in wanted.items())
    return same and EVALUATION_TAG in champion.tags


def _make_card(
    one: Measured,
    rivals: list[Rival],
    dataset: Dataset,
    cells: LabelledCells,
    config: EvaluateConfig,
    *,
    address: str,
) -> ModelCard:
    """Put together what a version's card says."""
    bundle = load_version(one.version)
    record = dataset.record
    settings = json.loads(record.config)
    figures, labels = measure_figures(
        cells.codes, one.calls, one.evaluation, n_draws=N_DRAWS, rng=np.random.default_rng(config.seed)
    )
    sides = dataset.obs[keys.SPLIT].value_counts()
    return ModelCard(
        title=f"{one.version.name} version {one.version.number}: {one.kind}",
        data={
            "Cells": f"{len(dataset.obs):,} of {record.source} ("
            + ", ".join(f"{count:,} {side}" for side, count in sides.items())
            + ")",
            "Split": str(settings.get("split", _NOT_STATED)),
            "Genes": f"{len(bundle.spec.gene_ids):,}, by {record.id_type}",
            "Labels": f"{len(record.label_names)}, from {record.label_key!r}",
            "Who made the labels": config.label_source or _NOT_STATED,
            "Licence of the data": config.licence or _NOT_STATED,
        },
        figures=figures,
        labels=labels,
        rivals=rivals,
        limits=list_limits(
            one.evaluation.per_class,
            split=str(settings.get("split", "")),
            min_overlap=bundle.spec.min_overlap,
            leaky=record.leaky,
        ),
        facts=_list_facts(one, bundle, dataset),
        address=address,
    )


def _list_facts(one: Measured, bundle: Bundle, dataset: Dataset) -> dict[str, str]:
    """List hashes, run and settings."""
    settings = json.loads(bundle.provenance.config)
    return {
        "Training run": bundle.provenance.run_id,
        "Dataset hash": dataset.record.dataset_hash,
        "Split hash": dataset.record.split_hash,
        "Panel hash": bundle.spec.panel_hash,
        "Model hash": one.version.tags[MODEL_HASH_TAG],
        "SHA-256 of the source": dataset.record.source_sha256,
        "annotary": bundle.provenance.package_version,
        "Settings": "\n".join(f"{name} = {value}" for name, value in sorted(settings.items())),
    }
