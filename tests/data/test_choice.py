"""Of the places where counts may be, the one with the most complete ones is taken, and said so."""

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csc_matrix, csr_matrix

from annotary.data.choice import PROBE_CELLS, spread_probe
from annotary.data.h5ad import open_counts
from annotary.errors import CountsError

N_CELLS, N_GENES = 90, 40
COUNTS = np.random.default_rng(0).poisson(1.5, (N_CELLS, N_GENES)).astype(np.float32)
LOG = np.log1p(COUNTS / COUNTS.sum(axis=1, keepdims=True) * 1e4).astype(np.float32)
BINARY = (COUNTS > 0).astype(np.float32)
SCALED = np.rint(COUNTS / COUNTS.sum(axis=1, keepdims=True) * 500)
SCALED[np.arange(N_CELLS), SCALED.argmax(axis=1)] += 500 - SCALED.sum(axis=1)
HALF_EMPTY = COUNTS * (np.arange(N_CELLS) % 2)[:, None]


def write(path, x=COUNTS, *, store=csr_matrix, layer=None, raw=None, raw_genes=slice(None)):
    obs = pd.DataFrame(index=[f"cell{cell}" for cell in range(N_CELLS)])
    var = pd.DataFrame(index=[f"gene{gene}" for gene in range(N_GENES)])
    data = anndata.AnnData(store(x), obs=obs, var=var)
    if raw is not None:
        data.raw = anndata.AnnData(store(raw[:, raw_genes]), obs=obs, var=var[raw_genes])
    if layer is not None:
        data.layers["counts"] = store(layer)
    data.write_h5ad(path)
    return path


def read(path, **options):
    with open_counts(path, **options) as counts:
        [(_, rows)] = counts.iter_chunks(N_CELLS)
        return counts.place.split(": ", 1)[1], rows.toarray(), counts.list_notes()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "in.h5ad"


STORES = pytest.mark.parametrize("store", [np.asarray, csr_matrix, csc_matrix], ids=["dense", "csr", "csc"])


@STORES
@pytest.mark.parametrize(
    ("worse", "why"),
    [
        ({"layer": np.zeros_like(COUNTS)}, r'not from layers\["counts"\]: it holds no count above 0'),
        ({"layer": BINARY}, r'not from layers\["counts"\]: it holds only 0 and 1'),
        ({"raw": BINARY}, r"not from \.raw: it holds only 0 and 1"),
        ({"raw": COUNTS, "raw_genes": slice(None, None, 2)}, r"not from \.raw: it has 20 genes, X has 40"),
    ],
    ids=["empty layer", "binary layer", "binary raw", "raw with fewer genes"],
)
def test_the_whole_matrix_is_taken_and_why_is_said(path, store, worse, why):
    place, rows, notes = read(write(path, store=store, **worse))
    assert place == "X"
    np.testing.assert_array_equal(rows, COUNTS)
    [note] = notes
    assert note.startswith(f"{path}: counts are taken from X, ")
    assert pd.Series([note]).str.contains(why).all(), note


@pytest.mark.parametrize(
    ("worse", "why"), [(SCALED, "add up to 500"), (HALF_EMPTY, "cells looked at have counts")]
)
def test_rounded_and_half_empty_layers_are_passed_over(path, worse, why):
    place, rows, notes = read(write(path, layer=worse))
    assert place == "X"
    np.testing.assert_array_equal(rows, COUNTS)
    assert why in notes[0]


def test_the_same_counts_in_several_places_need_no_word(path):
    place, _, notes = read(write(path, layer=COUNTS, raw=COUNTS))
    assert (place, notes) == ('layers["counts"]', [])


def test_a_raw_with_more_genes_is_taken_without_a_word(path):
    with_all = write(path, raw=COUNTS)
    data = anndata.read_h5ad(with_all)[:, :10].copy()
    data.write_h5ad(path)
    place, rows, notes = read(path)
    assert (place, rows.shape[1], notes) == (".raw", N_GENES, [])


def test_whole_counts_that_differ_are_said(path):
    other = COUNTS.copy()
    other[::2, 3] += 2
    place, rows, [note] = read(write(path, layer=other))
    assert place == 'layers["counts"]'
    np.testing.assert_array_equal(rows, other)
    assert 'layers["counts"] and X hold different counts in 32 of the 64 cells looked at' in note


