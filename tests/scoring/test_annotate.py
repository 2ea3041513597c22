"""Annotating a file: whatever its layout, the same cells get the same labels."""

from dataclasses import dataclass
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scanpy
from linear_bundle import N_PANEL, make_bundle
from scipy.sparse import csc_matrix, csr_matrix
from simulate import LABELS, simulate_cells

from annotary.errors import CountsError, GeneOverlapError, InputFileError
from annotary.scoring.annotate import annotate_file


@dataclass
class Query:
    """A file to annotate."""

    path: Path
    adata: anndata.AnnData

    def annotate(self, adata: anndata.AnnData | None = None, **options):
        (adata if adata is not None else self.adata).write_h5ad(self.path)
        return annotate_file(make_bundle(), self.path, **options)


@pytest.fixture
def query(tmp_path) -> Query:
    return Query(tmp_path / "query.h5ad", simulate_cells(60, seed=2))


def assert_same(one, other):
    np.testing.assert_allclose(one.annotation.probabilities, other.annotation.probabilities, atol=1e-6)
    np.testing.assert_allclose(one.annotation.ood_score, other.annotation.ood_score, rtol=1e-5)
    for name in ("low_information", "unassigned", "prediction_sets"):
        np.testing.assert_array_equal(getattr(one.annotation, name), getattr(other.annotation, name))
    assert list(one.cell_ids) == list(other.cell_ids)


@pytest.mark.parametrize("chunk_size", [1, 7, 59, 60, 1000])
def test_chunk_size_does_not_change_the_result(query, chunk_size):
    assert_same(query.annotate(chunk_size=chunk_size), query.annotate())


@pytest.mark.parametrize("layout", [csc_matrix, lambda x: x.toarray(), lambda x: x.astype(np.int32)])
def test_layout_does_not_change_the_result(query, layout):
    other = query.adata.copy()
    other.X = layout(other.X)
    assert_same(query.annotate(other), query.annotate())


def test_gene_order_does_not_change_the_result(query):
    order = np.random.default_rng(0).permutation(query.adata.n_vars)
    assert_same(query.annotate(query.adata[:, order].copy()), query.annotate())


def test_cell_order_is_kept(query):
    order = np.random.default_rng(0).permutation(query.adata.n_obs)
    shuffled, straight = query.annotate(query.adata[order].copy()), query.annotate()
    np.testing.assert_allclose(
        shuffled.annotation.probabilities, straight.annotation.probabilities[order], atol=1e-6
    )


@pytest.mark.parametrize("place", ["layer", "raw"])
def test_counts_are_found_beside_normalised_values(query, place):
    other = query.adata.copy()
    if place == "layer":
        other.layers["counts"] = other.X
    else:
        other.raw = other
    other.X = other.X.log1p()
    found = query.annotate(other)
    assert_same(found, query.annotate())
    assert found.place.endswith('layers["counts"]' if place == "layer" else ".raw")


def test_normalised_values_alone_give_the_result_of_their_counts(query):
    other = query.adata.copy()
    scanpy.pp.normalize_total(other, target_sum=1e4)
    scanpy.pp.log1p(other)
    found = query.annotate(other)
    assert_same(found, query.annotate())
    assert found.place.endswith("X (log1p, counts recovered)")


def test_values_that_give_no_counts_are_refused(query):
    other = query.adata.copy()
    other.X = csr_matrix(other.X).sqrt()
    with pytest.raises(CountsError, match=r"X needs non-negative integers.*--counts-layer"):
        query.annotate(other)


def test_a_bad_value_in_the_last_chunk_is_found(query):
    other = query.adata.copy()
    other.X = csr_matrix(other.X)
    other.X.data[-1] = np.nan
    with pytest.raises(CountsError, match="found nan at cell 'cell0059'"):
        query.annotate(other, chunk_size=10)


def test_genes_are_matched_by_the_column_of_var_that_fits(query):
    other = query.adata.copy()
    other.var["symbol"] = other.var_names
    other.var_names = [f"ENSG{gene:011d}.3" for gene in range(other.n_vars)]
    assert_same(query.annotate(other), query.annotate())


