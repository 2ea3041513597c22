"""What values that are no raw counts look like, in a biologist's words."""

import numpy as np
from scipy.sparse import csr_matrix

from annotary.data.units import LARGEST_LOG

SAME_SUM = 1e-3
"""Cells whose sums differ by less than this share of them were scaled to one sum."""

_FEWEST_CELLS = 8
_FEW = 0.05
_CPM = 1e6
_PER_TEN_THOUSAND = 1e4


def diagnose(values: csr_matrix) -> str:
    """Say what values that are no raw counts probably are, and what they were measured to be.

    Parameters
    ----------
    values
        Some rows of a matrix, ``(n_cells, n_genes)``, in which a value is no raw count.

    Returns
    -------
    One sentence or two, with what to do; empty where there is nothing to tell.
    """
    stored = values.data
    if not len(stored):
        return ""
    finite = np.isfinite(stored)
    if not finite.all():
        return (
            f"{(~finite).sum():,} of the {len(stored):,} values looked at are NaN or infinite: they are "
            "missing or came of a division by zero; fill them in, or leave those cells or genes out, where "
            "the file is made."
        )
    if (stored < 0).any():
        return _describe_negative(stored)
    if (stored == np.floor(stored)).all():
        return (
            f"The largest of the values looked at is {stored.max():.6g}: no cell has so many molecules of "
            "one gene, and float32 does not hold larger integers exactly; look for an id, an intensity or "
            "a sum among the counts."
        )
    return _describe_fractions(values)


def find_common_sum(counts: csr_matrix) -> float | None:
    """Find the sum that all cells with counts have, to within a thousandth; None where they differ."""
    sums = np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()
    sums = sums[sums > 0]
    if len(sums) < _FEWEST_CELLS or np.ptp(sums) > SAME_SUM * sums.mean():
        return None
    return float(sums.mean())


def _describe_negative(stored: np.ndarray) -> str:
    """Tell scaled values from counts of which something was taken away."""
    measured = (
        f"{(stored < 0).mean():.0%} of the values looked at are negative, from {stored.min():.3g} to "
        f"{stored.max():.3g}: "
    )
    if (stored == np.floor(stored)).all():
        return f"{measured}a background was subtracted, or the type of the integers overflowed."
    return (
        f"{measured}scaled (z-scores) or corrected between batches, from which counts cannot be had; give "
        "the file as it was before that step."
    )


def _describe_fractions(values: csr_matrix) -> str:
    """Tell what non-negative values with fractions are, by their sums and their size."""
    stored = values.data
    is_fraction = stored != np.floor(stored)
    if is_fraction.mean() < _FEW:
        return (
            f"{is_fraction.sum():,} of the {len(stored):,} values looked at are no integers, the others are: "
            "counts in which some were replaced; look at the step that wrote those."
        )
    measured = f"{is_fraction.mean():.0%} of the values looked at are no integers, up to {stored.max():.6g}"
    total = find_common_sum(values)
    if total is not None:
        return (
            f"{measured}, and every cell adds up to {total:,.0f}: normalised ({_name_sum(total)}), but not "
            "log-transformed; give the counts from before normalisation."
        )
    if stored.max() <= LARGEST_LOG:
        return (
            f"{measured}: they may be logarithms, but not log1p (base e, 2 or 10) of counts that were scaled "
            "cell by cell; smoothing, batch correction, imputing and division by gene length cannot be "
            "undone."
        )
    return (
        f"{measured}, and cells add up to different sums: corrected for ambient RNA (SoupX, CellBender), "
        "estimated (RSEM, Salmon, kallisto) or divided by gene length (TPM, FPKM); round expected counts "
        "where the file is made, or give the counts from before the correction."
    )


def _name_sum(total: float) -> str:
    """Name what cells were scaled to."""
    names = {_CPM: "counts or transcripts per million", _PER_TEN_THOUSAND: "counts per 10,000"}
    for target, name in names.items():
        if abs(total - target) <= SAME_SUM * target:
            return name
    return f"counts per {total:,.0f}"
