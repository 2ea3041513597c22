"""The benchmarks' own parts: simulated files, the chunked copy, measured processes, the table."""

import hashlib
import sys
from pathlib import Path
from types import ModuleType

import anndata
import numpy as np
import pandas as pd
import pytest
from conftest import load_benchmark
from processes import measure
from read_and_multiply import read_and_multiply
from read_and_write import CHUNK_CELLS, read_and_write
from scipy.sparse import vstack
from simulated_counts import N_GENES, make_model, simulate_blocks, write_counts


def hash_counts(path: Path) -> str:
    counts = anndata.read_h5ad(path).X
    parts = (counts.data, counts.indices, counts.indptr)
    return hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()


@pytest.fixture(scope="module")
def simulated(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("simulated") / "counts.h5ad"
    write_counts(path, 300)
    return path


def test_a_simulated_file_is_what_it_says(simulated):
    adata = anndata.read_h5ad(simulated)
    counts = adata.X
    assert adata.shape == (300, N_GENES)
    assert (counts.dtype, counts.indices.dtype) == (np.float32, np.int32)
    assert counts.has_canonical_format
    assert counts.data.min() == 1
    assert np.array_equal(counts.data, np.round(counts.data))
    assert 0.5 < np.mean(counts.data == 1) < 0.9
    assert counts.data.max() > 20
    assert 600 < counts.getnnz(axis=1).mean() < 800
    assert adata.obs["cell_type"].nunique() == 11
    assert adata.obs_names.is_unique


def test_labels_have_markers(simulated):
    adata = anndata.read_h5ad(simulated)
    counts = adata.X.toarray()
    of_common = adata.obs["cell_type"] == "type 00"
    fold = (counts[of_common].mean(axis=0) + 0.01) / (counts[~of_common].mean(axis=0) + 0.01)
    assert np.sum(fold > 3) > 40


def test_the_seed_decides_the_counts(simulated, tmp_path):
    for seed in (0, 1):
        write_counts(tmp_path / f"{seed}.h5ad", 300, seed=seed)
    assert hash_counts(tmp_path / "0.h5ad") == hash_counts(simulated)
    assert hash_counts(tmp_path / "1.h5ad") != hash_counts(simulated)


def test_blocks_in_a_file_are_the_blocks_put_together(tmp_path):
    write_counts(tmp_path / "counts.h5ad", 2_500, 900)
    adata = anndata.read_h5ad(tmp_path / "counts.h5ad")
    blocks = list(simulate_blocks(make_model(900), 2_500))
    assert len(blocks) == 3
    assert (vstack([block.counts for block in blocks]) != adata.X).nnz == 0
    codes = np.concatenate([block.codes for block in blocks])
    assert np.array_equal(adata.obs["cell_type"].cat.codes, codes)


def test_a_smaller_file_is_the_beginning_of_a_larger_one(tmp_path):
    for n_cells in (1_100, 1_500):
        write_counts(tmp_path / f"{n_cells}.h5ad", n_cells, 900, compression="gzip")
    smaller, larger = (anndata.read_h5ad(tmp_path / f"{n_cells}.h5ad") for n_cells in (1_100, 1_500))
    assert (larger.X[:1_100] != smaller.X).nnz == 0
    assert smaller.obs.equals(larger.obs.iloc[:1_100])


def test_the_chunked_copy_is_whole(tmp_path):
    n_cells = CHUNK_CELLS + 200
    write_counts(tmp_path / "counts.h5ad", n_cells, 400)
    read_and_write(tmp_path / "counts.h5ad", tmp_path / "copy.h5ad")
    original, copy = (anndata.read_h5ad(tmp_path / name) for name in ("counts.h5ad", "copy.h5ad"))
    assert (copy.X != original.X).nnz == 0
    assert copy.obs.equals(original.obs)
    assert copy.var.equals(original.var)


HOLD = "held = bytearray(150_000_000); held[::4096] = b'1' * len(held[::4096]); "
WAIT = "import time; time.sleep(0.5)"


def test_memory_of_a_process_and_its_children_is_added_up(tmp_path):
    alone = measure([sys.executable, "-c", HOLD + WAIT], folder=tmp_path)
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {HOLD + WAIT!r}])"
    together = measure([sys.executable, "-c", HOLD + child], folder=tmp_path)
    assert 150e6 < alone.peak_bytes < 250e6
    assert 300e6 < together.peak_bytes < 400e6
    assert alone.seconds > 0.5


def test_a_process_that_has_just_forked_does_not_count_twice(tmp_path):
    forks = "import os, time\nfor _ in range(100):\n"
    forks += "    if not os.fork(): time.sleep(0.002); os._exit(0)\n    os.wait()"
    assert measure([sys.executable, "-c", f"{HOLD}\n{forks}"], folder=tmp_path).peak_bytes < 250e6


