"""No text of a csv can be taken for a formula, and our own readers give it back as it was."""

import ast
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import annotary
from annotary.data.csv_text import guard, unguard, unguard_table, write_csv

FORMULAS = ["=HYPERLINK(1)", "+1", "-cell", "@SUM(A1)", "\tx", "\rx", "\n=x", "\uff1d1"]
TEXTS = [*FORMULAS, "'=x", "''=x", "'plain", "B cell", "", "CD4+ T", "a=b"]


@pytest.mark.parametrize("text", TEXTS)
def test_a_guarded_text_comes_back_as_it_was(text):
    assert unguard(guard(text)) == text
    assert guard(text)[:1] not in tuple("=+-@\t\r\n\uff1d")


@pytest.mark.parametrize("value", [-1.5, -1, None, True])
def test_numbers_stay_numbers(value):
    assert guard(value) is value


def test_a_table_has_no_bare_formula_in_cells_rows_or_columns_and_reads_back(tmp_path):
    table = pd.DataFrame(
        {
            "text": FORMULAS,
            "label": pd.Categorical(FORMULAS),
            "nullable": pd.array(FORMULAS, dtype="string"),
            "=column": np.linspace(-1, 1, len(FORMULAS)),
        },
        index=pd.Index(FORMULAS, name="@row"),
    )
    before = table.copy(deep=True)
    write_csv(table, tmp_path / "table.csv")
    pd.testing.assert_frame_equal(table, before)
    read = pd.read_csv(tmp_path / "table.csv", index_col=0, float_precision="round_trip")
    texts = [*read.index, *read.columns, read.index.name, *read["text"], *read["label"], *read["nullable"]]
    assert not [text for text in texts if text[:1] in tuple("=+-@\t\r\n\uff1d")]
    assert read["'=column"].dtype == float
    back = unguard_table(read)
    assert list(back["text"]) == list(back["label"]) == list(back.index) == FORMULAS
    np.testing.assert_array_equal(back["=column"], table["=column"])


def test_rows_of_several_levels_keep_their_levels(tmp_path):
    rows = pd.MultiIndex.from_tuples([("=a", 0), ("b", 1)], names=["kind", "bin"])
    write_csv(pd.DataFrame({"n": [1, 2]}, index=rows), tmp_path / "table.csv")
    read = pd.read_csv(tmp_path / "table.csv")
    assert list(read.columns) == ["kind", "bin", "n"]
    assert list(read["kind"]) == ["'=a", "b"]


def test_no_other_code_writes_csv():
    root = Path(annotary.__file__).parent
    writers = {
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
        and node.attr in ("to_csv", "DictWriter", "writer")
        and (node.attr == "to_csv" or getattr(node.value, "id", "") == "csv")
    }
    assert writers == {"data/csv_text.py", "pyfunc_process.py"}, (
        "pyfunc_process.py writes for one reader, not people"
    )
