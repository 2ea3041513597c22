import pytest
import torch
from torch import nn

from annotary.models.transformer.batches import TokenBatch
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


def make_batch(lengths: tuple[int, ...]) -> TokenBatch:
    shape = (len(lengths), max(lengths))
    is_token = torch.arange(shape[1]) < torch.tensor(lengths)[:, None]
    gene_ids = torch.stack([torch.randperm(N_GENES)[: shape[1]] for _ in lengths])
    return TokenBatch(gene_ids, torch.randint(8, shape), torch.rand(shape) * is_token, is_token)


KINDS = [
    {},
    {"values": "bins", "norm": "post"},
    {"pooling": "cls"},
    {"pooling": "cls", "norm": "post", "linear_path": True},
]
every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(map(str, kind.values())))


def make_any(kind: dict) -> GeneTransformer:
    """Make a network whose parts that start at zero do not stay there."""
    network = make_network(**kind)
    for weight in (network.summary, network.linear_path and network.linear_path.weight.weight):
        if weight is not None:
            nn.init.normal_(weight)
    return network


def torch_attention(ours: MultiHeadSelfAttention, width: int) -> nn.MultiheadAttention:
    """Copy the weights into torch's own module."""
    theirs = nn.MultiheadAttention(width, ours.n_heads, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(ours.query_key_value.weight)
        theirs.in_proj_bias.copy_(ours.query_key_value.bias)
        theirs.out_proj.weight.copy_(ours.out.weight)
        theirs.out_proj.bias.copy_(ours.out.bias)
    return theirs


@pytest.mark.parametrize("padded", [False, True])
def test_fused_plain_and_torch_attention_agree(padded):
    attention = MultiHeadSelfAttention(24, 3, dropout=0.3).eval()
    for projection in (attention.query_key_value, attention.out):
        nn.init.normal_(projection.bias)
    x = torch.randn(4, 7, 24)
    is_token = torch.arange(7) < torch.tensor([7, 1, 4, 6])[:, None] if padded else None
    attention.fused = True
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
        gradients.append(attention.query_key_value.weight.grad.clone())
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
    for weight in attention.query_key_value.weight.chunk(3):
        assert 0.95 * bound < weight.abs().max() <= bound
    for projection in (attention.query_key_value, attention.out):
        assert not projection.bias.any()


@every_kind
@torch.no_grad()
def test_padding_does_not_change_logits(kind):
    network, batch = make_any(kind), make_batch((9, 1, 5, 8))
    together = network(batch)
    for row, length in enumerate(batch.is_token.sum(dim=1)):
        alone = TokenBatch(*(part[row : row + 1, :length] for part in batch))
        torch.testing.assert_close(together[row : row + 1], network(alone), atol=1e-5, rtol=1e-5)


@every_kind
@torch.no_grad()
def test_what_stands_in_padded_places_does_not_matter(kind):
    network, batch = make_any(kind), make_batch((9, 3))
    other = batch._replace(
        gene_ids=torch.where(batch.is_token, batch.gene_ids, 11),
        bin_ids=torch.where(batch.is_token, batch.bin_ids, 5),
    )
    torch.testing.assert_close(network(batch), network(other))


@every_kind
@torch.no_grad()
def test_token_order_does_not_change_logits(kind):
    network, batch = make_any(kind), make_batch((9, 6))
    order = torch.randperm(9)
    shuffled = TokenBatch(*(part[:, order] for part in batch))
    torch.testing.assert_close(network(shuffled), network(batch), atol=1e-5, rtol=1e-5)


@every_kind
@torch.no_grad()
def test_how_strongly_a_gene_is_expressed_changes_logits(kind):
    network, batch = make_any(kind), make_batch((9, 9))
    stronger = batch._replace(values=batch.values * 2, bin_ids=(batch.bin_ids + 1) % 8)
    assert (network(batch) - network(stronger)).abs().max() > 1e-4


@torch.no_grad()
def test_the_notebooks_mode_is_torchs_post_norm_encoder():
    network = make_network(tokens="all", values="bins", norm="post", dropout=0.1)
    batch = make_batch((N_GENES, N_GENES))
    x = network.embedding.gene(batch.gene_ids) + network.embedding.bin(batch.bin_ids)
    expected = network.head(encode_by_torch(network, x, norm_first=False).mean(dim=1))
    torch.testing.assert_close(network(batch), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_pre_norm_blocks_are_torchs():
    network, batch = make_network(), make_batch((N_GENES, N_GENES))
    x = network.embedding.gene(batch.gene_ids) * batch.values[..., None]
    expected = network.head(encode_by_torch(network, x, norm_first=True).mean(dim=1))
    torch.testing.assert_close(network(batch), expected, atol=1e-5, rtol=1e-5)


def encode_by_torch(network: GeneTransformer, x: torch.Tensor, *, norm_first: bool) -> torch.Tensor:
    """Run torch's own encoder layers on our weights."""
    for block in network.blocks:
        layer = nn.TransformerEncoderLayer(
            16, 4, 64, activation="gelu", batch_first=True, norm_first=norm_first
        )
        layer.self_attn = torch_attention(block.attention, 16)
        layer.linear1, layer.linear2 = block.feed_forward[0], block.feed_forward[3]
        layer.norm1, layer.norm2 = block.norm_attention, block.norm_feed_forward
        x = layer.eval()(x)
    return x


@torch.no_grad()
def test_the_linear_path_adds_weights_times_values():
    network, batch = make_any({"linear_path": True}), make_batch((9, 4))
    path, network.linear_path = network.linear_path, None
    added = torch.zeros(2, 4)
    for row in range(2):
        for gene, value in zip(batch.gene_ids[row], batch.values[row], strict=True):
            added[row] += path.weight.weight[gene] * value
    expected = network(batch) + added
    network.linear_path = path
    torch.testing.assert_close(network(batch), expected, atol=1e-5, rtol=1e-5)


def test_only_expressed_mode_has_a_no_gene_embedding():
    assert make_network(tokens="expressed").embedding.gene.num_embeddings == N_GENES + 1
    assert make_network(tokens="all").embedding.gene.num_embeddings == N_GENES


def test_only_the_first_genes_attend_and_the_linear_path_takes_all():
    network = make_any({"attention_genes": 8, "linear_path": True})
    small = make_network(n_genes=8, linear_path=False)
    small.load_state_dict({name: one for name, one in network.state_dict().items() if "linear" not in name})
    lengths = (14, 9, 11, 3)
    batch = make_batch(lengths)
    gene_ids = torch.stack([torch.randperm(N_GENES)[:14] for _ in lengths])
    gene_ids[3, :3] = torch.tensor([9, 15, 19])  # a cell that expresses none of the first genes
    ranked = torch.where(batch.is_token, gene_ids, N_GENES).sort(dim=1).values
    batch = batch._replace(gene_ids=torch.where(batch.is_token, ranked, 0))
    expected = network.linear_path(batch)
    for row, length in enumerate(lengths):
        kept = batch.gene_ids[row, :length] < 8
        part = TokenBatch(*(values[row : row + 1, :length][:, kept] for values in batch))
        if not kept.any():
            none = torch.full((1, 1), 8)
            part = TokenBatch(none, none * 0, torch.zeros(1, 1), torch.ones(1, 1, dtype=torch.bool))
        expected[row] += small(part)[0]
    torch.testing.assert_close(network(batch), expected)
