import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from annotary.models.transformer.batches import gather, leave_out, make_batch, order_by_length
from annotary.models.transformer.config import NetworkConfig, TrainingConfig
from annotary.models.transformer.tokens import TokenizedCells, tokenize
from annotary.quality.prepare import PreparedCells, log_normalize

N_CELLS, N_GENES = 30, 25
NETWORK = NetworkConfig(n_genes=N_GENES, n_classes=2, values="bins", target_sum=100.0)


@pytest.fixture(scope="module")
def cells() -> PreparedCells:
    rng = np.random.default_rng(0)
    means = rng.gamma(0.3, 5.0, size=(N_CELLS, 1)) * rng.gamma(0.5, 3.0, size=N_GENES)
    counts = csr_matrix(rng.poisson(means).astype(np.float32))
    return PreparedCells(counts=counts, depth=np.asarray(counts.sum(axis=1), dtype=float).ravel() + 20)


@pytest.fixture(scope="module")
def tokens(cells) -> TokenizedCells:
    return tokenize(NETWORK, cells)


def left_out(tokens, rows, *, seed=0, network=NETWORK, **changes):
    training = TrainingConfig(**{"thinning": 0.0, "gene_dropout": 0.0} | changes)
    return leave_out(gather(tokens, rows), network, training, np.random.default_rng(seed))


def test_a_batch_holds_each_cells_tokens_in_front_and_zeros_behind(cells, tokens):
    rows = np.array([7, 0, 3])
    batch = make_batch(tokens, rows, NETWORK)
    assert {part.shape for part in batch} == {(3, tokens.lengths[rows].max())}
    log_expr = log_normalize(cells, target_sum=100.0).toarray()
    for place, row in enumerate(rows):
        span = slice(tokens.indptr[row], tokens.indptr[row + 1])
        n_tokens = tokens.lengths[row]
        genes = tokens.gene_ids[span]
        np.testing.assert_array_equal(batch.gene_ids[place, :n_tokens], genes)
        np.testing.assert_array_equal(batch.bin_ids[place, :n_tokens], tokens.bins[span])
        np.testing.assert_allclose(batch.values[place, :n_tokens], log_expr[row, genes], rtol=1e-6)
        np.testing.assert_array_equal(batch.is_token[place].sum(), n_tokens)
        for part in batch:
            assert not part[place, n_tokens:].any()


def test_a_cell_without_depth_has_zero_values():
    empty = PreparedCells(counts=csr_matrix((2, N_GENES), dtype=np.float32), depth=np.zeros(2))
    batch = make_batch(tokenize(NETWORK, empty), np.arange(2), NETWORK)
    assert not batch.values.any()
    assert batch.is_token.all()


def test_nothing_is_left_out_of_a_batch_for_inference(tokens):
    rows = np.arange(N_CELLS)
    batch, again = make_batch(tokens, rows, NETWORK), make_batch(tokens, rows, NETWORK)
    np.testing.assert_array_equal(batch.is_token.sum(dim=1), tokens.lengths)
    for part, other in zip(batch, again, strict=True):
        np.testing.assert_array_equal(part, other)


@settings(max_examples=40, deadline=None)
@given(st.floats(0, 0.95), st.floats(0, 0.95), st.integers(0, 1000))
def test_what_is_left_of_a_cell_was_in_it(thinning, gene_dropout, seed):
    rng = np.random.default_rng(seed)
    counts = csr_matrix(rng.poisson(rng.gamma(0.4, 4.0, size=(9, N_GENES))).astype(np.float32))
    whole = tokenize(NETWORK, PreparedCells(counts=counts, depth=counts.sum(axis=1).A1 + 5.0))
    flat = left_out(whole, np.arange(9), seed=seed, thinning=thinning, gene_dropout=gene_dropout)
    before = np.zeros((9, N_GENES + 1))
    before[:, :-1] = counts.toarray()
    assert np.all(flat.counts <= before[flat.owner, flat.gene_ids])
    np.testing.assert_array_equal(np.unique(flat.owner), np.arange(9))
    assert np.all(np.diff(flat.owner) >= 0)
    places = flat.owner * (N_GENES + 1) + flat.gene_ids
    assert len(np.unique(places)) == len(places)
    assert np.all(flat.depth <= whole.depth)


def test_thinning_leaves_out_the_same_share_of_molecules_and_of_depth(cells):
    deep = PreparedCells(counts=cells.counts * 400, depth=cells.depth * 400)
    whole = tokenize(NETWORK, deep)
    flat = left_out(whole, np.arange(N_CELLS), thinning=0.5)
    share = flat.depth / whole.depth
    assert 0.5 <= share.min() < 0.6 < 0.9 < share.max() <= 1
    counts = cells.counts.toarray()[flat.owner, np.minimum(flat.gene_ids, N_GENES - 1)] * 400
    seen = flat.gene_ids < N_GENES
    expected = counts[seen] * share[flat.owner[seen]]
    np.testing.assert_allclose(flat.counts[seen], expected, atol=6 * np.sqrt(expected.max()))


def test_gene_dropout_hides_shares_up_to_its_own(tokens):
    many = np.repeat(np.flatnonzero(tokens.lengths > 15)[:5], 400)
    flat = left_out(tokens, many, gene_dropout=0.6)
    shares = 1 - np.bincount(flat.owner) / tokens.lengths[many]
    assert shares.mean() == pytest.approx(0.3, abs=0.02)
    assert shares.max() < 0.9
    np.testing.assert_array_equal(flat.depth, tokens.depth[many])


def test_bins_are_made_anew_of_what_is_left(tokens):
    flat = left_out(tokens, np.arange(N_CELLS), thinning=0.9)
    for cell in range(N_CELLS):
        counts, bins = flat.counts[flat.owner == cell], flat.bins[flat.owner == cell]
        if (counts > 0).any():
            assert bins[counts.argmin()] == 1
            assert bins[counts.argmax()] == (NETWORK.n_bins + 1 if counts.max() > counts.min() else 1)


def test_tokens_of_all_genes_stay_when_their_count_goes(cells):
    network = NetworkConfig(n_genes=N_GENES, n_classes=2, tokens="all", values="bins")
    flat = left_out(tokenize(network, cells), np.arange(N_CELLS), network=network, thinning=0.9)
    assert len(flat.counts) == N_CELLS * N_GENES
    np.testing.assert_array_equal(flat.bins == 0, flat.counts == 0)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 50), max_size=300), st.integers(1, 9))
def test_batches_hold_every_cell_once(lengths, batch_size):
    batches = order_by_length(np.array(lengths, dtype=int), batch_size, np.random.default_rng(0))
    assert sorted(row for rows in batches for row in rows) == list(range(len(lengths)))
    assert all(1 <= len(rows) <= batch_size for rows in batches)
    assert len(batches) == -(-len(lengths) // batch_size)


def test_batches_of_like_length_pad_less_than_random_ones():
    rng = np.random.default_rng(0)
    lengths = rng.integers(10, 500, size=2000)
    padded = sum(lengths[rows].max() * len(rows) for rows in order_by_length(lengths, 32, rng))
    random_rows = rng.permutation(2000).reshape(-1, 40)
    assert padded < 1.25 * lengths.sum() < sum(lengths[rows].max() * 40 for rows in random_rows)


def test_training_batches_differ_from_epoch_to_epoch():
    lengths = np.random.default_rng(0).integers(1, 20, size=100)
    first, second = (
        np.concatenate(order_by_length(lengths, 8, np.random.default_rng([42, epoch]))) for epoch in (0, 1)
    )
    assert (first != second).any()
