"""What a model tells of its cells: confidence of those it was not fitted to, genes of those it was."""

import numpy as np
from models.bundles import make_fitted, make_held_out
from scipy.sparse import csr_matrix

from annotary.models.confidence.held_out import FittedCells
from annotary.models.profile import N_BINS, TrainingProfile, count_confidence
from annotary.quality.qc import QualityThresholds

THRESHOLDS = QualityThresholds(min_genes=200, min_counts=0, max_pct_mito=100.0)


def test_confidence_is_that_of_the_held_out_cells():
    held_out = make_held_out(3)
    profile = TrainingProfile.measure(held_out, make_fitted(), THRESHOLDS)
    expected, _ = np.histogram(held_out.probabilities.max(axis=1), bins=N_BINS, range=(0, 1))
    assert profile.confidence_bins.sum() == len(held_out.codes)
    assert np.abs(profile.confidence_bins - expected).sum() <= 2, "but for rounding at a bin's edge"
    assert count_confidence(np.array([0.0, 1.0]))[[0, -1]].tolist() == [1, 1]


def test_detection_is_the_share_of_the_fitted_cells_whatever_zeros_are_stored():
    values = csr_matrix(np.array([[1.0, 0, 2], [3, 0, 0], [1, 1, 0], [1, 0, 0]], dtype=np.float32))
    values.data[-1] = 0
    fitted = FittedCells(log_expr=values, codes=np.zeros(4, dtype=int))
    profile = TrainingProfile.measure(make_held_out(3), fitted, THRESHOLDS)
    assert profile.detection.tolist() == [0.75, 0.25, 0.25]
