import pytest
import torch
from torch import nn

from annotary.models.transformer.config import NetworkConfig
from annotary.models.transformer.network import GeneTransformer, MultiHeadSelfAttention

N_GENES = 20


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def make_network(**changes) -> GeneTransformer:
    values = {"n_genes": N_GENES, "n_classes": 4, "n_bins": 6, "d_model": 16, "n_heads": 4} | changes
    return GeneTransformer(NetworkConfig(**values)).eval()


def make_batch(lengths: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    shape = (len(lengths), max(lengths))
    is_token = torch.arange(shape[1]) < torch.tensor(lengths)[:, None]
    gene_ids = torch.stack([torch.randperm(N_GENES)[: shape[1]] for _ in lengths])
    return gene_ids, torch.randint(8, shape), is_token


def torch_attention(ours: MultiHeadSelfAttention, width: int) -> nn.MultiheadAttention:
    """Copy the weights into torch's own module."""
    theirs = nn.MultiheadAttention(width, ours.n_heads, batch_first=True)
    projections = (ours.query, ours.key, ours.value)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([projection.weight for projection in projections]))
        theirs.in_proj_bias.copy_(torch.cat([projection.bias for projection in projections]))
        theirs.out_proj.weight.copy_(ours.out.weight)
        theirs.out_proj.bias.copy_(ours.out.bias)
    return theirs


@pytest.mark.parametrize("padded", [False, True])
def test_fused_plain_and_torch_attention_agree(padded):
    attention = MultiHeadSelfAttention(24, 3, dropout=0.3).eval()
    for projection in (attention.query, attention.key, attention.value, attention.out):
        nn.init.normal_(projection.bias)
    x = torch.randn(4, 7, 24)
    is_token = torch.arange(7) < torch.tensor([7, 1, 4, 6])[:, None] if padded else None
    fused = attention(x, is_token)
    attention.fused = False
    plain = attention(x, is_token)
    ignored = None if is_token is None else ~is_token
    reference, _ = torch_attention(attention, 24)(x, x, x, key_padding_mask=ignored, need_weights=False)
    torch.testing.assert_close(fused, reference, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(plain, reference, atol=1e-5, rtol=1e-5)


def test_fused_and_plain_attention_have_the_same_gradients():
    gradients = []
    x = torch.randn(2, 5, 16)
    is_token = torch.tensor([[True] * 5, [True] * 2 + [False] * 3])
    attention = MultiHeadSelfAttention(16, 4, dropout=0.0)
    for attention.fused in (True, False):
        attention.zero_grad()
        attention(x, is_token)[is_token].square().sum().backward()
        gradients.append(attention.query.weight.grad.clone())
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-4)


def test_attention_drops_weights_in_training_only():
    attention = MultiHeadSelfAttention(16, 4, dropout=0.5)
    x = torch.randn(2, 5, 16)
    for attention.fused in (True, False):
        assert not torch.equal(attention.train()(x), attention(x))
        assert torch.equal(attention.eval()(x), attention(x))


def test_attention_starts_with_xavier_projections_and_zero_biases():
    attention = MultiHeadSelfAttention(64, 4, dropout=0.0)
    bound = (6 / 128) ** 0.5
    for projection in (attention.query, attention.key, attention.value):
        assert 0.95 * bound < projection.weight.abs().max() <= bound
    for projection in (attention.query, attention.key, attention.value, attention.out):
        assert not projection.bias.any()


@torch.no_grad()
def test_padding_does_not_change_logits():
    network = make_network()
    gene_ids, bin_ids, is_token = make_batch((9, 1, 5, 8))
    together = network(gene_ids, bin_ids, is_token)
    for row, length in enumerate(is_token.sum(dim=1)):
        alone = network(gene_ids[row : row + 1, :length], bin_ids[row : row + 1, :length])
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_what_stands_in_padded_places_does_not_matter():
    network = make_network()
    gene_ids, bin_ids, is_token = make_batch((9, 3))
    other_genes = torch.where(is_token, gene_ids, 11)
    other_bins = torch.where(is_token, bin_ids, 5)
    torch.testing.assert_close(
        network(gene_ids, bin_ids, is_token), network(other_genes, other_bins, is_token)
    )


@torch.no_grad()
def test_token_order_does_not_change_logits():
    network = make_network()
    gene_ids, bin_ids, is_token = make_batch((9, 6))
    order = torch.randperm(9)
    torch.testing.assert_close(
        network(gene_ids[:, order], bin_ids[:, order], is_token[:, order]),
        network(gene_ids, bin_ids, is_token),
        atol=1e-5,
        rtol=1e-5,
    )


@torch.no_grad()
def test_all_mode_without_padding_is_torchs_post_norm_encoder():
    network = make_network(tokens="all", dropout=0.1)
    gene_ids, bin_ids, is_token = make_batch((N_GENES, N_GENES))
    x = network.gene_embedding(gene_ids) + network.bin_embedding(bin_ids)
    for block in network.blocks:
        layer = nn.TransformerEncoderLayer(16, 4, 64, activation="gelu", batch_first=True).eval()
        layer.self_attn = torch_attention(block.attention, 16)
        layer.linear1, layer.linear2 = block.feed_forward[0], block.feed_forward[3]
        layer.norm1, layer.norm2 = block.norm_attention, block.norm_feed_forward
        x = layer.eval()(x)
    expected = network.head(x.mean(dim=1))
    torch.testing.assert_close(network(gene_ids, bin_ids), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(network(gene_ids, bin_ids, is_token), expected, atol=1e-5, rtol=1e-5)


def test_only_expressed_mode_has_a_no_gene_embedding():
    assert make_network(tokens="expressed").gene_embedding.num_embeddings == N_GENES + 1
    assert make_network(tokens="all").gene_embedding.num_embeddings == N_GENES
