from dataclasses import replace

import numpy as np
import pytest
from models.folded import OWN, label_cells, name_genes, shuffle_rows

from annotary.models.folds import FoldedCells
from annotary.models.panels import ALL_GENES, PanelChooser, Preparation, make_space
from annotary.quality.panel import choose_panel
from annotary.quality.prepare import InputSpec, PreparedCells, log_normalize

TARGET_SUM = 1e4


def lay_out(**options) -> tuple:
    cells = label_cells(**options)
    return cells, FoldedCells(cells, name_genes(cells))


@pytest.mark.parametrize("n_folds", [2, 3, 5])
def test_each_fold_holds_its_cells_out_and_fits_to_all_others(n_folds):
    cells, folded = lay_out(n_folds=n_folds)
    order = np.argsort(name_genes(cells))
    log_expr = log_normalize(PreparedCells(cells.counts, cells.depth), target_sum=TARGET_SUM)[:, order]
    for number in range(n_folds):
        fold = folded.get_fold(number, None, target_sum=TARGET_SUM)
        held_out = cells.folds == number
        assert (fold.held_out != log_expr[held_out]).nnz == 0
        np.testing.assert_array_equal(fold.held_out_codes, cells.codes[held_out])
        found = np.lexsort(fold.fitted.toarray().T)
        expected = np.lexsort(log_expr[~held_out].toarray().T)
        np.testing.assert_array_equal(fold.fitted.toarray()[found], log_expr[~held_out].toarray()[expected])
        np.testing.assert_array_equal(fold.fitted_codes[found], cells.codes[~held_out][expected])


def test_all_genes_of_every_fold_and_of_all_cells_share_one_memory():
    _, folded = lay_out()
    seen = [folded.get_fold(number, None, target_sum=TARGET_SUM) for number in range(3)]
    matrices = [fold.fitted for fold in seen] + [fold.held_out for fold in seen]
    everything = folded.get_all(None, target_sum=300.0)
    for matrix in (*matrices, everything):
        assert np.shares_memory(matrix.data, folded._log_expr)
        assert np.shares_memory(matrix.indices, folded.counts.indices)
    assert not np.shares_memory(everything.data, folded.counts.data)


@pytest.mark.parametrize("target_sum", [100.0, 1e4])
def test_all_cells_are_what_scoring_prepares(target_sum):
    cells, folded = lay_out()
    columns = np.array([3, 7, 20])
    folded.get_all(None, target_sum=77.0)
    spec = InputSpec(gene_ids=tuple(folded.gene_ids[columns]), id_type="symbol", min_panel_genes=1)
    prepared = spec.prepare(cells.counts, name_genes(cells), depth=cells.depth)
    expected = log_normalize(prepared, target_sum=target_sum)[folded.rows]
    assert (folded.get_all(columns, target_sum=target_sum) != expected).nnz == 0
    np.testing.assert_array_equal(
        folded.count_expressed(columns), np.asarray((prepared.counts[folded.rows] > 0).sum(axis=1)).ravel()
    )


def test_the_input_is_untouched():
    cells = label_cells()
    before = cells.counts.copy()
    folded = FoldedCells(cells, name_genes(cells))
    folded.get_fold(0, None, target_sum=100.0)
    assert (cells.counts != before).nnz == 0


@pytest.mark.parametrize("method", ["seurat", "f_test"])
@pytest.mark.parametrize("size", [1, 12, 39])
def test_a_panel_is_the_one_that_choose_panel_gives(method, size):
    cells, folded = lay_out()
    panels = PanelChooser(folded)
    for fold in (0, 2, None):
        kept = np.ones(90, dtype=bool) if fold is None else cells.folds != fold
        table = choose_panel(
            cells.counts[kept],
            name_genes(cells),
            depth=cells.depth[kept],
            codes=cells.codes[kept],
            method=method,
            n_top_genes=size,
        )
        chosen = panels.choose(Preparation(method, size, TARGET_SUM), fold)
        assert list(folded.gene_ids[chosen]) == sorted(table.index[table["in_panel"]])


@pytest.mark.parametrize("method", ["seurat", "f_test"])
def test_the_panel_of_a_fold_never_sees_the_cells_it_scores(method):
    cells = label_cells()
    altered = replace(cells, counts=shuffle_rows(cells.counts, cells.folds == 1))
    preparation = Preparation(method, 10, TARGET_SUM)
    chosen, again = (
        [PanelChooser(FoldedCells(one, name_genes(one))).choose(preparation, fold) for fold in range(3)]
        for one in (cells, altered)
    )
    np.testing.assert_array_equal(chosen[1], again[1])
    assert not np.array_equal(chosen[0], again[0])


def test_genes_are_ranked_once_for_each_fold_and_method(monkeypatch):
    _, folded = lay_out()
    ranked = []
    original = PanelChooser._tally
    monkeypatch.setattr(
        PanelChooser, "_tally", lambda self, *args: ranked.append(args) or original(self, *args)
    )
    panels = PanelChooser(folded)
    for size in (5, 10, 20):
        for fold in range(3):
            panels.choose(Preparation("f_test", size, TARGET_SUM), fold)
    assert len(ranked) == 3


def test_all_genes_are_no_choice_and_a_fixed_panel_is_always_taken():
    _, folded = lay_out()
    assert PanelChooser(folded).choose(Preparation("f_test", ALL_GENES, TARGET_SUM), 0) is None
    fixed = PanelChooser(folded, fixed=np.array([2, 5]))
    np.testing.assert_array_equal(fixed.choose(Preparation("f_test", 9, TARGET_SUM), 0), [2, 5])


def test_the_space_has_the_dataset_s_own_way_and_no_panel_larger_than_the_genes():
    space = make_space(OWN, n_genes=700, fixed=False)
    assert space.n_top_genes == (12, 300, 600, ALL_GENES)
    assert space.first == OWN
    assert make_space(Preparation("seurat_v3", 1200, 1e4), n_genes=700, fixed=False).first.n_top_genes == 0
    assert "seurat_v3" in make_space(Preparation("seurat_v3", 9, 1e4), n_genes=700, fixed=False).panel_methods
    fixed = make_space(OWN, n_genes=700, fixed=True)
    assert (fixed.panel_methods, fixed.n_top_genes) == (("seurat",), (12,))
