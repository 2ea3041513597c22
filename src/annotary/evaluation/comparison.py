"""Challenger against champion on the same test cells."""

from dataclasses import dataclass

import numpy as np

from annotary.data.dataset import Dataset, LabelledCells
from annotary.data.genes import count_shared
from annotary.data.hashing import hash_cell_ids
from annotary.errors import RegistryError
from annotary.evaluation.metrics import Evaluation, evaluate_predictions
from annotary.models.bundle import Annotation, Bundle


@dataclass(frozen=True)
class Verdict:
    """Whether the champion changes, and why.

    Attributes
    ----------
    promote
        Whether the challenger becomes champion.
    reason
        One sentence with the figures.
    """

    promote: bool
    reason: str


def annotate_cells(bundle: Bundle, dataset: Dataset, cells: LabelledCells, *, device: str) -> Annotation:
    """Annotate cells of a dataset."""
    return bundle.annotate_checked(cells.counts, dataset.var.index, depth=cells.depth, device=device)


def evaluate_bundle(bundle: Bundle, dataset: Dataset, cells: LabelledCells, *, device: str) -> Evaluation:
    """Evaluate any model on cells of a dataset, matching labels by name.

    A label that only the model knows counts as a wrong answer; one that only
    the dataset knows can never be given.
    """
    annotation = annotate_cells(bundle, dataset, cells, device=device)
    names = [*dataset.record.label_names]
    names += [name for name in bundle.label_names if name not in names]
    probabilities = np.zeros((len(cells.codes), len(names)), dtype=np.float32)
    probabilities[:, [names.index(name) for name in bundle.label_names]] = annotation.probabilities
    return evaluate_predictions(cells.codes, probabilities, names)


def check_comparable(champion: Bundle, dataset: Dataset, *, model_name: str) -> None:
    """Refuse to compare models that have nothing to do with each other.

    Raises
    ------
    RegistryError
        If champion and dataset share no label, or too few genes.
    """
    names = dataset.record.label_names
    found = count_shared(dataset.var.index, champion.spec.panel) / len(champion.spec.panel)
    if set(names) & set(champion.label_names) and found >= champion.spec.min_overlap:
        return
    raise RegistryError(
        f"registered model {model_name!r}",
        expected="a champion for the same kind of cells, to compare with",
        found=f"one for {len(champion.label_names)} labels such as {champion.label_names[0]!r}, where "
        f"{dataset.record.source} has labels such as {names[0]!r} and {found:.0%} of its genes",
        remedy="Give this model a name of its own with --model-name.",
    )


def find_unseen(champion: Bundle, cells: LabelledCells) -> np.ndarray:
    """Find the cells that a model was neither trained nor tuned on, ``(n_cells,)``."""
    return ~np.isin(hash_cell_ids(cells.cell_ids, cells.depth), champion.seen_cells)


def decide(challenger: float, champion: float | None) -> Verdict:
    """Promote when there is no champion, or the challenger's macro-F1 is higher.

    Parameters
    ----------
    challenger, champion
        Macro-F1 on the same test cells, 0 to 1; None where there is no champion.
    """
    if champion is None:
        return Verdict(promote=True, reason=f"no champion yet; challenger's macro-F1 is {challenger:.4f}")
    better = challenger > champion
    return Verdict(
        promote=better,
        reason=f"challenger's macro-F1 {challenger:.4f} is {'higher than' if better else 'not higher than'} "
        f"the champion's {champion:.4f} on the same test cells",
    )
