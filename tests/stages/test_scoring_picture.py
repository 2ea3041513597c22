"""The page's UMAP: drawn of a sample, and left out where it fails."""

import contextlib
import logging

import numpy as np
import pytest
from conftest import EmbeddingHere
from scipy.sparse import csr_matrix

from annotary.quality.prepare import PreparedCells
from annotary.scoring.survey import CellSample
from annotary.stages import scoring_picture
from annotary.stages.scoring_picture import draw_scored_cells

PNG = b"\x89PNG"


@pytest.fixture
def sample() -> CellSample:
    rng = np.random.default_rng(0)
    return CellSample(
        PreparedCells(csr_matrix(rng.poisson(0.5, (60, 40)).astype(np.float32)), depth=np.full(60, 20.0)),
        codes=rng.integers(2, size=60),
        sources=np.array(["a.h5ad", "b.h5ad"], dtype=object)[rng.integers(2, size=60)],
        lots=rng.random(60),
    )


def use(embedding, monkeypatch) -> None:
    monkeypatch.setattr(scoring_picture, "open_embedding", lambda *, seed: contextlib.nullcontext(embedding))


def test_cells_are_drawn_by_label_and_by_file(sample, monkeypatch):
    drawn = {}
    draw = "annotary.evaluation.embedding_figure.draw_embedding"
    from annotary.evaluation.embedding_figure import draw_embedding

    def note(positions, groups):
        drawn.update(groups)
        return draw_embedding(positions, groups)

    monkeypatch.setattr(draw, note)
    use(EmbeddingHere(seed=0), monkeypatch)
    assert draw_scored_cells(sample, ("B $cell$", "T")).startswith(PNG)
    assert list(drawn) == ["Predicted label", "File"]
    assert list(drawn["Predicted label"]) == [("B $cell$", "T")[code] for code in sample.codes]


def test_one_file_needs_no_picture_of_files_and_one_cell_can_be_drawn(sample, monkeypatch):
    use(EmbeddingHere(seed=0), monkeypatch)
    assert draw_scored_cells(sample.take(np.array([4])), ("B", "T")).startswith(PNG)


def test_cells_that_cannot_be_handed_over_are_a_warning(sample, monkeypatch, caplog):
    class FullDisk(EmbeddingHere):
        def start(self, log_expr):
            raise OSError("no space left on device")

    use(FullDisk(seed=0), monkeypatch)
    with caplog.at_level(logging.WARNING, logger="annotary"):
        assert draw_scored_cells(sample, ("B", "T")) is None
    assert "there is no UMAP, since its cells could not be handed over: no space left" in caplog.text
