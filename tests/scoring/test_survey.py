"""What is kept of the cells of a batch does not depend on how they come, and a sample favours none."""

from dataclasses import replace

import anndata
import numpy as np
import pandas as pd
import pytest
from linear_bundle import N_PANEL
from scipy.sparse import csr_matrix
from scoring_lab import BUNDLE, Lab
from simulate import simulate_cells

from annotary import keys
from annotary.quality.prepare import PreparedCells
from annotary.quality.qc import QualityThresholds
from annotary.scoring.annotate import annotate_file
from annotary.scoring.cell_quality import PASS
from annotary.scoring.survey import CellSample, Survey


@pytest.fixture(scope="module")
def cells():
    return simulate_cells(n_cells=100)


@pytest.fixture
def path(cells, tmp_path):
    cells.write_h5ad(tmp_path / "cells.h5ad")
    return tmp_path / "cells.h5ad"


def with_thresholds(**thresholds):
    profile = replace(BUNDLE.profile, thresholds=QualityThresholds(**thresholds))
    return replace(BUNDLE, profile=profile)


@pytest.mark.parametrize("chunk_size", [7, 100])
def test_detection_is_the_share_of_cells_whatever_the_chunks(cells, path, chunk_size):
    survey = annotate_file(BUNDLE, path, chunk_size=chunk_size, is_sampled=True).survey
    panel = cells[:, list(BUNDLE.spec.gene_ids)].X
    np.testing.assert_allclose(survey.detection, (panel > 0).mean(axis=0).A1)
    assert len(survey.sample.codes) == 100
    assert (survey.sample.cells.counts != panel).nnz == 0


def test_a_gene_that_a_file_lacks_counts_in_the_others(cells, path, tmp_path):
    gene = BUNDLE.spec.gene_ids[3]
    cells[:40, cells.var_names != gene].write_h5ad(tmp_path / "lacking.h5ad")
    surveys = [annotate_file(BUNDLE, one).survey for one in (path, tmp_path / "lacking.h5ad")]
    joined = surveys[0].join(surveys[1])
    assert joined.n_cells.tolist() == [140, 140, 140, 100, *[140] * (N_PANEL - 4)]
    assert joined.detection[3] == surveys[0].detection[3]
    assert np.isnan(surveys[1].detection[3])
    assert joined.sample is None, "none was wanted"


def test_a_sample_is_bounded_and_every_cell_has_its_chance():
    rng, hits = np.random.default_rng(0), np.zeros(60)
    for _ in range(400):
        parts = [
            CellSample(
                PreparedCells(csr_matrix(np.zeros((20, 2), dtype=np.float32)), depth=np.ones(20)),
                codes=np.arange(start, start + 20),
                sources=np.full(20, "a", dtype=object),
                lots=rng.random(20),
            )
            for start in (0, 20, 40)
        ]
        sample = parts[0].join(parts[1], most=15).join(parts[2], most=15)
        assert len(sample.codes) == len(sample.cells) == len(set(sample.codes)) == 15
        hits[sample.codes] += 1
    assert hits.min() > 60
    assert hits.max() < 145


def test_cells_that_fail_a_training_threshold_are_told_with_the_first_reason(path, cells):
    depth = cells.X.sum(axis=1).A1
    n_genes = (cells.X > 0).sum(axis=1).A1
    genes, counts = int(np.quantile(n_genes, 0.2)), int(np.quantile(depth, 0.4))
    bundle = with_thresholds(min_genes=genes, min_counts=counts, max_pct_mito=100.0)
    found = annotate_file(bundle, path, chunk_size=30)
    flags = found.more_columns[keys.QUALITY]
    assert list(flags.categories) == [
        PASS, f"fewer than {genes} genes", f"fewer than {counts} counts", "no counts"
    ]  # fmt: skip
    expected = np.where(n_genes < genes, 1, np.where(depth < counts, 2, 0))
    assert 0 < (expected == 1).sum() < (expected > 0).sum() < 100
    np.testing.assert_array_equal(flags.codes, expected)
    assert found.measure()["n_poor_quality"] == (expected > 0).sum()


def test_mitochondrial_shares_are_of_all_counts(cells, tmp_path):
    named = cells.copy()
    outside = ~named.var_names.isin(BUNDLE.spec.gene_ids)
    named.var_names = [
        f"MT-{gene}" if is_out and number % 9 == 0 else gene
        for number, (gene, is_out) in enumerate(zip(named.var_names, outside, strict=True))
    ]
    mito = named.X[:, named.var_names.str.startswith("MT-")].sum(axis=1).A1
    pct = 100 * mito / named.X.sum(axis=1).A1
    named.write_h5ad(tmp_path / "mito.h5ad")
    bundle = with_thresholds(min_genes=0, min_counts=0, max_pct_mito=float(np.median(pct)))
    flags = annotate_file(bundle, tmp_path / "mito.h5ad").more_columns[keys.QUALITY]
    np.testing.assert_array_equal(flags != PASS, pct > np.median(pct))


def test_a_file_that_was_cut_to_some_genes_is_not_held_against_the_number_of_genes(cells, tmp_path):
    cut = cells[:, list(BUNDLE.spec.gene_ids)].copy()
    cut.obs["depth"] = cells.X.sum(axis=1).A1
    cut.write_h5ad(tmp_path / "cut.h5ad")
    bundle = with_thresholds(min_genes=10_000, min_counts=1, max_pct_mito=100.0)
    quality = [
        annotate_file(bundle, tmp_path / "cut.h5ad", depth_key=key).more_columns[keys.QUALITY]
        for key in ("", "depth")
    ]
    assert (quality[0] == "fewer than 10000 genes").all()
    assert (quality[1] == PASS).all()


def test_flags_are_read_back_by_anndata_and_pandas_and_left_out_where_the_model_has_no_thresholds(tmp_path):
    lab = Lab(tmp_path)
    lab.add("a.h5ad")
    assert lab.score(form="both", table_format="parquet") == {"a.h5ad": "annotated"}
    obs = anndata.read_h5ad(lab.output / "a.annotated.h5ad").obs
    table = pd.read_parquet(lab.output / "a.annotated.parquet")
    assert list(table[keys.QUALITY]) == list(obs[keys.QUALITY]) == [PASS] * 20
    assert list(obs[keys.QUALITY].cat.categories) == [PASS, "fewer than 20 genes", "no counts"]
    older = Lab(tmp_path, version="0", bundle=replace(BUNDLE, profile=None))
    assert older.score() == {"a.h5ad": "annotated"}
    assert keys.QUALITY not in anndata.read_h5ad(lab.output / "a.annotated.h5ad").obs


def test_an_empty_survey_has_no_detection():
    assert np.isnan(Survey(np.zeros(2, int), np.zeros(2, int), sample=None).detection).all()