def test_a_measured_process_that_fails_says_why(tmp_path):
    with pytest.raises(RuntimeError, match=r"ended with 3:\nno such gene"):
        measure([sys.executable, "-c", "print('no such gene'); raise SystemExit(3)"], folder=tmp_path)


def make_table(benchmark: ModuleType, seconds: float, peak_mb: float, large_peak_mb: float) -> pd.DataFrame:
    rows = [
        (benchmark.READ_AND_WRITE, 1_000, 3, 10.0, 200.0),
        (benchmark.PREPROCESS, 1_000, 3, seconds, peak_mb),
        (benchmark.READ_AND_WRITE + benchmark.GZIP, 1_000, 3, 20.0, 200.0),
        (benchmark.PREPROCESS + benchmark.GZIP, 1_000, 3, 35.0, peak_mb),
        (benchmark.READ_AND_WRITE + benchmark.LARGE, 9_000, 1, 90.0, 300.0),
        (benchmark.PREPROCESS + benchmark.LARGE, 9_000, 1, 180.0, large_peak_mb),
    ]
    table = pd.DataFrame(rows, columns=["name", "cells", "repeats", "seconds", "peak_mb"])
    return table.assign(
        seconds_min=table["seconds"] - 1,
        seconds_max=table["seconds"] + 2,
        cells_per_second=table["cells"] / table["seconds"],
    )


def test_the_table_has_a_row_for_each_measurement():
    benchmark = load_benchmark("preprocess")
    lines = benchmark.make_markdown(make_table(benchmark, 25.0, 1_000.0, 1_100.0)).splitlines()
    assert lines[2] == "| read and write | 1,000 | 10.0 (9.0 to 12.0) | 100 | 200 |"
    assert lines[7] == "| annotary preprocess, large file | 9,000 | 180.0 | 50 | 1,100 |"


@pytest.mark.parametrize(
    ("figures", "broken"),
    [
        ((25.0, 1_000.0, 1_100.0), []),
        ((31.0, 1_000.0, 1_100.0), [0]),
        ((25.0, 1_600.0, 1_700.0), [3]),
        ((25.0, 1_000.0, 1_300.0), [4]),
    ],
)
def test_a_broken_promise_is_named(figures, broken):
    benchmark = load_benchmark("preprocess")
    claims = benchmark.check_claims(make_table(benchmark, *figures))
    assert [number for number, claim in enumerate(claims) if "NOT KEPT" in claim] == broken


@pytest.mark.parametrize(
    ("figures", "broken"),
    [
        ((3.5, 0.7, 500.0), []),
        ((4.5, 0.7, 500.0), [0]),
        ((3.5, 0.8, 500.0), [3]),
        ((3.5, 0.7, 650.0), [1]),
        ((9.0, 0.7, 500.0), [0, 7]),
    ],
)
def test_a_broken_promise_of_score_is_named(figures, broken):
    assert find_broken(linear=figures) == broken


def test_annotating_more_than_half_as_long_again_as_reading_breaks_a_promise():
    assert find_broken(table_only=(3.0, 0.8, 500.0)) == [2]


@pytest.mark.parametrize(
    ("figures", "broken"),
    [
        ((30.0, 25.0, 900.0), []),
        ((30.0, 27.0, 900.0), [5]),
        ((90.0, 35.0, 1_600.0), [4, 5, 6]),
    ],
)
def test_a_broken_promise_of_score_with_a_transformer_is_named(figures, broken):
    assert find_broken(network=figures) == broken


def find_broken(
    linear=(3.5, 0.7, 500.0), network=(30.0, 25.0, 900.0), table_only=(3.0, 0.6, 500.0)
) -> list[int]:
    benchmark = load_benchmark("score")
    rows = {
        benchmark.READ: (1.0, 0.5, 130.0),
        benchmark.TABLE: table_only,
        benchmark.SCORE: linear,
        benchmark.AGAIN: (2.0, 0.0, 280.0),
        benchmark.CELLTYPIST: (8.0, np.nan, 2e3),
        benchmark.TRANSFORMER: network,
        benchmark.FORWARD: (25.0, 20.0, 800.0),
    }
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["seconds", "own_seconds", "peak_mb"])
    claims = benchmark.check_claims(table.rename_axis("name").reset_index().assign(cells=60_000))
    return [number for number, claim in enumerate(claims) if "NOT KEPT" in claim]


def test_the_plain_read_reads_every_cell(simulated):
    assert read_and_multiply(simulated).shape == (300, 11)
