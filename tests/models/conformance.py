"""What every model must keep; a test class per model subclasses this one."""

import json
from abc import ABC, abstractmethod

import numpy as np
import pytest
from scipy.sparse import csr_matrix, vstack

from annotary.models.base import Annotator
from annotary.models.bundle import Annotation, Bundle
from annotary.models.bundle_files import load_bundle, save_bundle
from annotary.quality.prepare import InputSpec, PreparedCells

N_CLASSES = 3
N_PANEL = 40
SAFE_SUFFIXES = {".safetensors", ".json", ".npz"}


def make_cells(n_cells: int, *, seed: int = 0) -> tuple[PreparedCells, np.ndarray]:
    """Simulate cells of three classes, each with its own marker genes."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(N_CLASSES, size=n_cells)
    rates = np.full((N_CLASSES, N_PANEL), 0.3)
    for code in range(N_CLASSES):
        rates[code, code * 8 : code * 8 + 8] = 4.0
    counts = csr_matrix(rng.poisson(rates[codes]).astype(np.float32))
    depth = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel() + 50.0
    return PreparedCells(counts=counts, depth=depth), codes


def make_spec() -> InputSpec:
    return InputSpec(
        gene_ids=tuple(f"G{gene:03d}" for gene in range(N_PANEL)), id_type="symbol", min_panel_genes=1
    )


class AnnotatorConformance(ABC):
    """One suite for every model family."""

    tolerance = 1e-5

    @abstractmethod
    def fit(self, cells: PreparedCells, codes: np.ndarray, *, seed: int) -> Annotator:
        """Train a small model on simulated cells."""

    @pytest.fixture(scope="class")
    def model(self, request) -> Annotator:
        cells, codes = make_cells(150)
        return type(self)().fit(cells, codes, seed=0)

    def predict(self, model: Annotator, cells: PreparedCells) -> np.ndarray:
        return model.predict_proba(cells, device="cpu")

    def test_rows_are_probabilities(self, model):
        cells, _ = make_cells(20, seed=1)
        proba = self.predict(model, cells)
        assert proba.shape == (20, N_CLASSES)
        assert proba.dtype == np.float32
        assert np.isfinite(proba).all()
        assert (proba >= 0).all()
        np.testing.assert_allclose(proba.sum(axis=1), 1, atol=1e-5)

    def test_it_learned_the_simulated_classes(self, model):
        cells, codes = make_cells(60, seed=2)
        accuracy = (self.predict(model, cells).argmax(axis=1) == codes).mean()
        assert accuracy > 0.9

    def test_cell_order_does_not_change_predictions(self, model):
        cells, _ = make_cells(30, seed=3)
        order = np.random.default_rng(0).permutation(30)
        np.testing.assert_allclose(
            self.predict(model, cells[order]), self.predict(model, cells)[order], atol=self.tolerance
        )

    def test_batch_mates_do_not_change_predictions(self, model):
        cells, _ = make_cells(30, seed=4)
        alone = np.vstack([self.predict(model, cells[row : row + 1]) for row in range(30)])
        np.testing.assert_allclose(alone, self.predict(model, cells), atol=self.tolerance)

    def test_no_output_of_a_bundle_changes_with_batch_mates_order_or_saving(self, model, tmp_path):
        from models.bundles import make_bundle  # it imports this module

        bundle = make_bundle(("B", "NK", "T"), make_spec(), model=model)
        save_bundle(bundle, tmp_path / "bundle")
        loaded = load_bundle(tmp_path / "bundle")
        cells, _ = make_cells(24, seed=10)
        order = np.random.default_rng(1).permutation(24)

        def annotate(one: Bundle, rows: np.ndarray) -> Annotation:
            counts, depth = cells.counts[rows], cells.depth[rows]
            return one.annotate(counts, one.spec.panel, depth=depth, device="cpu")

        together = annotate(bundle, np.arange(24))
        alone = Annotation.join([annotate(loaded, rows) for rows in order[:, None]])
        for name, values in vars(together).items():
            np.testing.assert_allclose(
                getattr(alone, name), values[order], rtol=1e-4, atol=self.tolerance, err_msg=name
            )

    def test_unsorted_columns_do_not_change_predictions(self, model):
        cells, _ = make_cells(10, seed=5)
        rows = []
        for row in cells.counts:
            order = np.argsort(-row.indices)
            rows.append(csr_matrix((row.data[order], row.indices[order], row.indptr), shape=row.shape))
        shuffled = vstack(rows, format="csr")
        shuffled.has_sorted_indices = False
        np.testing.assert_allclose(
            self.predict(model, PreparedCells(counts=shuffled, depth=cells.depth)),
            self.predict(model, cells),
            atol=self.tolerance,
        )

    def test_explicit_zeros_do_not_change_predictions(self, model):
        cells, _ = make_cells(10, seed=6)
        dense = cells.counts.toarray()
        _rows, columns = np.indices(dense.shape)
        explicit = csr_matrix(
            (dense.ravel(), columns.ravel(), np.arange(0, dense.size + 1, N_PANEL)), shape=dense.shape
        )
        assert explicit.nnz == dense.size
        np.testing.assert_allclose(
            self.predict(model, PreparedCells(counts=explicit, depth=cells.depth)),
            self.predict(model, cells),
            atol=self.tolerance,
        )

    def test_input_is_untouched(self, model):
        cells, _ = make_cells(10, seed=7)
        before = cells.counts.copy()
        self.predict(model, cells)
        assert (cells.counts != before).nnz == 0

    def test_cells_without_counts_get_probabilities(self, model):
        empty = PreparedCells(counts=csr_matrix((3, N_PANEL), dtype=np.float32), depth=np.zeros(3))
        proba = self.predict(model, empty)
        assert np.isfinite(proba).all()
        np.testing.assert_allclose(proba.sum(axis=1), 1, atol=1e-5)

    def test_no_cells_give_an_empty_result(self, model):
        cells, _ = make_cells(5)
        assert self.predict(model, cells[:0]).shape == (0, N_CLASSES)

    def test_saved_model_predicts_the_same(self, model, tmp_path):
        cells, _ = make_cells(25, seed=8)
        model.save(tmp_path)
        loaded = type(model).load(tmp_path)
        np.testing.assert_allclose(self.predict(loaded, cells), self.predict(model, cells), atol=1e-6)

    def test_saved_files_are_safe_formats(self, model, tmp_path):
        model.save(tmp_path)
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert files
        assert {path.suffix for path in files} <= SAFE_SUFFIXES
        for path in files:
            if path.suffix == ".json":
                json.loads(path.read_text())

    def test_same_seed_gives_the_same_model(self):
        cells, codes = make_cells(90)
        first, second = (self.fit(cells, codes, seed=5) for _ in range(2))
        query, _ = make_cells(15, seed=9)
        np.testing.assert_array_equal(self.predict(first, query), self.predict(second, query))
