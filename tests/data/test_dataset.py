import json
from dataclasses import replace

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from annotary import keys
from annotary.data.dataset import (
    Dataset,
    DatasetRecord,
    DatasetTables,
    hash_dataset_cells,
    read_dataset,
    reread_cells,
    write_dataset,
)
from annotary.data.hashing import hash_strings
from annotary.data.splits import hash_split
from annotary.errors import InputFileError, OutputError

N_CELLS, N_GENES = 24, 10


def make_dataset():
    rng = np.random.default_rng(0)
    counts = csr_matrix(rng.poisson(1.0, (N_CELLS, N_GENES)).astype(np.float32))
    obs = pd.DataFrame(
        {
            keys.LABEL: rng.permutation(["B", "NK", "T"] * (N_CELLS // 3)),
            keys.SPLIT: [*keys.SIDES] * (N_CELLS // 3),
            keys.FOLD: [0, 1, -1] * (N_CELLS // 3),
            keys.DEPTH: np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel() + 3,
            keys.N_GENES: np.diff(counts.indptr),
        },
        index=[f"cell{cell}" for cell in range(N_CELLS)],
    )
    in_panel = np.arange(N_GENES) % 2 == 0
    var = pd.DataFrame({keys.IN_PANEL: in_panel}, index=[f"gene{gene}" for gene in rng.permutation(N_GENES)])
    record = DatasetRecord(
        source="in.h5ad",
        source_sha256="0" * 64,
        label_key="cell_type",
        depth_key="",
        label_names=("B", "NK", "T"),
        id_type="symbol",
        counts_hash=hash_dataset_cells(counts, obs, var.index),
        split_hash=hash_split(obs.index, obs[keys.SPLIT].to_numpy(dtype=object), obs[keys.FOLD].to_numpy()),
        panel_hash=hash_strings(var.index[in_panel].sort_values()),
        leaky=False,
        config="{}",
        package_version="0",
    )
    return Dataset(counts=counts, obs=obs, var=var, record=record)


@pytest.fixture
def dataset():
    return make_dataset()


@pytest.fixture
def path(dataset, tmp_path):
    path = tmp_path / "dataset.h5ad"
    write(dataset, path)
    return path


def write(dataset, path, chunk_size=7):
    chunks = (dataset.counts[start : start + chunk_size] for start in range(0, N_CELLS, chunk_size))
    record = replace(dataset.record, counts_hash="")
    return write_dataset(path, chunks, DatasetTables(obs=dataset.obs, var=dataset.var, record=record))


def test_dataset_survives_its_file(dataset, path):
    again = read_dataset(path)
    assert again.record == dataset.record
    assert (again.counts != dataset.counts).nnz == 0
    assert again.counts.dtype == np.float32
    assert list(again.panel) == list(dataset.panel)
    assert list(again.obs.index) == list(dataset.obs.index)
    for name in (keys.LABEL, keys.SPLIT):
        assert list(again.obs[name]) == list(dataset.obs[name])
    np.testing.assert_array_equal(again.obs[keys.DEPTH], dataset.obs[keys.DEPTH])


def test_writing_leaves_the_dataset_untouched(dataset, path):
    fresh = make_dataset()
    pd.testing.assert_frame_equal(dataset.obs, fresh.obs)
    pd.testing.assert_frame_equal(dataset.var, fresh.var)


def test_written_dataset_can_be_written_again(path, tmp_path):
    write(read_dataset(path), tmp_path / "again.h5ad")
    assert read_dataset(tmp_path / "again.h5ad").record == read_dataset(path).record


def test_sides_are_disjoint_and_complete(path):
    dataset = read_dataset(path)
    sides = [dataset.take(side) for side in keys.SIDES]
    ids = [cell for side in sides for cell in side.cell_ids]
    assert sorted(ids) == sorted(dataset.obs.index)


def test_taken_cells_keep_counts_depth_and_label_together(dataset, path):
    taken = read_dataset(path).take(keys.TRAIN, keys.VALIDATION)
    rows = dataset.obs.index.get_indexer(taken.cell_ids)
    assert list(rows) == sorted(rows)
    assert set(dataset.obs[keys.SPLIT].iloc[rows]) == {keys.TRAIN, keys.VALIDATION}
    np.testing.assert_array_equal(taken.counts.toarray(), dataset.counts.toarray()[rows])
    np.testing.assert_array_equal(taken.depth, dataset.obs[keys.DEPTH].to_numpy()[rows])
    names = [dataset.record.label_names[code] for code in taken.codes]
    assert names == list(dataset.obs[keys.LABEL].iloc[rows])


def test_panel_is_alphabetical(dataset):
    assert list(dataset.panel) == sorted(dataset.var.index[dataset.var[keys.IN_PANEL]])


def test_order_of_cells_and_genes_does_not_change_the_counts_hash(dataset):
    rng = np.random.default_rng(1)
    cells, genes = rng.permutation(N_CELLS), rng.permutation(N_GENES)
    moved = hash_dataset_cells(
        dataset.counts[cells][:, genes], dataset.obs.iloc[cells], dataset.var.index[genes]
    )
    assert moved == dataset.record.counts_hash


@pytest.mark.parametrize("chunk_size", [1, 5, N_CELLS])
def test_chunk_size_changes_neither_hash_nor_file(dataset, tmp_path, chunk_size):
    tables = write(dataset, tmp_path / "chunks.h5ad", chunk_size)
    assert tables.record == dataset.record
    again = anndata.read_h5ad(tmp_path / "chunks.h5ad")
    assert (csr_matrix(again.X) != dataset.counts).nnz == 0


def test_a_write_that_fails_leaves_nothing(dataset, tmp_path):
    def fail():
        yield dataset.counts[:5]
        raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match="No space left"):
        write_dataset(tmp_path / "full.h5ad", fail(), dataset)
    assert list(tmp_path.iterdir()) == []


def test_cells_are_read_back_without_holding_them(dataset, path, tmp_path):
    with reread_cells(path, tmp_path / "scratch") as cells:
        assert (cells.counts.load() != dataset.counts).nnz == 0
        assert list(cells.obs.index) == list(dataset.obs.index)
        assert list(cells.gene_ids) == list(dataset.var.index)
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.parametrize("name", ["counts_hash", "split_hash", "panel_hash"])
def test_dataset_hash_depends_on_every_part(dataset, name):
    values = dataset.record.__dict__ | {name: "other"}
    assert DatasetRecord(**values).dataset_hash != dataset.record.dataset_hash


def alter_count(adata):
    adata.X.data[0] += 1


def alter_label(adata):
    adata.obs[keys.LABEL] = ["T", *adata.obs[keys.LABEL][1:]]
    adata.obs.iloc[1, adata.obs.columns.get_loc(keys.LABEL)] = "B"


def alter_depth(adata):
    adata.obs[keys.DEPTH] += 1


def alter_side(adata):
    adata.obs[keys.SPLIT] = [*keys.SIDES[::-1], *adata.obs[keys.SPLIT][3:]]


def alter_panel(adata):
    adata.var[keys.IN_PANEL] = ~adata.var[keys.IN_PANEL]


def rename_gene(adata):
    adata.var_names = ["other", *adata.var_names[1:]]


@pytest.mark.parametrize(
    ("alter", "name"),
    [
        (alter_count, "counts_hash"),
        (alter_label, "counts_hash"),
        (alter_depth, "counts_hash"),
        (rename_gene, "counts_hash"),
        (alter_side, "split_hash"),
        (alter_panel, "panel_hash"),
    ],
)
def test_altered_file_is_refused(path, alter, name):
    adata = anndata.read_h5ad(path)
    alter(adata)
    adata.write_h5ad(path)
    with pytest.raises(
        InputFileError, match=f"the {name.replace('_', ' ')} of its record.*changed after it was written"
    ):
        read_dataset(path)
    with pytest.raises(InputFileError, match="changed after it was written"), reread_cells(path, path.parent):
        pass


@pytest.mark.parametrize("column", [keys.LABEL, keys.SPLIT, keys.DEPTH])
def test_file_that_lost_a_column_is_refused(path, column):
    adata = anndata.read_h5ad(path)
    del adata.obs[column]
    adata.write_h5ad(path)
    with pytest.raises(InputFileError, match="annotary preprocess"):
        read_dataset(path)


def test_permuted_file_is_the_same_dataset(dataset, path):
    adata = anndata.read_h5ad(path)
    adata[::-1, ::-1].copy().write_h5ad(path)
    again = read_dataset(path)
    assert again.record == dataset.record
    assert list(again.panel) == list(dataset.panel)


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(InputFileError, match=r"dataset file; found no such file\. Write it with annotary"):
        read_dataset(tmp_path / "none.h5ad")


def test_another_h5ad_file_is_refused(tmp_path):
    path = tmp_path / "other.h5ad"
    anndata.AnnData(csr_matrix((2, 2), dtype=np.float32)).write_h5ad(path)
    with pytest.raises(InputFileError, match=r"found another or a damaged file \(KeyError\)"):
        read_dataset(path)


def test_file_that_is_not_hdf5_is_refused(tmp_path):
    path = tmp_path / "text.h5ad"
    path.write_text("no data")
    with pytest.raises(InputFileError, match="found another or a damaged file"):
        read_dataset(path)


def test_truncated_file_is_refused(path):
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(InputFileError, match="found another or a damaged file"):
        read_dataset(path)


def test_h5_file_that_is_no_anndata_is_refused(tmp_path):
    path = tmp_path / "other.h5ad"
    with h5py.File(path, "w") as file:
        file["matrix"] = np.ones((2, 2))
    with pytest.raises(InputFileError, match="found another or a damaged file"):
        read_dataset(path)


@pytest.mark.parametrize(
    "record",
    [{"format": 99}, {}, {"model_version": "3"}, ["a"], {"format": 2}],
)
def test_other_records_are_refused(path, record):
    adata = anndata.read_h5ad(path)
    adata.uns[keys.RECORD] = json.dumps(record)
    adata.write_h5ad(path)
    with pytest.raises(InputFileError, match="annotary preprocess"):
        read_dataset(path)
