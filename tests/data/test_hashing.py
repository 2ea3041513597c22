import hashlib

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csc_matrix, csr_matrix

from annotary.data.hashing import hash_cells, hash_file, hash_strings

seeds = st.integers(0, 2**32 - 1)


def make_table(n_cells=6, n_genes=8, *, seed=0):
    rng = np.random.default_rng(seed)
    counts = csr_matrix(rng.poisson(0.8, size=(n_cells, n_genes)).astype(np.float32))
    cell_ids = pd.Index([f"cell{cell}" for cell in range(n_cells)])
    gene_ids = pd.Index([f"gene{gene}" for gene in range(n_genes)])
    obs = pd.DataFrame({"label": rng.choice(["B", "T"], n_cells), "depth": "7"}, index=cell_ids)
    return counts, cell_ids, gene_ids, obs


def hash_table(counts, cell_ids, gene_ids, obs):
    return hash_cells(counts, cell_ids, gene_ids, obs=obs)


@given(seed=seeds)
def test_order_of_cells_and_genes_does_not_change_the_hash(seed):
    counts, cell_ids, gene_ids, obs = make_table(seed=seed)
    rng = np.random.default_rng(seed)
    cells, genes = rng.permutation(len(cell_ids)), rng.permutation(len(gene_ids))
    moved = hash_table(counts[cells][:, genes], cell_ids[cells], gene_ids[genes], obs.iloc[cells])
    assert moved == hash_table(counts, cell_ids, gene_ids, obs)


@given(seed=seeds)
def test_change_of_one_count_changes_the_hash(seed):
    counts, cell_ids, gene_ids, obs = make_table(seed=seed)
    rng = np.random.default_rng(seed)
    dense = counts.toarray()
    dense[rng.integers(len(cell_ids)), rng.integers(len(gene_ids))] += 1
    assert hash_table(csr_matrix(dense), cell_ids, gene_ids, obs) != hash_table(
        counts, cell_ids, gene_ids, obs
    )


def test_explicit_zeros_do_not_change_the_hash():
    counts, *ids = make_table()
    dense = counts.toarray()
    columns = np.tile(np.arange(dense.shape[1]), len(dense))
    full = csr_matrix((dense.ravel(), columns, np.arange(0, dense.size + 1, dense.shape[1])), dense.shape)
    assert full.nnz > counts.nnz
    assert hash_table(full, *ids) == hash_table(counts, *ids)


def test_unsorted_indices_do_not_change_the_hash():
    counts, *ids = make_table()
    rows = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
    order = np.lexsort((-counts.indices, rows))
    unsorted = csr_matrix((counts.data[order], counts.indices[order], counts.indptr), counts.shape)
    assert not unsorted.has_sorted_indices
    before = unsorted.indices.copy()
    assert hash_table(unsorted, *ids) == hash_table(counts, *ids)
    np.testing.assert_array_equal(unsorted.indices, before)


@pytest.mark.parametrize("convert", [csc_matrix, lambda counts: counts.astype(np.int16)])
def test_storage_does_not_change_the_hash(convert):
    counts, *ids = make_table()
    assert hash_table(convert(counts), *ids) == hash_table(counts, *ids)


def test_change_of_one_label_changes_the_hash():
    counts, cell_ids, gene_ids, obs = make_table()
    other = obs.copy()
    other.loc["cell2", "label"] = "NK"
    assert hash_table(counts, cell_ids, gene_ids, other) != hash_table(counts, cell_ids, gene_ids, obs)


@pytest.mark.parametrize("axis", ["cell", "gene"])
def test_change_of_one_id_changes_the_hash(axis):
    counts, cell_ids, gene_ids, obs = make_table()
    renamed = {
        "cell": (cell_ids.str.replace("cell3", "cell3x"), gene_ids),
        "gene": (cell_ids, gene_ids.str.replace("gene3", "gene3x")),
    }[axis]
    assert hash_table(counts, *renamed, obs) != hash_table(counts, cell_ids, gene_ids, obs)


def test_counts_swapped_between_cells_change_the_hash():
    counts, cell_ids, gene_ids, _ = make_table()
    obs = pd.DataFrame({"label": "B"}, index=cell_ids)
    swapped = counts[[1, 0, *range(2, len(cell_ids))]]
    assert (swapped != counts).nnz
    assert hash_table(swapped, cell_ids, gene_ids, obs) != hash_table(counts, cell_ids, gene_ids, obs)


def test_strings_are_hashed_with_their_bounds_and_order():
    hashes = {hash_strings(values) for values in (["ab", "c"], ["a", "bc"], ["abc"], ["c", "ab"], [])}
    assert len(hashes) == 5


def test_file_hash_is_the_sha256_of_its_bytes(tmp_path):
    content = bytes(range(256)) * 5000
    path = tmp_path / "file"
    path.write_bytes(content)
    assert hash_file(path) == hashlib.sha256(content).hexdigest()
