"""The annotated file: everything that was there, plus the annotation, whole or not at all."""

import shutil
from dataclasses import replace
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix
from simulate import LABELS, simulate_cells

from annotary import keys
from annotary.data.atomic import replacing
from annotary.errors import InputFileError, OutputError
from annotary.models.bundle import Annotation
from annotary.scoring import outputs
from annotary.scoring.annotate import AnnotatedCells
from annotary.scoring.outputs import add_annotation, describe_table
from annotary.scoring.records import ScoreRecord, read_record
from annotary.scoring.tables import CELL_ID, read_table_record, write_table
from annotary.scoring.written import list_moved

OBS_COLUMNS = [
    keys.PREDICTED_LABELS,
    keys.CONF_SCORE,
    keys.LOW_INFORMATION,
    keys.UNASSIGNED,
    keys.OOD,
    keys.OOD_SCORE,
]
RECORD = ScoreRecord(
    **{name: name for name in ScoreRecord.__dataclass_fields__}
    | {"input_name": "Zellen Müller/π.h5ad", "input_size": 12}
)


def write_annotated(
    source: Path, target: Path, cells: AnnotatedCells, record: ScoreRecord, prefix: str = ""
) -> list[str]:
    with replacing(target) as temporary:
        shutil.copyfile(source, temporary)
        return list_moved(add_annotation(temporary, cells, record, shown_as=str(source), prefix=prefix))


def make_cells(n_cells: int, *, seed: int = 0) -> AnnotatedCells:
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.ones(len(LABELS)), size=n_cells).astype(np.float32)
    return AnnotatedCells(
        cell_ids=pd.Index([f"cell{cell:04d}" for cell in range(n_cells)]),
        label_names=LABELS,
        annotation=Annotation(
            probabilities=probabilities,
            low_information=np.zeros(n_cells, dtype=bool),
            unassigned=probabilities.max(axis=1) < 0.5,
            prediction_sets=probabilities > 0.2,
            ood_score=rng.uniform(0, 2, size=n_cells).astype(np.float32),
        ),
        place="X",
        n_panel_genes_found=77,
        warnings=("few genes",),
    )


@pytest.fixture
def rich(tmp_path):
    """A file with something in every slot of AnnData."""
    adata = simulate_cells(40)
    adata.obs["donor"] = pd.Categorical(["d1", "d2"] * 20)
    adata.obs["score"] = np.where(np.arange(40) % 3, 0.5, np.nan)
    adata.layers["log"] = adata.X.log1p()
    adata.raw = adata
    adata.obsm["X_umap"] = np.random.default_rng(0).normal(size=(40, 2))
    adata.obsp["distances"] = csr_matrix(np.eye(40))
    adata.varm["PCs"] = np.ones((adata.n_vars, 3))
    adata.uns["colors"] = ["red", "blue"]
    adata.uns["nested"] = {"a": {"b": np.arange(3)}}
    path = tmp_path / "rich.h5ad"
    adata.write_h5ad(path, compression="gzip")
    return path


def test_everything_that_was_in_the_file_is_still_there(rich, tmp_path):
    target = tmp_path / "out" / "rich.annotated.h5ad"
    assert write_annotated(rich, target, make_cells(40), RECORD) == []
    before, after = anndata.read_h5ad(rich), anndata.read_h5ad(target)
    pd.testing.assert_frame_equal(after.obs[before.obs.columns], before.obs)
    pd.testing.assert_frame_equal(after.var, before.var)
    assert (after.X != before.X).nnz == 0
    assert (after.layers["log"] != before.layers["log"]).nnz == 0
    assert (after.raw.X != before.raw.X).nnz == 0
    assert (after.obsp["distances"] != before.obsp["distances"]).nnz == 0
    np.testing.assert_array_equal(after.obsm["X_umap"], before.obsm["X_umap"])
    np.testing.assert_array_equal(after.varm["PCs"], before.varm["PCs"])
    assert list(after.uns["colors"]) == ["red", "blue"]
    np.testing.assert_array_equal(after.uns["nested"]["a"]["b"], np.arange(3))


def test_the_annotation_can_be_read_back(rich, tmp_path):
    target, cells = tmp_path / "rich.annotated.h5ad", make_cells(40)
    write_annotated(rich, target, cells, RECORD)
    after = anndata.read_h5ad(target)
    assert list(after.obs.columns[-6:]) == OBS_COLUMNS
    assert list(after.obs[keys.PREDICTED_LABELS].cat.categories) == list(LABELS)
    np.testing.assert_array_equal(after.obsm[keys.PROBABILITIES], cells.annotation.probabilities)
    np.testing.assert_array_equal(after.obs[keys.CONF_SCORE], cells.annotation.confidence)
    for name, values, dtype in (
        (keys.UNASSIGNED, cells.annotation.unassigned, bool),
        (keys.OOD, cells.annotation.ood, bool),
        (keys.OOD_SCORE, cells.annotation.ood_score, np.float32),
    ):
        np.testing.assert_array_equal(after.obs[name], values)
        assert after.obs[name].dtype == dtype
        assert values.any()
    sets = after.obsm[keys.PREDICTION_SETS]
    np.testing.assert_array_equal(sets, cells.annotation.prediction_sets)
    assert sets.dtype == bool
    record = read_record(target)
    assert list(record["probability_columns"]) == list(LABELS)
    assert record["input_name"] == RECORD.input_name
    assert record["warnings"] == '["few genes"]'
    assert record["n_unassigned"] == cells.annotation.unassigned.sum()
    assert record["n_ood"] == cells.annotation.ood.sum()
    assert len(after.obs[[keys.PREDICTED_LABELS, keys.CONF_SCORE]]) == 40


