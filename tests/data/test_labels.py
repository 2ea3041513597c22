import numpy as np
import pandas as pd
import pytest

from annotary.data.labels import encode_labels, read_labels
from annotary.errors import LabelError


def read(values, **kwargs):
    obs = pd.DataFrame({"cell_type": values})
    before = obs.copy()
    labels = read_labels(obs, "cell_type", place="in.h5ad")
    pd.testing.assert_frame_equal(obs, before)
    return labels


@pytest.mark.parametrize(
    "values",
    [
        ["B", None, "T", np.nan],
        pd.Categorical(["B", None, "T", None]),
        pd.array(["B", pd.NA, "T", pd.NA], dtype="string"),
        [" B ", "", "T", "   "],
    ],
)
def test_missing_and_blank_labels_are_missing_and_spaces_are_cut(values):
    labels = read(values)
    assert list(labels.isna()) == [False, True, False, True]
    assert list(labels.dropna()) == ["B", "T"]


def test_numbers_become_names():
    assert list(read([2, 10, 2])) == ["2", "10", "2"]


def test_absent_column_is_refused_with_the_columns_there():
    with pytest.raises(
        LabelError,
        match=r"in\.h5ad: obs needs a column 'kind'.*found the columns cell_type, donor\..*--label-key",
    ):
        read_labels(pd.DataFrame({"cell_type": ["B"], "donor": ["1"]}), "kind", place="in.h5ad")


def test_obs_without_columns_is_refused():
    with pytest.raises(LabelError, match="found the columns none"):
        read_labels(pd.DataFrame(index=["c"]), "kind", place="in.h5ad")


def test_column_without_any_label_is_refused():
    with pytest.raises(LabelError, match="found none in 3 cells"):
        read([None, np.nan, ""])


def test_codes_follow_the_alphabet_whatever_the_order_of_cells():
    values = pd.Series(["T", "B", "NK"] * 3)
    labels = encode_labels(values, place="in.h5ad")
    assert labels.names == ("B", "NK", "T")
    assert [labels.names[code] for code in labels.codes] == list(values)
    assert labels.codes.dtype == np.int64
    assert encode_labels(values[::-1], place="in.h5ad").names == labels.names


def test_categories_without_cells_are_no_labels():
    values = pd.Series(pd.Categorical(["B", "T"] * 3, categories=["B", "T", "unused"])).astype(object)
    assert encode_labels(values, place="in.h5ad").names == ("B", "T")


@pytest.mark.parametrize(("values", "found"), [(["B"] * 9, r"1 \('B'\)"), ([], r"0 \(no cells\)")])
def test_fewer_than_two_labels_are_refused(values, found):
    with pytest.raises(LabelError, match=f"at least two different labels; found {found}"):
        encode_labels(pd.Series(values, dtype=object), place="in.h5ad")


def test_rare_labels_are_all_named():
    with pytest.raises(LabelError, match=r"at least 3 cells of each label.*found 2 of 'NK', 1 of 'T'"):
        encode_labels(pd.Series(["B"] * 5 + ["NK"] * 2 + ["T"]), place="in.h5ad")


def test_a_label_that_no_file_can_hold_is_refused():
    labels = pd.Series(["B", "B", "B", "T\x00", "T\x00", "T\x00"])
    with pytest.raises(LabelError, match=r"without the character NUL.*found 'T\\x00'. Rename the label"):
        encode_labels(labels, place="in.h5ad")
