import anndata
import numpy as np
import pandas as pd
import pytest
import scanpy
from scipy.sparse import csr_matrix

from annotary.errors import GeneOverlapError
from annotary.quality.prepare import InputSpec, PreparedCells, hash_panel, log_normalize


def make_counts(n_cells=30, n_genes=20, *, seed=0):
    return csr_matrix(np.random.default_rng(seed).poisson(0.8, (n_cells, n_genes)).astype(np.float32))


def make_cells(**kwargs):
    counts = make_counts(**kwargs)
    return PreparedCells(counts=counts, depth=np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel())


def make_spec(**changes):
    return InputSpec(
        **({"gene_ids": ("A", "B", "C", "D"), "id_type": "symbol", "min_panel_genes": 2} | changes)
    )


@pytest.mark.parametrize("target_sum", [1e4, 500.0])
def test_log_normalize_equals_scanpy_when_the_depth_is_the_row_sum(target_sum):
    cells = make_cells()
    adata = anndata.AnnData(cells.counts.copy())
    scanpy.pp.normalize_total(adata, target_sum=target_sum)
    scanpy.pp.log1p(adata)
    ours = log_normalize(cells, target_sum=target_sum)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours.toarray(), adata.X.toarray(), rtol=1e-6)


def test_depth_over_all_genes_scales_the_panel():
    counts = make_counts()
    depth = np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()
    whole = log_normalize(PreparedCells(counts=counts, depth=depth), target_sum=1e4)
    panel = log_normalize(PreparedCells(counts=counts[:, :5], depth=depth), target_sum=1e4)
    np.testing.assert_array_equal(panel.toarray(), whole[:, :5].toarray())


@pytest.mark.filterwarnings("error")
def test_cell_without_counts_stays_zero():
    cells = PreparedCells(counts=csr_matrix([[0.0, 0.0], [1.0, 3.0]]), depth=np.array([0.0, 4.0]))
    log_expr = log_normalize(cells, target_sum=4)
    np.testing.assert_allclose(log_expr.toarray(), [[0, 0], [np.log(2), np.log(4)]], rtol=1e-6)


def test_log_normalize_leaves_its_input_untouched():
    cells = make_cells()
    before = cells.counts.copy()
    log_normalize(cells, target_sum=1e4)
    assert (cells.counts != before).nnz == 0


def test_rows_of_cells_keep_their_depth():
    cells = make_cells()
    rows = np.array([5, 2])
    taken = cells[rows]
    assert len(taken) == 2
    np.testing.assert_array_equal(taken.counts.toarray(), cells.counts.toarray()[rows])
    np.testing.assert_array_equal(taken.depth, cells.depth[rows])
    assert len(cells[3:7]) == 4


def test_spec_survives_json():
    spec = make_spec(target_sum=500.0, min_overlap=0.3)
    again = InputSpec.from_json(spec.to_json())
    assert again == spec
    assert again.panel_hash == spec.panel_hash
    assert isinstance(again.gene_ids, tuple)


def test_panel_hash_tells_genes_and_their_order():
    hashes = {
        make_spec(gene_ids=genes).panel_hash
        for genes in (("A", "B"), ("B", "A"), ("A", "C"), ("AB",), ("A", "B", "C"))
    }
    assert len(hashes) == 5
    assert make_spec().panel_hash == hash_panel(pd.Index(["A", "B", "C", "D"]))


def test_depth_is_taken_over_all_genes_before_the_panel():
    counts = csr_matrix(np.float32([[1, 2, 4, 8]]))
    cells = make_spec().prepare(counts, pd.Index(["Z", "B", "A", "Y"]))
    np.testing.assert_array_equal(cells.counts.toarray(), [[4, 2, 0, 0]])
    np.testing.assert_array_equal(cells.depth, [15])


def test_given_depth_is_used():
    cells = make_spec().prepare(csr_matrix([[1, 2]]), pd.Index(["A", "B"]), depth=np.array([100]))
    np.testing.assert_array_equal(cells.depth, [100])
    assert cells.depth.dtype == np.float64
    assert cells.counts.dtype == np.float32


def test_gene_order_does_not_change_prepared_cells():
    counts = make_counts(n_genes=4)
    genes = pd.Index(["A", "B", "C", "D"])
    order = [3, 1, 0, 2]
    first = make_spec().prepare(counts, genes)
    second = make_spec().prepare(counts[:, order], genes[order])
    np.testing.assert_array_equal(first.counts.toarray(), second.counts.toarray())
    np.testing.assert_array_equal(first.depth, second.depth)


def test_versioned_ensembl_ids_meet_the_panel():
    spec = make_spec(gene_ids=("ENSG00000000001", "ENSG00000000002"), id_type="ensembl")
    genes = pd.Index(["ENSG00000000002.7", "ENSG00000000001.3"])
    matched = spec.match_genes(pd.DataFrame(index=genes), place="in.h5ad")
    np.testing.assert_array_equal(spec.prepare(csr_matrix([[5, 6]]), matched).counts.toarray(), [[6, 5]])


def test_match_genes_takes_the_matching_column_and_refuses_too_few():
    spec = make_spec()
    var = pd.DataFrame({"symbol": ["A", "B", "x"]}, index=["1", "2", "3"])
    assert list(spec.match_genes(var, place="in.h5ad")) == ["A", "B", "x"]
    with pytest.raises(GeneOverlapError, match=r"in\.h5ad needs at least 50%.*found 1 \(25.0%\)"):
        spec.match_genes(var.iloc[[0, 2]], place="in.h5ad")
