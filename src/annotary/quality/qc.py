"""Which cells and genes are good enough to learn from, and why the others are not."""

from dataclasses import dataclass

import numpy as np

from annotary.errors import CountsError

_MAD_TO_SD = 1.4826


@dataclass(frozen=True)
class QualityThresholds:
    """What a good cell has.

    Attributes
    ----------
    min_genes, min_counts
        Fewest expressed genes and counts.
    max_pct_mito
        Largest share of mitochondrial counts, percent.
    """

    min_genes: int
    min_counts: int
    max_pct_mito: float


def find_flaws(
    n_genes: np.ndarray, depth: np.ndarray, pct_mito: np.ndarray, *, thresholds: QualityThresholds
) -> dict[str, np.ndarray]:
    """Find the cells that fail each threshold.

    Parameters
    ----------
    n_genes, depth, pct_mito
        Expressed genes, counts, and mitochondrial percent of each cell, ``(n_cells,)``.
    thresholds
        What a good cell has.

    Returns
    -------
    Each flaw that a threshold asks for, and the cells with it, ``(n_cells,)``.
    """
    flaws = {}
    if thresholds.min_genes:
        flaws[f"fewer than {thresholds.min_genes} genes"] = n_genes < thresholds.min_genes
    if thresholds.min_counts:
        flaws[f"fewer than {thresholds.min_counts} counts"] = depth < thresholds.min_counts
    flaws["no counts"] = depth <= 0
    if thresholds.max_pct_mito < 100:
        far_up = f"more than {thresholds.max_pct_mito:g} % mitochondrial"
        flaws[far_up] = pct_mito > thresholds.max_pct_mito
    return flaws


def judge_cells(
    n_genes: np.ndarray,
    depth: np.ndarray,
    pct_mito: np.ndarray,
    *,
    thresholds: QualityThresholds,
    n_mads: float = 0.0,
    place: str,
) -> np.ndarray:
    """Say what is wrong with each cell.

    Parameters
    ----------
    n_genes, depth, pct_mito
        Expressed genes, counts, and mitochondrial percent of each cell, ``(n_cells,)``.
    thresholds
        What a good cell has.
    n_mads
        Most median absolute deviations from the median of log1p counts, of log1p
        genes, and above that of the mitochondrial share; 0 takes none.
    place
        File and element, for the message.

    Returns
    -------
    The first reason against each cell, ``(n_cells,)``; empty for good ones.

    Raises
    ------
    CountsError
        If no cell is good.
    """
    reasons = np.full(len(n_genes), "", dtype=object)
    checks = find_flaws(n_genes, depth, pct_mito, thresholds=thresholds)
    if n_mads:
        far = f"more than {n_mads:g} MADs from the median"
        checks |= {
            f"counts {far}": np.abs(_measure_mads(np.log1p(depth))) > n_mads,
            f"genes {far}": np.abs(_measure_mads(np.log1p(n_genes))) > n_mads,
            f"mitochondrial share {far}": _measure_mads(pct_mito) > n_mads,
        }
    for reason, is_bad in checks.items():
        reasons[is_bad & (reasons == "")] = reason
    if (reasons != "").all():
        raise CountsError(
            place,
            expected=f"cells with at least {thresholds.min_genes} expressed genes and good quality",
            found=f"at most {n_genes.max(initial=0):.0f} genes in {len(n_genes)} labelled cells",
            remedy="Loosen --min-genes and the other thresholds, or name the obs column with the whole "
            "number with --n-genes-key.",
        )
    return reasons


def _measure_mads(values: np.ndarray) -> np.ndarray:
    """Measure how many (scaled) MADs each value is above the median, ``(n_cells,)``."""
    distance = values - np.median(values)
    mad = _MAD_TO_SD * np.median(np.abs(distance))
    return np.divide(distance, mad, out=np.zeros_like(distance), where=mad > 0)


def find_common_genes(n_expressing: np.ndarray, *, n_cells: int, min_cells: int, place: str) -> np.ndarray:
    """Find the genes that enough cells express.

    Parameters
    ----------
    n_expressing
        Cells that express each gene, ``(n_genes,)``.
    n_cells
        Cells in all.
    min_cells
        Fewest cells of a common gene.
    place
        File and element, for the message.

    Returns
    -------
    True for common genes, ``(n_genes,)``.

    Raises
    ------
    CountsError
        If there is none.
    """
    common = n_expressing >= min_cells
    if not common.any():
        raise CountsError(
            place,
            expected=f"genes that at least {min_cells} cells express",
            found=f"none among {len(n_expressing)} genes in {n_cells} cells",
            remedy="Lower --min-cells, or give more cells.",
        )
    return common