def test_too_few_panel_genes_are_refused_and_half_is_enough(query):
    half = query.adata[:, N_PANEL // 2 :].copy()
    assert query.annotate(half).annotation.probabilities.shape == (60, len(LABELS))
    with pytest.raises(GeneOverlapError, match=r"at least 50% of the model's 80 genes.*found 39 \(48.8%\)"):
        query.annotate(query.adata[:, N_PANEL // 2 + 1 :].copy())


def test_a_depth_column_replaces_the_row_sum(query):
    other = query.adata.copy()
    other.obs["depth"] = np.asarray(other.X.sum(axis=1)).ravel()
    whole = query.annotate(other, depth_key="depth")
    cut = other[:, :N_PANEL].copy()
    assert_same(query.annotate(cut, depth_key="depth"), whole)
    alone = query.annotate(cut)
    assert np.abs(alone.annotation.probabilities - whole.annotation.probabilities).max() > 0.01


def test_a_small_share_of_the_panel_is_warned_of_and_counted(query):
    found = query.annotate(query.adata[:, N_PANEL // 4 :].copy())
    assert found.n_panel_genes_found == 60
    assert "60 of the model's 80 genes (75.0%)" in found.warnings[0]


@pytest.mark.parametrize("layout", [csr_matrix, csc_matrix, lambda x: x.toarray()])
def test_matrices_in_memory_give_what_files_give(query, layout):
    expected = query.annotate().annotation
    found = make_bundle().annotate(layout(query.adata.X), list(query.adata.var_names))
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-6)


def test_matrices_in_memory_are_checked_like_files(query):
    bundle, counts, gene_ids = make_bundle(), query.adata.X, query.adata.var_names
    with pytest.raises(CountsError, match="non-negative integers"):
        bundle.annotate(counts.log1p(), gene_ids)
    with pytest.raises(GeneOverlapError):
        bundle.annotate(counts, [f"X{gene}" for gene in gene_ids])
    with pytest.raises(CountsError, match="one column for each gene id"):
        bundle.annotate(counts, gene_ids[:-1])


@pytest.mark.parametrize("damage", [-1, 300, 2**30])
def test_sparse_indices_that_point_outside_the_matrix_are_refused(query, damage):
    query.annotate()
    with h5py.File(query.path, "r+") as file:
        file["X/indices"][7] = damage
    with pytest.raises(InputFileError, match="X needs to be part of a whole h5ad file"):
        annotate_file(make_bundle(), query.path)


def test_few_genes_without_a_depth_column_are_warned_of(query):
    assert "--depth-key" in query.annotate().warnings[0]
    query.adata.obs["depth"] = 1000
    assert query.annotate(depth_key="depth").warnings == ()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (None, "no such column among cell_type"),
        (["many"] * 60, "'many' at cell 'cell0000'"),
        ([5.0] * 59 + [-1.0], "'-1.0' at cell 'cell0059'"),
    ],
)
def test_a_depth_column_must_hold_counts(query, values, message):
    if values is not None:
        query.adata.obs["depth"] = values
    with pytest.raises(InputFileError, match=message):
        query.annotate(depth_key="depth")


def test_poor_cells_are_flagged_and_kept(query):
    other = query.adata.copy()
    dense = other.X.toarray()
    dense[3] = 0
    other.X = csr_matrix(dense)
    found = query.annotate(other)
    assert np.flatnonzero(found.annotation.low_information).tolist() == [3]
    assert len(found.cell_ids) == 60


def test_labels_are_categories_in_the_model_s_order(query):
    labels = query.annotate().predicted_labels
    assert isinstance(labels, pd.Categorical)
    assert tuple(labels.categories) == LABELS


def test_versions_of_ensembl_ids_do_not_matter(tmp_path):
    plain = tuple(f"ENSG{gene:011d}" for gene in range(N_PANEL))
    adata = simulate_cells(20)
    adata.var_names = [f"ENSG{gene:011d}.{gene % 9}" for gene in range(adata.n_vars)]
    adata.write_h5ad(tmp_path / "query.h5ad")
    found = annotate_file(make_bundle(id_type="ensembl", gene_ids=plain), tmp_path / "query.h5ad")
    expected = annotate_file(make_bundle(), write_plain(tmp_path))
    assert_same(found, expected)


def write_plain(folder: Path) -> Path:
    simulate_cells(20).write_h5ad(folder / "plain.h5ad")
    return folder / "plain.h5ad"
