"""Layouts and places that users have: all stages read them by the same reader."""

import codecs
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import zarr
from anndata.io import read_elem, write_elem
from malformed.layouts import dotted_raw, records
from scoring_lab import Lab
from simulate import simulate_cells, write_cells

from annotary.data.discovery import find_sources, strip_ending
from annotary.data.formats import convert_to_h5ad, needs_conversion, write_as_h5ad
from annotary.data.h5ad import open_counts
from annotary.data.labels import read_label_table
from annotary.data.ontology import read_terms
from annotary.errors import InputFileError
from annotary.scoring.discovery import find_inputs

pytestmark = pytest.mark.filterwarnings("ignore:Writing zarr v2", "ignore:zarr v3", "ignore:Consolidated")

NULLABLE = {
    "text": pd.array(["a", None, "c"], dtype="string"),
    "whole": pd.array([1, None, 3], dtype="Int64"),
    "yes": pd.array([True, None, False], dtype="boolean"),
    "real": np.array([0.5, np.nan, 2]),
    "type": pd.Categorical(["x", None, "y"]),
}


@pytest.mark.parametrize("version", [2, 3])
def test_nullable_columns_of_a_zarr_store_are_kept(version, tmp_path):
    cells = simulate_cells(3, 50)
    table = pd.DataFrame(NULLABLE, index=cells.obs_names)
    with anndata.settings.override(allow_write_nullable_strings=True):
        store = zarr.open_group(tmp_path / "cells.zarr", mode="w", zarr_format=version)
        store.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        for name, value in (("obs", table), ("var", cells.var), ("X", cells.X), ("uns", {"t": table})):
            write_elem(store, name, value)
    write_as_h5ad(tmp_path / "cells.zarr", tmp_path / "copy.h5ad")
    with h5py.File(tmp_path / "copy.h5ad") as file:
        pd.testing.assert_frame_equal(read_elem(file["obs"]), table)
    with open_counts(tmp_path / "copy.h5ad") as counts:
        assert counts.n_cells == 3


def test_score_takes_files_of_anndata_06_with_all_that_is_in_them(tmp_path):
    lab = Lab(tmp_path)
    lab.incoming.mkdir()
    records(lab.incoming, sparse=True, index="index")
    with h5py.File(lab.incoming / "cells.h5ad", "r+") as file:
        file["uns/note"] = "kept"
        embedding = np.zeros(len(file["obs"]), dtype=[("X_pca", "f4", (2,))])
        embedding["X_pca"][:, 1] = 7
        file["obsm"] = embedding
        before = file["obs"]["n_counts"]
    assert lab.score() == {"cells.h5ad": "annotated"}
    annotated = anndata.read_h5ad(lab.output / "cells.annotated.h5ad")
    assert list(annotated.obs["n_counts"]) == list(before)
    assert set(annotated.obs["cell_type"].cat.categories) == set(simulate_cells().obs["cell_type"])
    assert "predicted_labels" in annotated.obs
    assert annotated.uns["note"] == "kept"
    assert (annotated.obsm["X_pca"][:, 1] == 7).all()
    with open_counts(lab.output / "cells.annotated.h5ad") as counts:
        assert next(counts.iter_chunks(200))[1].sum() == annotated.X.sum()


def test_the_counts_of_a_dotted_raw_become_those_of_raw(tmp_path):
    old = dotted_raw(tmp_path)
    assert needs_conversion(old)
    write_as_h5ad(old, tmp_path / "new.h5ad")
    new = anndata.read_h5ad(tmp_path / "new.h5ad")
    assert new.raw is not None
    assert (new.raw.X.toarray() == np.round(new.raw.X.toarray())).all()
    assert np.allclose(np.expm1(new.X.toarray()), new.raw.X.toarray(), atol=1e-3)
    assert not needs_conversion(tmp_path / "new.h5ad")


def write_mudata(path: Path, **modalities: anndata.AnnData) -> Path:
    with h5py.File(path, "w") as file:
        file.attrs["encoding-type"] = "MuData"
        for name in ("obs", "var"):
            write_elem(file, name, pd.DataFrame(index=["a"]))
        for name, cells in modalities.items():
            write_elem(file, f"mod/{name}", cells)
    return path


@pytest.mark.parametrize("name", ["cells.h5mu", "CELLS.H5MU", "cells.h5ad"])
def test_the_gene_expression_of_a_mudata_file_is_read(name, tmp_path):
    rna, atac = simulate_cells(20, 50), simulate_cells(20, 30)
    atac.var["feature_types"] = "Peaks"
    rna.obs["donor"] = pd.Categorical(["d1", "d2"] * 10)
    path = write_mudata(tmp_path / name, rna=rna, atac=atac)
    [source] = find_sources(str(path))
    assert source.name == name[:5]
    copy = convert_to_h5ad(path, tmp_path / "out", name="copy")
    again = anndata.read_h5ad(copy)
    assert (again.X != rna.X).nnz == 0
    assert list(again.obs["donor"]) == list(rna.obs["donor"])


