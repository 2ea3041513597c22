"""Majority voting gives what CellTypist gives, on clusters that are given or found."""

from dataclasses import replace

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix
from scoring_lab import BUNDLE, Lab

from annotary import keys
from annotary.data.ontology import read_terms
from annotary.errors import InputFileError
from annotary.scoring import over_clustering
from annotary.scoring.ontology import map_terms
from annotary.scoring.outcome import make_key
from annotary.scoring.over_clustering import choose_resolution, over_cluster
from annotary.scoring.voting import HETEROGENEOUS, vote


def vote_as_celltypist(labels: pd.Series, clusters: np.ndarray, min_prop: float) -> list[str]:
    """CellTypist 1.7.1's Classifier.majority_vote, line by line."""
    votes = pd.crosstab(labels, clusters)
    majority = votes.idxmax(axis=0).astype(str)
    freqs = (votes / votes.sum(axis=0).to_numpy()).max(axis=0)
    majority[freqs < min_prop] = "Heterogeneous"
    return majority[clusters].tolist()


@pytest.mark.parametrize("min_prop", [0.0, 0.4, 0.6, 1.0])
def test_votes_are_celltypist_s(min_prop):
    rng = np.random.default_rng(0)
    names = ["NK cell", "B cell", "T cell", "a cell"]
    labels = pd.Categorical.from_codes(rng.integers(0, 4, 300), categories=names)
    clusters = rng.integers(0, 40, 300).astype(str)
    found = vote(labels, pd.Categorical(clusters), min_prop=min_prop)
    assert list(found) == vote_as_celltypist(pd.Series(labels).astype(str), clusters, min_prop)
    assert (HETEROGENEOUS in found.categories) == (HETEROGENEOUS in list(found))


def test_a_cell_without_a_cluster_keeps_its_label():
    labels = pd.Categorical(["x", "y", "y", "x"])
    clusters = pd.Categorical([None, "1", "1", "1"])
    assert list(vote(labels, clusters, min_prop=0)) == ["x", "y", "y", "y"]


@pytest.fixture(scope="module")
def groups():
    """Log-like expression of three well separated groups, 90 cells."""
    rng = np.random.default_rng(1)
    dense = rng.random((90, 30)) * (rng.random((90, 30)) < 0.3)
    for group in range(3):
        dense[group::3, group * 10 : group * 10 + 10] += 3
    return csr_matrix(dense.astype(np.float32))


def read_in_chunks(matrix, size=20):
    return lambda: (matrix[start : start + size] for start in range(0, matrix.shape[0], size))


@pytest.mark.parametrize("n_sketch", [1000, 45])
def test_clusters_keep_groups_apart_on_a_sketch_too(groups, n_sketch, monkeypatch):
    monkeypatch.setattr(over_clustering, "SKETCH_CELLS", n_sketch)
    clusters = over_cluster(read_in_chunks(groups), 90)
    assert clusters.shape == (90,)
    table = pd.crosstab(clusters, np.arange(90) % 3)
    assert (table.gt(0).sum(axis=1) == 1).all(), "no cluster has cells of two groups"
    assert np.array_equal(clusters, over_cluster(read_in_chunks(groups, 7), 90))


def test_too_few_cells_are_one_cluster():
    assert list(over_cluster(read_in_chunks(csr_matrix(np.ones((2, 5)))), 2)) == [0, 0]


def test_resolution_follows_the_number_of_cells():
    assert [choose_resolution(n) for n in (100, 5_000, 68_579, 500_000)] == [5.0, 10.0, 20.0, 30.0]


def test_voted_columns_are_in_the_file_under_the_prefix(tmp_path):
    lab = Lab(tmp_path)
    path = lab.add("a.h5ad", n_cells=60)
    adata = anndata.read_h5ad(path)
    adata.obs["cluster"] = pd.Categorical(np.arange(60) % 5)
    adata.write_h5ad(path)
    assert set(lab.score(majority_voting=True, cluster_key="cluster", prefix="ann_").values()) == {
        "annotated"
    }
    after = anndata.read_h5ad(lab.output / "a.annotated.h5ad")
    labels = after.obs[f"ann_{keys.PREDICTED_LABELS}"]
    expected = vote_as_celltypist(labels.astype(str), (np.arange(60) % 5).astype(str), 0)
    assert list(after.obs[f"ann_{keys.MAJORITY_VOTING}"]) == expected
    assert after.obs[f"ann_{keys.OVER_CLUSTERING}"].dtype == "category"
    assert f"ann_{keys.PROBABILITIES}" in after.obsm
    assert keys.PREDICTED_LABELS not in after.obs
    [scored] = lab.iter_scored(majority_voting=True)
    assert scored.status == "annotated"
    again = anndata.read_h5ad(scored.outputs[0])
    assert scored.outputs[0] != lab.output / "a.annotated.h5ad", "what has another prefix is not replaced"
    assert len(set(again.obs[keys.OVER_CLUSTERING])) > 1
    assert lab.score(cluster_key="none", majority_voting=True) == {"a.h5ad": "failed"}


def test_terms_are_those_that_the_model_keeps_and_unknown_elsewhere(tmp_path):
    table = tmp_path / "terms.csv"
    table.write_text("label,cell_type_ontology_term_id\nB cell, CL:0000236\nT cell,\nNK cell,unknown\n")
    assert read_terms(table) == {"B cell": "CL:0000236"}
    labels = pd.Categorical(["B cell", "NK cell", "T cell"])
    assert list(map_terms(labels, read_terms(table))) == ["CL:0000236", "unknown", "unknown"]
    lab = Lab(tmp_path, bundle=replace(BUNDLE, terms=read_terms(table)))
    lab.add("a.h5ad")
    assert lab.score() == {"a.h5ad": "annotated"}
    after = anndata.read_h5ad(lab.output / "a.annotated.h5ad")
    is_b = after.obs[keys.PREDICTED_LABELS] == "B cell"
    assert (after.obs[keys.ONTOLOGY_TERM] == np.where(is_b, "CL:0000236", "unknown")).all()
    assert after.obs[keys.ONTOLOGY_TERM].dtype == "category"


def test_a_table_in_place_of_the_model_s_decides_what_is_written(tmp_path):
    table, lab = tmp_path / "terms.csv", Lab(tmp_path)
    keys_of = set()
    for term in ("CL:0000236", "CL:0000237"):
        table.write_text(f"label,cell_type_ontology_term_id\nB cell,{term}\n")
        keys_of.add(make_key(("model", "1"), lab.configure(ontology=str(table))))
    assert len(keys_of) == 2


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("name,term\nB,CL:0000236\n", "columns name, term"),
        ("label,cell_type_ontology_term_id\nB,B cell\n", "the term 'B cell'"),
        ("label,cell_type_ontology_term_id\nB,CL:0000236\nB,CL:0000236\n", "two rows for 'B'"),
    ],
)
def test_a_table_of_terms_must_be_one(tmp_path, text, found):
    (tmp_path / "terms.csv").write_text(text)
    with pytest.raises(InputFileError, match=found):
        read_terms(tmp_path / "terms.csv")
