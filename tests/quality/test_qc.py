"""Which cells and genes are good enough, and what is said against the others."""

import numpy as np
import pytest

from annotary.errors import CountsError
from annotary.quality.qc import QualityThresholds, find_common_genes, judge_cells

LOOSE = {"min_genes": 0, "min_counts": 0, "max_pct_mito": 100.0}


def judge(n_genes, depth, pct_mito, *, n_mads=0.0, **changes) -> list[str]:
    thresholds = QualityThresholds(**LOOSE | changes)
    values = (np.asarray(value, dtype=np.float64) for value in (n_genes, depth, pct_mito))
    return list(judge_cells(*values, thresholds=thresholds, n_mads=n_mads, place="x.h5ad: X"))


def test_each_threshold_has_its_reason_and_the_first_one_counts():
    found = judge(
        [5, 50, 50, 50], [90, 9, 90, 90], [0, 0, 30, 10], min_genes=10, min_counts=10, max_pct_mito=20
    )
    assert found == ["fewer than 10 genes", "fewer than 10 counts", "more than 20 % mitochondrial", ""]


def test_values_at_the_threshold_are_good():
    assert judge([10], [10], [20], min_genes=10, min_counts=10, max_pct_mito=20) == [""]


def test_outliers_by_mad_are_found_on_both_sides_but_only_high_for_mitochondria():
    rng = np.random.default_rng(0)
    depth = np.exp(rng.normal(7, 0.2, size=200))
    n_genes = np.exp(rng.normal(6, 0.2, size=200))
    mito = rng.normal(5, 0.5, size=200).clip(0)
    depth[0], n_genes[1], mito[2], mito[3] = 50_000, 20, 30, 0
    found = judge(n_genes, depth, mito, n_mads=5)
    assert found[0] == "counts more than 5 MADs from the median"
    assert found[1] == "genes more than 5 MADs from the median"
    assert found[2] == "mitochondrial share more than 5 MADs from the median"
    assert found[3:] == [""] * 197


def test_equal_values_have_no_outliers():
    assert judge([9] * 5, [9] * 5, [0] * 5, n_mads=1) == [""] * 5


def test_no_good_cell_is_an_error():
    with pytest.raises(CountsError, match=r"cells with at least 100 expressed genes.*at most 9 genes"):
        judge([5, 9], [9, 9], [0, 0], min_genes=100)


def test_common_genes_are_those_that_enough_cells_express():
    n_expressing = np.array([3, 1, 1])
    assert find_common_genes(n_expressing, n_cells=3, min_cells=2, place="x").tolist() == [True, False, False]
    with pytest.raises(CountsError, match="genes that at least 4 cells express; found none among 3 genes"):
        find_common_genes(n_expressing, n_cells=3, min_cells=4, place="x")
