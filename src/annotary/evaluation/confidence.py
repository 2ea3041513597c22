"""Whether confidence keeps its promises, on cells that had no say in it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from annotary.models.bundle import Annotation
from annotary.models.calibration import compute_ece


@dataclass(frozen=True)
class ConfidenceFigures:
    """What calibration, prediction sets, thresholds and novelty do on labelled cells.

    Attributes
    ----------
    metrics
        ``ece``: calibration error. ``conformal_coverage``: share of cells whose set has their label;
        ``worst_label_coverage``: that of the label with the lowest; ``mean_set_size``: labels in a set.
        ``unassigned_rate``, and ``assigned_accuracy`` of the other cells (1 if there are none).
        ``ood_rate``: share of cells called out of distribution.
    per_class
        Coverage, mean set size, shares called unassigned and out of distribution, and number of the
        cells of each true label; precision of those that get the label and are not unassigned,
        ``(n_classes, 6)``. NaN where there is no such cell.
    """

    metrics: dict[str, float]
    per_class: pd.DataFrame


def measure_confidence(
    codes: np.ndarray, annotation: Annotation, label_names: Sequence[str]
) -> ConfidenceFigures:
    """Measure what confidence does on labelled cells.

    Parameters
    ----------
    codes
        True labels, ``(n_cells,)``, positions in ``label_names``.
    annotation
        What the model says of the cells.
    label_names
        Names of its labels, ``(n_classes,)``.
    """
    names = pd.Index(label_names, name="label")
    right = annotation.codes == codes
    assigned = ~annotation.unassigned
    cells = pd.DataFrame(
        {
            "coverage": annotation.prediction_sets[np.arange(len(codes)), codes],
            "mean_set_size": annotation.prediction_sets.sum(axis=1),
            "unassigned": annotation.unassigned,
            "ood": annotation.ood,
        }
    ).astype(float)
    labels = pd.Categorical.from_codes(codes, categories=names)
    per_class = cells.groupby(labels, observed=False).mean()
    given = pd.Categorical.from_codes(annotation.codes, categories=names)
    precision = pd.Series(right, dtype=float)[assigned].groupby(given[assigned], observed=False).mean()
    per_class = per_class.assign(
        assigned_precision=precision, support=np.bincount(codes, minlength=len(names))
    )
    metrics = {
        "ece": compute_ece(annotation.probabilities, codes),
        "conformal_coverage": cells["coverage"].mean(),
        "worst_label_coverage": per_class["coverage"].min(),
        "mean_set_size": cells["mean_set_size"].mean(),
        "unassigned_rate": cells["unassigned"].mean(),
        "assigned_accuracy": right[assigned].mean() if assigned.any() else 1.0,
        "ood_rate": cells["ood"].mean(),
    }
    return ConfidenceFigures(
        metrics={name: float(value) for name, value in metrics.items()},
        per_class=per_class.rename_axis("label"),
    )
