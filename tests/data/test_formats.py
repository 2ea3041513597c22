"""Every format gives the same counts; a damaged source is named; a pickle is read only if asked for."""

import gzip
import shutil
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy.io import mmwrite
from scipy.sparse import csc_matrix
from simulate import simulate_cells

from annotary.data.formats import convert_to_h5ad
from annotary.data.h5ad import open_counts
from annotary.data.labels import count_rare_labels, read_label_table
from annotary.errors import InputFileError, LabelError

CELLS = simulate_cells(30, 50)


def make_h5ad(folder: Path) -> Path:
    CELLS.write_h5ad(folder / "cells.h5ad")
    return folder / "cells.h5ad"


def make_gz(folder: Path) -> Path:
    plain = make_h5ad(folder)
    packed = folder / "cells.h5ad.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    plain.unlink()
    return packed


def make_zarr(folder: Path) -> Path:
    CELLS.write_zarr(folder / "cells.zarr")
    return folder / "cells.zarr"


def make_npy(folder: Path) -> Path:
    content = {
        "UMI": CELLS.X,
        "gene_ids": CELLS.var_names.to_numpy(),
        "classes": CELLS.obs["cell_type"].to_numpy(dtype=str),
    }
    np.save(folder / "cells.npy", np.array(content, dtype=object), allow_pickle=True)
    return folder / "cells.npy"


def make_10x_folder(folder: Path, *, packed: bool = True) -> Path:
    """Write what Cell Ranger 3 writes; packed or not, as other tools do."""
    target = folder / "filtered_feature_bc_matrix"
    target.mkdir()
    mmwrite(target / "matrix.mtx", CELLS.X.T.astype(int))
    features = pd.DataFrame(
        {"id": [f"ENSG{gene:011d}" for gene in range(50)], "name": CELLS.var_names, "type": "Gene Expression"}
    )
    features.to_csv(target / "features.tsv", sep="\t", header=False, index=False)
    pd.Series(CELLS.obs_names).to_csv(target / "barcodes.tsv", header=False, index=False)
    if packed:
        for path in list(target.iterdir()):
            path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()
    return target


def make_10x_h5(folder: Path) -> Path:
    """Write Cell Ranger 3's HDF5: features x barcodes, column by column."""
    path = folder / "filtered_feature_bc_matrix.h5"
    matrix = csc_matrix(CELLS.X.T.astype(np.int32))
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        group["barcodes"] = CELLS.obs_names.to_numpy(dtype="S")
        group["data"], group["indices"], group["indptr"] = matrix.data, matrix.indices, matrix.indptr
        group["shape"] = np.array(matrix.shape)
        features = group.create_group("features")
        features["id"] = np.array([f"ENSG{gene:011d}" for gene in range(50)], dtype="S")
        features["name"] = CELLS.var_names.to_numpy(dtype="S")
        features["feature_type"] = np.array(["Gene Expression"] * 50, dtype="S")
        features["genome"] = np.array(["GRCh38"] * 50, dtype="S")
    return path


MAKERS = [make_h5ad, make_gz, make_zarr, make_npy, make_10x_folder, make_10x_h5]


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__.removeprefix("make_"))
def test_every_format_gives_the_same_counts(make, tmp_path):
    source = make(tmp_path)
    with open_counts(convert_to_h5ad(source, tmp_path / "out", name="copy", allow_pickle=True)) as file:
        (_, counts), *rest = file.iter_chunks(100)
        assert not rest
        assert (counts != CELLS.X).nnz == 0
        assert list(file.var.index) == list(CELLS.var_names)
        if make not in {make_10x_folder, make_10x_h5}:
            assert list(file.obs["cell_type"]) == list(CELLS.obs["cell_type"])
        if make is not make_npy:
            assert list(file.obs.index) == list(CELLS.obs_names)


def test_an_unpacked_matrix_folder_is_read_too(tmp_path):
    source = make_10x_folder(tmp_path, packed=False)
    for name in ("matrix.mtx", "barcodes.tsv", "features.tsv"):
        assert (source / name).exists()
    shutil.move(source / "features.tsv", source / "genes.tsv")
    with open_counts(convert_to_h5ad(source, tmp_path, name="copy")) as file:
        assert file.n_cells == 30


def test_an_h5ad_file_is_taken_as_it_is(tmp_path):
    source = make_h5ad(tmp_path)
    assert convert_to_h5ad(source, tmp_path / "out", name="copy") == source
    assert not (tmp_path / "out").exists()


def test_a_pickle_is_refused_with_the_reason_unless_allowed(tmp_path):
    with pytest.raises(InputFileError, match=r"runs whatever code it holds.*Pass --allow-pickle"):
        convert_to_h5ad(make_npy(tmp_path), tmp_path / "out", name="copy")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.h5ad.gz", b"plain", "whole gzipped h5ad file"),
        ("a.h5", b"no HDF5", "a 10x HDF5 file; found a file of 7 bytes"),
        ("a.npy", b"no array", "whole pickled dictionary of UMI, gene_ids and classes"),
    ],
)
def test_a_damaged_source_is_named_and_leaves_nothing(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputFileError, match=message):
        convert_to_h5ad(tmp_path / name, tmp_path / "out", name="copy", allow_pickle=True)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("cut", [make_gz, make_10x_h5])
def test_a_truncated_source_is_named(tmp_path, cut):
    source = cut(tmp_path)
    source.write_bytes(source.read_bytes()[:1500])
    with pytest.raises(InputFileError, match=source.name):
        convert_to_h5ad(source, tmp_path / "out", name="copy")


@pytest.mark.parametrize("separator", [",", "\t"])
def test_a_label_table_is_joined_by_barcode(tmp_path, separator):
    table = tmp_path / "labels.csv"
    shuffled = CELLS.obs.sample(frac=1, random_state=0).iloc[:25]
    shuffled.rename_axis("barcode").to_csv(table, sep=separator)
    labels = read_label_table(table, CELLS.obs_names, "cell_type")
    assert labels.notna().sum() == 25
    known = labels.dropna()
    assert (known == CELLS.obs.loc[known.index, "cell_type"]).all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("barcode,label\nother,B\n", "none of them among 1 such as 'other'"),
        ("barcode,label\ncell0000,B\ncell0000,T\n", "1 repeated ones such as 'cell0000'"),
        ("", "to be a csv or tsv table"),
        ("barcode\ncell0000\n", "to be a csv or tsv table"),
    ],
)
def test_a_label_table_that_cannot_be_used_is_refused(tmp_path, text, message):
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(LabelError, match=message):
        read_label_table(tmp_path / "labels.csv", CELLS.obs_names, "cell_type")


def test_rare_labels_are_counted():
    labels = pd.Series(["B"] * 5 + ["T"] * 2 + ["NK"])
    assert count_rare_labels(labels, min_cells=3) == {"T": 2, "NK": 1}
    assert count_rare_labels(labels, min_cells=0) == {}


def test_the_original_is_named_where_a_copy_is_read(tmp_path):
    adata = anndata.AnnData(CELLS.X.sqrt(), obs=CELLS.obs, var=CELLS.var)
    adata.write_zarr(tmp_path / "cells.zarr")
    copy = convert_to_h5ad(tmp_path / "cells.zarr", tmp_path / "out", name="copy")
    with (
        pytest.raises(Exception, match=r"cells\.zarr: X needs"),
        open_counts(copy, shown_as=tmp_path / "cells.zarr"),
    ):
        pass
