import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from annotary.data.genes import (
    ENSEMBL,
    SYMBOL,
    align_genes,
    check_overlap,
    choose_gene_column,
    clean_gene_ids,
    count_restored,
    count_shared,
    detect_id_type,
    find_mito_columns,
    find_mito_genes,
    find_shared_genes,
    restore_names,
)
from annotary.errors import GeneOverlapError

PANEL = pd.Index(["A", "B", "C"])
ENSEMBL_IDS = [f"ENSG{number:011d}" for number in range(3)]


def reference_align(dense, gene_ids, panel):
    aligned = np.zeros((len(dense), len(panel)), dtype=dense.dtype)
    for column, gene in enumerate(gene_ids):
        if gene in panel:
            aligned[:, panel.get_loc(gene)] += dense[:, column]
    return aligned


@given(seed=st.integers(0, 2**32 - 1), gene_ids=st.lists(st.sampled_from("ABCDE"), max_size=8))
def test_alignment_equals_the_column_by_column_one(seed, gene_ids):
    dense = np.random.default_rng(seed).poisson(1.0, size=(4, len(gene_ids))).astype(np.float32)
    aligned = align_genes(csr_matrix(dense), pd.Index(gene_ids, dtype=object), PANEL)
    np.testing.assert_array_equal(aligned.toarray(), reference_align(dense, gene_ids, PANEL))
    assert aligned.dtype == dense.dtype
    assert aligned.has_canonical_format


def test_gene_order_does_not_change_aligned_counts():
    dense = np.arange(6, dtype=np.float32).reshape(2, 3)
    order = [2, 0, 1]
    aligned = align_genes(csr_matrix(dense[:, order]), PANEL[order], PANEL)
    np.testing.assert_array_equal(aligned.toarray(), dense)


def test_absent_genes_are_zero_and_other_genes_are_dropped():
    aligned = align_genes(csr_matrix([[1.0, 2.0]]), pd.Index(["C", "Z"]), PANEL)
    np.testing.assert_array_equal(aligned.toarray(), [[0, 0, 1]])


def test_duplicate_genes_are_added_up():
    aligned = align_genes(csr_matrix([[1.0, 2.0, 4.0]]), pd.Index(["B", "A", "B"]), PANEL)
    np.testing.assert_array_equal(aligned.toarray(), [[2, 5, 0]])


def test_alignment_leaves_its_input_untouched():
    counts = csr_matrix([[1.0, 2.0, 4.0]])
    before = counts.copy()
    align_genes(counts, pd.Index(["B", "A", "B"]), PANEL)
    assert (counts != before).nnz == 0
    assert counts.nnz == before.nnz


def test_shared_genes_are_those_of_all_files_once_each_in_alphabetical_order():
    files = [pd.Index(["B", "A", "B", "C"]), pd.Index(["C", "B", "D"]), pd.Index(["E", "B", "C"])]
    assert list(find_shared_genes(files, places=["1", "2", "3"])) == ["B", "C"]


def test_files_that_share_too_few_genes_are_refused():
    human = pd.Index([f"GENE{gene}" for gene in range(100)])
    mouse = pd.Index([f"Gene{gene}" for gene in range(95)] + [f"GENE{gene}" for gene in range(5)])
    with pytest.raises(GeneOverlapError, match=r"^mouse needs at least 10% .* of human.*found 5 of 100"):
        find_shared_genes([human, mouse], places=["human", "mouse"])


def test_mitochondrial_genes_are_found_in_both_spellings():
    genes = pd.Index(["MT-CO1", "mt-Co1", "MTOR", "ND-MT-1"])
    assert list(find_mito_genes(genes)) == [True, True, False, False]


@pytest.mark.parametrize(
    ("gene_ids", "expected"),
    [
        (ENSEMBL_IDS, ENSEMBL),
        ([f"{gene}.12" for gene in ENSEMBL_IDS], ENSEMBL),
        (["ENSMUSG00000000001"], ENSEMBL),
        (["CD3E", "MS4A1"], SYMBOL),
        ([*ENSEMBL_IDS, "CD3E"], ENSEMBL),
        ([ENSEMBL_IDS[0], "CD3E"], SYMBOL),
        (["ENST00000000001", "ENSP00000000001"], SYMBOL),
        ([], SYMBOL),
    ],
)
def test_majority_of_ids_decides_their_type(gene_ids, expected):
    assert detect_id_type(pd.Index(gene_ids, dtype=object)) == expected


def test_versions_of_ensembl_ids_are_dropped_and_symbols_with_dots_are_kept():
    cleaned = clean_gene_ids(pd.Index(["ENSG00000167286.10", "ENSMUSG00000000001.4", "HLA-DRB1.2", "AC01.1"]))
    assert list(cleaned) == ["ENSG00000167286", "ENSMUSG00000000001", "HLA-DRB1.2", "AC01.1"]


