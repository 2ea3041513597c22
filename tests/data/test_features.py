import numpy as np
import pandas as pd
import pytest

from annotary.data.features import find_features
from annotary.errors import InputFileError


def find(*types):
    return find_features(pd.DataFrame({"feature_types": list(types)}), "in.h5ad")


def test_without_the_column_all_are_genes_and_nothing_is_said():
    found = find_features(pd.DataFrame(index=["a", "b"]), "in.h5ad")
    assert (list(found.is_gene), found.notes) == ([True, True], ())


@pytest.mark.parametrize("missing", [np.nan, None, "", "nan", "NA", "<NA>", pd.NA])
def test_a_gene_of_which_nothing_is_said_is_a_gene_and_so_is_told(missing):
    found = find("Gene Expression", missing, "Antibody Capture", missing)
    assert list(found.is_gene) == [True, True, False, True]
    unsaid, left = found.notes
    assert "var['feature_types']: 2 of 4 features have no type; taken as genes" in unsaid
    assert "1 of the type 'Antibody Capture'" in left


def test_a_categorical_with_missing_values_is_read_alike():
    types = pd.Categorical(["Gene Expression", None, "Peaks"])
    assert list(find_features(pd.DataFrame({"feature_types": types}), "in").is_gene) == [True, True, False]


@pytest.mark.parametrize("spelling", ["Gene Expression", "gene expression", "GeneExpression", "GEX", "rna"])
def test_spellings_of_gene_expression_are_one(spelling):
    assert list(find(spelling, "Antibody Capture").is_gene) == [True, False]


def test_what_is_left_aside_is_told_by_type():
    [note] = find("Gene Expression", "Peaks", "Peaks", "CRISPR Guide Capture").notes
    assert "left aside: 2 of the type 'Peaks', 1 of the type 'CRISPR Guide Capture'" in note


def test_a_file_without_genes_is_refused_with_what_is_there():
    with pytest.raises(InputFileError, match=r"feature_types.*'Gene Expression'.*found Antibody Capture"):
        find("Peaks", "Antibody Capture")
