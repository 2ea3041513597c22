"""Counts on disk while a stage runs: read back as they were put in, in any selection, and gone afterwards."""

import anndata
import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csc_matrix, csr_matrix

from annotary.data import scratch
from annotary.data.scratch import open_store
from annotary.data.sparse import CompressedRows
from annotary.data.triplets import RowBuckets, turn_to_rows
from annotary.errors import OutputError

N_CELLS, N_GENES = 37, 11


def make_counts(seed: int = 0) -> csr_matrix:
    return csr_matrix(np.random.default_rng(seed).poisson(0.7, (N_CELLS, N_GENES)).astype(np.float32))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**16), appended=st.integers(1, N_CELLS), chunk=st.integers(1, N_CELLS + 3))
def test_any_cells_and_genes_come_back_whatever_the_chunks(tmp_path_factory, seed, appended, chunk):
    counts, rng = make_counts(seed), np.random.default_rng(seed)
    rows, columns = rng.random(N_CELLS) < 0.6, rng.random(N_GENES) < 0.7
    with pytest.MonkeyPatch.context() as patch, open_store(tmp_path_factory.mktemp("s"), N_GENES) as store:
        patch.setattr(scratch, "CHUNK_SIZE", chunk)
        for start in range(0, N_CELLS, appended):
            store.append(counts[start : start + appended])
        view = store.view().take_rows(rows).take_columns(columns)
        assert view.shape == (rows.sum(), columns.sum())
        read = list(view.iter_chunks())
        assert all(0 < part.shape[0] <= chunk for part in read)
        np.testing.assert_array_equal(view.load().toarray(), counts.toarray()[rows][:, columns])


def test_a_selection_can_be_selected_from(tmp_path):
    counts = make_counts()
    with open_store(tmp_path, N_GENES) as store:
        store.append(counts)
        view = store.view().take_rows(np.arange(5, 30)).take_rows(np.array([0, 3, 24]))
        view = view.take_columns(np.array([1, 4, 9])).take_columns(np.array([False, True, True]))
        np.testing.assert_array_equal(view.load().toarray(), counts.toarray()[[5, 8, 29]][:, [4, 9]])


def test_large_counts_and_many_genes_are_kept_exactly(tmp_path):
    counts = csr_matrix(
        ([16_777_216.0, 65_536.0], ([0, 1], [70_000, 0])), shape=(2, 70_001), dtype=np.float32
    )
    with open_store(tmp_path, counts.shape[1]) as store:
        store.append(counts)
        assert (store.view().load() != counts).nnz == 0


def test_nothing_has_a_name_even_while_it_is_used(tmp_path):
    with open_store(tmp_path, N_GENES) as store:
        store.append(make_counts())
        assert list(tmp_path.iterdir()) == []


def test_no_cell_is_no_error(tmp_path):
    with open_store(tmp_path, N_GENES) as store:
        store.append(make_counts())
        assert store.view().take_rows(np.zeros(N_CELLS, dtype=bool)).load().shape == (0, N_GENES)


def test_a_folder_that_cannot_be_written_is_an_output_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError), open_store(tmp_path / "file" / "folder", N_GENES):
        pass


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    pieces=st.integers(1, 6),
    start=st.integers(0, N_CELLS),
    stop=st.integers(0, 50),
)
def test_values_in_any_order_come_back_by_row(tmp_path_factory, seed, pieces, start, stop):
    matrix, rng = make_counts(seed).tocoo(), np.random.default_rng(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("annotary.data.triplets._STORED_AT_A_TIME", 20)
        buckets = RowBuckets(
            tmp_path_factory.mktemp("b"), matrix.shape, n_stored=matrix.nnz, dtype=np.dtype(np.float32)
        )
        for part in np.array_split(rng.permutation(matrix.nnz), pieces):
            buckets.add(matrix.row[part], matrix.col[part], matrix.data[part])
    expected = matrix.tocsr()[start : max(start, stop)]
    if start < min(stop, N_CELLS):
        np.testing.assert_array_equal(buckets[start:stop].toarray(), expected.toarray())


@pytest.mark.parametrize(("row", "column"), [(N_CELLS, 0), (0, N_GENES), (-1, 0), (0, -1)])
def test_a_place_outside_the_matrix_is_refused(tmp_path, row, column):
    buckets = RowBuckets(tmp_path, (N_CELLS, N_GENES), n_stored=1, dtype=np.dtype(np.float32))
    with pytest.raises(IndexError):
        buckets.add(np.array([row]), np.array([column]), np.array([1.0]))


def test_a_matrix_stored_by_gene_is_read_by_row_without_being_held(tmp_path, monkeypatch):
    monkeypatch.setattr("annotary.data.triplets._STORED_AT_A_TIME", 25)
    counts = make_counts()
    anndata.AnnData(csc_matrix(counts)).write_h5ad(tmp_path / "csc.h5ad")
    with h5py.File(tmp_path / "csc.h5ad") as file:
        rows = turn_to_rows(CompressedRows(file["X"], (N_GENES, N_CELLS)), tmp_path)
        np.testing.assert_array_equal(rows[3:20].toarray(), counts.toarray()[3:20])
