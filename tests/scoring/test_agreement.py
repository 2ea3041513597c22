"""Two versions on the same cells: how often they agree, and on which labels they do not."""

import anndata
import numpy as np
import pandas as pd
import pytest
from scoring_lab import Lab

from annotary import keys
from annotary.scoring.agreement import compare_labels, read_labels


def test_agreement_is_counted_over_files_and_by_label():
    found = compare_labels(
        [np.array(["a", "a", "b"]), np.array(["a", "c"])], [np.array(["a", "b", "b"]), np.array(["a", "b"])]
    )
    assert found.n_cells == 5
    assert found.share == pytest.approx(3 / 5)
    table = found.tabulate()
    assert table["cells"].to_dict() == {"a": 3, "b": 1, "c": 1}
    assert table["disagreement"].to_dict() == pytest.approx({"a": 1 / 3, "b": 0.0, "c": 1.0})
    assert found.pairs.iloc[0].tolist() == ["a", "a", 2]


def test_versions_that_say_the_same_agree_wholly():
    labels = [np.array(["a", "b"])]
    found = compare_labels(labels, labels)
    assert found.share == 1.0
    assert isinstance(found.pairs, pd.DataFrame)


def test_labels_are_read_alike_from_every_output(tmp_path):
    lab = Lab(tmp_path)
    lab.add("a.h5ad", n_cells=30)
    lab.score(form="both", prefix="p_")
    lab.score(form="table", table_format="csv", prefix="p_")
    expected = anndata.read_h5ad(lab.output / "a.annotated.h5ad").obs[f"p_{keys.PREDICTED_LABELS}"]
    for name in lab.list_outputs():
        assert list(read_labels(lab.output / name, "p_")) == list(expected.astype(str)), name
    assert len(lab.list_outputs()) == 3
