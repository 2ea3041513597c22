"""Terms of labels are read when a model is made, and a table for other labels is refused."""

import logging

import pytest

from annotary.errors import InputFileError
from annotary.stages.candidates import read_label_terms

LABELS = ("B cell", "NK cell")


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "terms.csv"
    path.write_text("label,cell_type_ontology_term_id\nB cell,CL:0000236\nPlatelet,CL:0000233\n")
    return str(path)


def test_a_model_keeps_the_terms_of_its_own_labels_and_tells_of_those_without(table, caplog):
    with caplog.at_level(logging.WARNING, logger="annotary"):
        assert read_label_terms(table, LABELS) == {"B cell": "CL:0000236"}
    assert "no term, so unknown, for NK cell" in caplog.text
    assert read_label_terms("", LABELS) is None


def test_a_table_without_any_of_the_labels_is_refused(table):
    with pytest.raises(InputFileError, match="terms of the dataset's labels, such as 'b'; found none"):
        read_label_terms(table, ("b", "nk"))


def test_a_table_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputFileError, match=r"none\.csv"):
        read_label_terms(str(tmp_path / "none.csv"), LABELS)