def make_var(**columns):
    return pd.DataFrame(columns, index=["A", "B", "X"])


@pytest.mark.parametrize("as_category", [False, True])
def test_ids_come_from_the_column_that_matches_best(as_category):
    var = make_var(n_cells=[1, 2, 3], ensembl=[f"{gene}.1" for gene in ENSEMBL_IDS])
    if as_category:
        var["ensembl"] = var["ensembl"].astype("category")
    assert list(choose_gene_column(var, pd.Index(ENSEMBL_IDS))) == ENSEMBL_IDS
    assert list(choose_gene_column(var, PANEL)) == ["A", "B", "X"]


def test_index_wins_a_tie():
    var = make_var(symbol=["A", "B", "Y"])
    assert list(choose_gene_column(var, PANEL)) == ["A", "B", "X"]


def test_column_with_missing_ids_can_be_chosen():
    var = pd.DataFrame({"symbol": ["A", None, "B"]}, index=["x", "y", "z"])
    assert count_shared(choose_gene_column(var, PANEL), PANEL) == 2


def test_overlap_at_the_limit_passes_and_below_is_refused():
    check_overlap(pd.Index(["A", "B"]), PANEL, min_overlap=2 / 3, place="in.h5ad")
    with pytest.raises(
        GeneOverlapError,
        match=r"in\.h5ad needs at least 67% of the model's 3 genes \(such as 'A'\); "
        r"found 1 \(33.3%\) among its 2 genes \(such as 'C'\)",
    ):
        check_overlap(pd.Index(["C", "Z"]), PANEL, min_overlap=2 / 3, place="in.h5ad")


def test_repeated_ids_count_once():
    assert count_shared(pd.Index(["A", "A", "A"]), PANEL) == 1


def test_overlap_of_no_genes_is_refused():
    with pytest.raises(GeneOverlapError, match="found no genes"):
        check_overlap(pd.Index([]), PANEL, min_overlap=0.5, place="in.h5ad")


def test_mitochondrial_genes_are_found_by_r_s_names_and_by_the_symbols_beside_ids():
    assert list(find_mito_genes(pd.Index(["MT.CO1", "mt-Nd1", "MT-ND2", "MTOR", "MT1X"]))) == [
        True, True, True, False, False,
    ]  # fmt: skip
    var = pd.DataFrame({"gene_name": ["A", "MT-CO1", "B"]}, index=ENSEMBL_IDS)
    assert list(find_mito_columns(var, var.index)) == [False, True, False]
    assert not find_mito_columns(var[[]], var.index).any()


@pytest.mark.parametrize(
    ("gene", "altered"),
    [
        ("HLA-A", "HLA.A"),
        ("MT-CO1", "MT.CO1"),
        ("7SK", "X7SK"),
        ("NKX2-1", "NKX2.1"),
        ("TRBV7-2*01", "TRBV7.2.01"),
    ],
)
def test_names_that_r_altered_are_those_of_the_panel_and_the_other_way_round(gene, altered):
    assert list(restore_names(pd.Index([altered, "CD3E"]), pd.Index([gene, "CD3E"]))) == [gene, "CD3E"]
    assert list(restore_names(pd.Index([gene, "CD3E"]), pd.Index([altered, "CD3E"]))) == [altered, "CD3E"]
    var = pd.DataFrame(index=[altered, "CD3E"])
    found = choose_gene_column(var, pd.Index([gene, "CD3E"]))
    assert list(found) == [gene, "CD3E"]
    assert count_restored(var, found) == 1


def test_a_name_that_may_be_two_genes_stays_as_it_is():
    panel = pd.Index(["A-1", "A_1", "B-1"])
    assert list(restore_names(pd.Index(["A.1"]), pd.Index(["A-1", "A/1"]))) == ["A.1"]
    assert list(restore_names(pd.Index(["B.1", "B/1"]), panel)) == ["B.1", "B/1"]
    assert list(restore_names(pd.Index(["B-1", "B.1"]), panel)) == ["B-1", "B.1"]


@given(
    st.lists(st.text(alphabet="AB1.-_/", min_size=1, max_size=4), unique=True, max_size=12),
    st.integers(0, 12),
)
def test_restored_names_never_meet(names, n_panel):
    panel, gene_ids = pd.Index(names[:n_panel], dtype=object), pd.Index(names[n_panel // 2 :], dtype=object)
    restored = restore_names(gene_ids, panel)
    assert restored.is_unique
    assert set(gene_ids[gene_ids.isin(panel)]) <= set(restored)
