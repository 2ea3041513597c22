import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from annotary.data.labels import read_label_table, read_labels
from annotary.data.similar_labels import find_spellings, settle_spellings
from annotary.errors import LabelError

PAIRS = {
    "invisible characters": ("CD19+ B", "CD19+ B\u200b"),
    "spaces": ("CD19+ B", "CD19+\u00a0B"),
    "Unicode's normal form": ("Zell\u00e9 B", "Zelle\u0301 B"),
    "case": ("CD19+ B", "cd19+ b"),
    "spaces and case": ("T reg", "TREG"),
}
MISSING = ["NA", "None", "null", "NaN", "nan", "<NA>", "", " ", "n/a", "N/A", "#N/A", "NULL"]


@pytest.mark.parametrize(("cause", "pair"), PAIRS.items(), ids=list(PAIRS))
def test_labels_that_look_alike_are_said_merged_or_refused(cause, pair):
    first, second = pair
    labels = pd.Series([first, second, first, "NK", None])
    kept, [note] = settle_spellings(labels, choice="warn", place="in.h5ad")
    assert kept.equals(labels)
    said = (
        f"in.h5ad: labels that look alike, {first!a} (2 cells), {second!a} (1 cells), differ only by {cause}:"
    )
    assert note.startswith(said)
    merged, [note] = settle_spellings(labels, choice="merge", place="in.h5ad")
    assert list(merged.dropna()) == [first, first, first, "NK"]
    assert merged.isna().tolist() == labels.isna().tolist()
    assert f"merged into {first!a}" in note
    with pytest.raises(LabelError, match=r"each label spelt in one way.*look alike.*--similar-labels merge"):
        settle_spellings(labels, choice="refuse", place="in.h5ad")


def test_the_more_frequent_spelling_stays_and_the_first_of_equals():
    merged, _ = settle_spellings(pd.Series(["b cell", "B cell", "B cell"]), choice="merge", place="")
    assert set(merged) == {"B cell"}
    merged, _ = settle_spellings(pd.Series(["b cell", "B cell"]), choice="merge", place="")
    assert set(merged) == {"B cell"}


@pytest.mark.parametrize(
    "labels", [["CD4+ T", "CD8+ T"], ["CD4+ T", "CD4- T"], ["B1", "B2"], ["T", "t-"], ["\u03b1", "\u03b2"]]
)
def test_different_labels_are_left_alone(labels):
    assert find_spellings(pd.Series(labels)) == []


@given(st.lists(st.text(min_size=1, max_size=6), max_size=12))
def test_after_a_merge_no_two_labels_look_alike_and_none_is_new(labels):
    before = pd.Series(labels, dtype=object)
    merged, _ = settle_spellings(before, choice="merge", place="")
    assert find_spellings(merged) == []
    assert set(merged) <= set(before)
    assert len(merged) == len(before)


def test_one_reader_decides_what_is_missing_in_obs_and_in_a_table(tmp_path, caplog):
    texts = [*MISSING, "unknown", "B", "Naive T", "null cell"]
    cells = [f"cell{number}" for number in range(len(texts))]
    obs = pd.DataFrame({"cell_type": texts}, index=cells)
    table = tmp_path / "labels.csv"
    table.write_text("cell,cell_type\n" + "".join(f"{a},{b}\n" for a, b in zip(cells, texts, strict=True)))
    with caplog.at_level("INFO", logger="annotary"):
        in_obs = read_labels(obs, "cell_type", place="in.h5ad")
        in_table = read_label_table(table, pd.Index(cells), "cell_type")
    expected = [None] * len(MISSING) + texts[len(MISSING) :]
    assert in_obs.tolist() == in_table.tolist() == expected
    assert "in.h5ad: obs['cell_type']: texts for a missing value count as no label: " in caplog.text
    assert "1 'NA'" in caplog.text


def test_blanks_around_labels_are_cut_and_said(caplog):
    with caplog.at_level("WARNING", logger="annotary"):
        labels = read_labels(pd.DataFrame({"cell_type": ["B", "B ", "T"]}), "cell_type", place="in.h5ad")
    assert labels.tolist() == ["B", "B", "T"]
    assert (
        "1 labels have blanks around them, such as 'B '; labels that differ only by these are one"
        in caplog.text
    )


def test_a_label_column_that_is_there_twice_is_refused():
    obs = pd.DataFrame([["B", "T"]], columns=["cell_type", "cell_type"])
    with pytest.raises(LabelError, match=r"one column 'cell_type'.*found 2 of this name"):
        read_labels(obs, "cell_type", place="in.h5ad")