def test_the_input_is_untouched(rich, tmp_path):
    before = rich.read_bytes()
    write_annotated(rich, tmp_path / "rich.annotated.h5ad", make_cells(40), RECORD)
    assert rich.read_bytes() == before


def test_columns_of_another_tool_are_kept_beside_ours(tmp_path):
    adata = simulate_cells(10)
    adata.obs[keys.PREDICTED_LABELS] = pd.Categorical(["theirs"] * 10)
    adata.obs[keys.CONF_SCORE] = 0.25
    path, target = tmp_path / "celltypist.h5ad", tmp_path / "celltypist.annotated.h5ad"
    adata.write_h5ad(path)
    moved = write_annotated(path, target, make_cells(10), RECORD)
    assert len(moved) == 2
    after = anndata.read_h5ad(target)
    assert set(after.obs["predicted_labels_before_annotary"]) == {"theirs"}
    assert set(after.obs["conf_score_before_annotary"]) == {0.25}
    assert set(after.obs[keys.PREDICTED_LABELS]) <= set(LABELS)


def test_an_earlier_annotation_of_ours_is_replaced(tmp_path):
    path, once, twice = (tmp_path / name for name in ("a.h5ad", "b.h5ad", "c.h5ad"))
    simulate_cells(10).write_h5ad(path)
    write_annotated(path, once, make_cells(10), RECORD)
    newer = replace(RECORD, model_version="2")
    assert write_annotated(once, twice, make_cells(10, seed=1), newer) == []
    after = anndata.read_h5ad(twice)
    assert list(after.obs.columns) == ["cell_type", *OBS_COLUMNS]
    assert read_record(twice)["model_version"] == "2"
    np.testing.assert_array_equal(
        after.obsm[keys.PROBABILITIES], make_cells(10, seed=1).annotation.probabilities
    )


def test_labels_that_another_tool_wrote_over_ours_are_kept(tmp_path):
    path, once, twice = (tmp_path / name for name in ("a.h5ad", "b.h5ad", "c.h5ad"))
    simulate_cells(10).write_h5ad(path)
    write_annotated(path, once, make_cells(10), RECORD)
    theirs = anndata.read_h5ad(once)
    theirs.obs[keys.PREDICTED_LABELS] = pd.Categorical(["theirs"] * 10)
    theirs.write_h5ad(once)
    assert write_annotated(once, twice, make_cells(10, seed=1), RECORD) == [
        "obs['predicted_labels'] -> obs['predicted_labels_before_annotary']"
    ]
    assert set(anndata.read_h5ad(twice).obs["predicted_labels_before_annotary"]) == {"theirs"}


def test_a_failure_while_writing_leaves_the_old_output_and_no_temporary_file(rich, tmp_path, monkeypatch):
    target = tmp_path / "out" / "rich.annotated.h5ad"
    write_annotated(rich, target, make_cells(40), RECORD)
    before = target.read_bytes()

    def fill_the_disk(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(outputs, "_write", fill_the_disk)
    with pytest.raises(OutputError, match="No space left on device"):
        write_annotated(rich, target, make_cells(40, seed=1), RECORD)
    assert target.read_bytes() == before
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def test_tables_of_an_old_layout_are_refused_with_the_remedy(tmp_path):
    path = tmp_path / "old.h5ad"
    with h5py.File(path, "w") as file:
        file["obs"] = np.array([(b"a", 1)], dtype=[("index", "S4"), ("n", "i4")])
    with pytest.raises(InputFileError, match=r"layout that anndata has written since version 0\.7"):
        write_annotated(path, tmp_path / "old.annotated.h5ad", make_cells(1), RECORD)
    assert not (tmp_path / "old.annotated.h5ad").exists()


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_a_table_has_the_columns_of_the_annotated_file(kind, rich, tmp_path):
    target, cells = tmp_path / "rich.annotated.h5ad", make_cells(40)
    write_annotated(rich, target, cells, RECORD)
    write_table(tmp_path / "table", cells, describe_table(cells, RECORD), kind=kind)
    table = getattr(pd, f"read_{kind}")(tmp_path / "table").set_index(CELL_ID)
    after = anndata.read_h5ad(target)
    own = [keys.PREDICTED_LABELS, keys.CONF_SCORE, keys.LOW_INFORMATION]
    pd.testing.assert_frame_equal(
        table[own].astype({keys.PREDICTED_LABELS: str}),
        after.obs[own].astype({keys.PREDICTED_LABELS: str}),
        check_names=False,
        check_dtype=kind == "parquet",
    )
    probabilities = table[[f"probability {name}" for name in LABELS]].to_numpy()
    np.testing.assert_allclose(probabilities, after.obsm[keys.PROBABILITIES], rtol=1e-6)
    if kind == "parquet":
        assert isinstance(table[keys.PREDICTED_LABELS].dtype, pd.CategoricalDtype)
        assert read_table_record(tmp_path / "table")["input_sha256"] == RECORD.input_sha256
