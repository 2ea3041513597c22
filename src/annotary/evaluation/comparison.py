"""Which cells two models can be compared on."""

import numpy as np

from annotary.data.dataset import Dataset, LabelledCells
from annotary.data.genes import count_shared
from annotary.data.hashing import hash_cell_ids
from annotary.errors import RegistryError
from annotary.models.bundle import Annotation, Bundle


def annotate_cells(bundle: Bundle, dataset: Dataset, cells: LabelledCells, *, device: str) -> Annotation:
    """Annotate cells of a dataset."""
    prepared = bundle.spec.prepare(cells.counts, dataset.var.index, depth=cells.depth)
    return bundle.annotate_prepared(prepared, device=device)


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
