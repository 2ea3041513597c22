"""The embedding in a process of its own: the same positions, and no dataset is lost when it fails."""

import logging

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from annotary.quality import embedding_process
from annotary.quality.embedding import embed_cells
from annotary.quality.embedding_process import open_embedding


@pytest.fixture
def log_expr():
    return csr_matrix(np.random.default_rng(0).poisson(0.5, (60, 40)).astype(np.float32))


@pytest.mark.full
def test_the_positions_are_those_of_this_process(log_expr):
    with open_embedding(seed=3) as process:
        process.start(log_expr)
        positions = process.get()
    np.testing.assert_array_equal(positions, embed_cells(log_expr, seed=3))


@pytest.mark.full
def test_a_failure_is_a_warning(log_expr, caplog, monkeypatch):
    monkeypatch.setattr(embedding_process, "save_npz", lambda *args, **options: None)
    with caplog.at_level(logging.WARNING, logger="annotary"), open_embedding(seed=3) as process:
        process.start(log_expr)
        assert process.get() is None
    assert "there is no UMAP, since its process failed: FileNotFoundError" in caplog.text


def test_a_process_that_was_killed_is_a_warning(log_expr, caplog):
    with caplog.at_level(logging.WARNING, logger="annotary"), open_embedding(seed=3) as process:
        process._process.kill()
        process._process.wait()
        process.start(log_expr)
        assert process.get() is None
    assert "there is no UMAP, since its process failed: exit code -9" in caplog.text


def test_one_that_takes_too_long_is_a_warning_and_is_ended(log_expr, caplog, monkeypatch):
    monkeypatch.setattr(embedding_process, "LONGEST_SECONDS", 0.01)
    with caplog.at_level(logging.WARNING, logger="annotary"), open_embedding(seed=3) as process:
        process.start(log_expr)
        assert process.get() is None
    assert "there is no UMAP, since it was not done in 0.01 seconds" in caplog.text
    assert process._process.returncode == -9


def test_an_error_meanwhile_ends_the_process(log_expr):
    started = []

    def fail():
        with open_embedding(seed=3) as process:
            started.append(process._process)
            raise RuntimeError("disk")

    with pytest.raises(RuntimeError, match="disk"):
        fail()
    assert started[0].returncode is not None