@pytest.mark.parametrize(
    ("names", "found"), [(("rna", "gex"), "2 of them: gex, rna"), (("prot",), "with none of them: prot")]
)
def test_a_mudata_file_without_one_gene_expression_says_what_to_do(names, found, tmp_path):
    path = write_mudata(tmp_path / "cells.h5mu", **{name: simulate_cells(20, 30) for name in names})
    with pytest.raises(InputFileError, match=rf"{found}\. Write .*mdata\[.*\]\.write_h5ad"):
        write_as_h5ad(path, tmp_path / "copy.h5ad")


def test_endings_are_told_in_capitals_too(tmp_path):
    for name in ("A.H5AD", "B.H5AD.GZ", "C.H5", "D.H5MU", "E.h5Ad"):
        (tmp_path / name).touch()
    (tmp_path / "F.ZARR").mkdir()
    for name in ("x.ANNOTATED.H5AD", "y.Converted.H5ad"):
        (tmp_path / name).touch()
    assert [source.name for source in find_sources(str(tmp_path))] == ["A", "B", "C", "D", "E", "F"]
    assert [one.name for one in find_inputs(str(tmp_path)).inputs] == ["A", "B", "C", "D", "E", "F"]
    assert [one.name for one in find_inputs(f"file://{tmp_path}").inputs] == ["A", "B", "C", "D", "E", "F"]
    assert strip_ending("x.H5AD.gz") == "x"


def test_a_file_in_capitals_is_read_as_what_it_is(tmp_path):
    write_cells(tmp_path / "CELLS.H5AD", n_cells=20)
    simulate_cells(20, 50).write_zarr(tmp_path / "CELLS.ZARR")
    assert not needs_conversion(tmp_path / "CELLS.H5AD")
    write_as_h5ad(tmp_path / "CELLS.ZARR", tmp_path / "copy.h5ad")
    (tmp_path / "FILES.TXT").write_text("CELLS.H5AD\n")
    [one] = find_inputs(str(tmp_path / "FILES.TXT")).inputs
    assert one.name == "CELLS"


def test_files_of_one_name_are_told_apart_by_the_folder_of_a_link(tmp_path):
    real = write_cells(tmp_path / "cells.h5ad", n_cells=20)
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
    (tmp_path / "one" / "cells.h5ad").symlink_to(real)
    write_cells(tmp_path / "two" / "cells.h5ad", n_cells=21)
    both = f"{tmp_path / 'one' / 'cells.h5ad'},{tmp_path / 'two' / 'cells.h5ad'}"
    assert [source.name for source in find_sources(both)] == ["one/cells", "two/cells"]


ENCODINGS = {
    "plain": lambda text: text.encode(),
    "mark": lambda text: codecs.BOM_UTF8 + text.encode(),
    "utf-16": lambda text: text.encode("utf-16"),
    "utf-16-be": lambda text: codecs.BOM_UTF16_BE + text.encode("utf-16-be"),
}


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_byte_order_mark_is_no_part_of_a_text(encoding, tmp_path):
    encode = ENCODINGS[encoding]
    write_cells(tmp_path / "b.h5ad", n_cells=20)
    (tmp_path / "list.txt").write_bytes(encode("b.h5ad\n"))
    [one] = find_inputs(str(tmp_path / "list.txt")).inputs
    assert one.address == str(tmp_path / "b.h5ad")

    (tmp_path / "labels.csv").write_bytes(encode("barcode,cell_type\ncéll1,T\n"))
    labels = read_label_table(tmp_path / "labels.csv", pd.Index(["céll1"]), "cell_type")
    assert list(labels) == ["T"]

    (tmp_path / "terms.tsv").write_bytes(encode("label\tcell_type_ontology_term_id\nT\tCL:0000084\n"))
    assert read_terms(tmp_path / "terms.tsv") == {"T": "CL:0000084"}

    tenx = tmp_path / "tenx"
    tenx.mkdir()
    header = "%%MatrixMarket matrix coordinate integer general\n"
    (tenx / "barcodes.tsv").write_bytes(encode("AAAC\nAAAG\n"))
    (tenx / "features.tsv").write_bytes(encode("ENSG1\tA\tGene Expression\n"))
    (tenx / "matrix.mtx").write_bytes(encode(f"{header}1 2 2\n1 1 3\n1 2 4\n"))
    write_as_h5ad(tenx, tmp_path / "tenx.h5ad")
    read = anndata.read_h5ad(tmp_path / "tenx.h5ad")
    assert (list(read.obs_names), list(read.var["gene_ids"])) == (["AAAC", "AAAG"], ["ENSG1"])
    assert read.X.toarray().ravel().tolist() == [3, 4]
