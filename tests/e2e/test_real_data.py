"""Real labelled counts through all the stages, where the data are beside the project."""

import anndata
import mlflow
import pandas as pd
import pytest
from conftest import SMALL, shared_data

from annotary import keys
from annotary.config import MainConfig, ScoreConfig
from annotary.stages.pipeline import run_pipeline
from annotary.stages.score import score


@pytest.mark.full
def test_score_without_labels_gives_what_evaluate_reported_on_its_test_cells(module_store):
    source = shared_data("sorted_pbmc_3874.h5ad")
    values = SMALL | {"doublets": "solo", "min_genes": 200, "n_top_genes": 1200}
    outcome = run_pipeline(MainConfig(input=str(source), output=str(module_store / "out"), **values))
    best = outcome.evaluated[0]
    assert best.score > 0.7, "logistic regression on 1200 highly variable genes reached .788 when measured"
    query = anndata.read_h5ad(source)
    query.obs = query.obs[[]]
    query.write_h5ad(module_store / "query.h5ad")
    done = score(ScoreConfig(input=str(module_store / "query.h5ad"), output=str(module_store / "out")))
    given = anndata.read_h5ad(done.files[0].target)
    assert list(given.obs_names) == list(query.obs_names)
    run = mlflow.search_runs(filter_string="tags.annotary.stage = 'evaluate'").iloc[0]
    reported = pd.read_csv(
        mlflow.artifacts.download_artifacts(f"runs:/{run['run_id']}/tables/predictions.csv"), index_col=0
    )
    name = f"{best.candidate.kind}_v{best.version.number}"
    assert len(reported) > 500
    assert (given.obs.loc[reported.index, keys.PREDICTED_LABELS].astype(str) == reported[name]).all()