def test_a_layer_that_is_called_counts_and_holds_none_is_said(path):
    place, _, [note] = read(write(path, layer=LOG))
    assert place == "X"
    assert 'not from layers["counts"]: ' in note


def test_log_values_beside_a_binary_layer_give_the_counts_back(path):
    place, rows, [note] = read(write(path, LOG, layer=BINARY))
    assert place == "X (log1p, counts recovered)"
    np.testing.assert_array_equal(rows, COUNTS)
    assert 'recovered from X, not taken from layers["counts"]' in note


def test_binary_values_alone_are_taken_and_doubted(path):
    place, _, [note] = read(write(path, BINARY))
    assert place == "X"
    assert "holds only 0 and 1 in the cells looked at" in note


@pytest.mark.parametrize("store", [csr_matrix, csc_matrix])
def test_a_file_without_any_count_is_refused(path, store):
    with pytest.raises(CountsError, match=r"X needs cells with counts; found no count above 0 in 90 cells"):
        read(write(path, np.zeros_like(COUNTS), store=store))


def test_a_dense_matrix_without_counts_in_the_cells_looked_at_is_doubted(path):
    _, _, [note] = read(write(path, np.zeros_like(COUNTS), store=np.asarray))
    assert "X holds no count in the cells looked at" in note


def test_the_place_that_a_person_names_is_taken_or_refused_with_the_better_one(path):
    write(path, layer=BINARY, raw=SCALED)
    assert read(path, counts_layer="X")[0] == "X"
    with pytest.raises(CountsError, match=r'layers\["counts"\] needs raw counts, as --counts-layer.*Name X'):
        read(path, counts_layer="counts")


def test_a_damaged_matrix_that_is_not_needed_costs_nothing(path):
    write(path, layer=COUNTS)
    with h5py.File(path, "a") as file:
        del file["X/indptr"]
        file["X/indptr"] = np.zeros(3)
    place, rows, _ = read(path)
    assert place == 'layers["counts"]'
    np.testing.assert_array_equal(rows, COUNTS)


def test_cells_that_are_looked_at_are_spread_over_the_file():
    spans = spread_probe(10_000)
    assert sum(span.stop - span.start for span in spans) == PROBE_CELLS
    assert (spans[0].start, spans[-1].stop) == (0, 10_000)
    assert spread_probe(5) == [slice(0, 5)]
    for n_cells in range(PROBE_CELLS, 3 * PROBE_CELLS):
        rows = np.concatenate([np.arange(span.start, span.stop) for span in spread_probe(n_cells)])
        assert len(np.unique(rows)) == len(rows) == PROBE_CELLS, n_cells


@pytest.mark.parametrize("noise", [1e-9, -1e-9, 1e-7])
def test_floating_point_noise_is_rounded_and_said(path, noise):
    noisy = COUNTS.astype(np.float64)
    noisy[5, 3] = 8 + 8 * noise
    place, rows, notes = read(write(path, noisy, store=csr_matrix))
    assert (place, rows[5, 3]) == ("X", 8)
    assert any("floating-point noise were rounded in 1 cells" in note and "'cell5'" in note for note in notes)


@pytest.mark.parametrize(
    ("x", "says"),
    [
        (COUNTS - 0.7, "are negative, from -0.7 to .*z-scores"),
        (np.where(COUNTS > 4, np.nan, COUNTS), "NaN or infinite"),
        (COUNTS / COUNTS.sum(axis=1, keepdims=True) * 1e6, "every cell adds up to 1,000,000: normalised"),
        (COUNTS * 1.37 + (COUNTS > 0) * 30, "corrected for ambient RNA"),
        (COUNTS - 2 * (COUNTS > 3), None),
        (np.where(COUNTS > 5, -1, COUNTS), "a background was subtracted"),
    ],
    ids=["scaled", "missing", "per million", "corrected", "counts", "subtracted"],
)
def test_a_refusal_says_what_the_values_look_like(path, x, says):
    write(path, x, store=np.asarray)
    if says is None:
        assert read(path)[0] == "X"
        return
    with pytest.raises(CountsError, match=says):
        read(path)
