"""The network, read from top to bottom: attention, block, model.

Letters in shapes: B cells, T tokens of the longest cell, D width, H heads, C classes.

With bins, post-norm and mean pooling the layout is that of the notebook that this project grew from, after
scGPT's encoder (Cui et al. 2024, doi:10.1038/s41592-024-02201-0) and the blocks of Vaswani et al. 2017
(arXiv:1706.03762). Pre-norm blocks are those of Xiong et al. 2020 (arXiv:2002.04745): they leave the residual
stream alone, so that how much of a gene a cell expresses reaches the pooling. The linear path beside the
attention is the wide half of a wide and deep model (Cheng et al. 2016, arXiv:1606.07792).
"""

import torch
import torch.nn.functional as F  # noqa: N812
from einops import rearrange, repeat
from torch import Tensor, nn

from annotary.models.transformer.batches import TokenBatch
from annotary.models.transformer.config import NetworkConfig


class MultiHeadSelfAttention(nn.Module):
    """Each token gathers from the tokens of its own cell.

    Parameters
    ----------
    d_model
        Width D.
    n_heads
        Heads H; they divide D.
    dropout
        Share of attention weights dropped in training.
    fused
        Whether to use torch's fused kernel, which never holds the (T, T) weights; the plain path says
        the same in four lines. None takes the faster: on a CPU the fused kernel's backward pass takes 2
        to 5 times as long as the plain one's.
    """

    def __init__(self, d_model: int, n_heads: int, dropout: float, *, fused: bool | None = None) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.dropout = dropout
        self.fused = fused
        self.query_key_value = nn.Linear(d_model, 3 * d_model)  # one product is faster than three
        self.out = nn.Linear(d_model, d_model)
        for weight in self.query_key_value.weight.chunk(3):
            nn.init.xavier_uniform_(weight)
        nn.init.zeros_(self.query_key_value.bias)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, is_token: Tensor | None = None) -> Tensor:
        """Attend.

        Parameters
        ----------
        x
            Embedded tokens, (B, T, D).
        is_token
            False where a place is padding and must not be attended to, (B, T);
            at least one True in each row. None if nothing is padded.

        Returns
        -------
        What each token gathered, (B, T, D).
        """
        query, key, value = rearrange(
            self.query_key_value(x), "b t (three h d) -> three b h t d", three=3, h=self.n_heads
        )
        mask = None if is_token is None else make_mask(is_token, query.dtype)
        dropout = self.dropout if self.training else 0.0
        fused = self.fused
        if fused is None:
            fused = x.device.type != "cpu" or not torch.is_grad_enabled()
        attend = F.scaled_dot_product_attention if fused else plain_attention
        gathered = attend(query, key, value, attn_mask=mask, dropout_p=dropout)
        return self.out(rearrange(gathered, "b h t d -> b t (h d)"))


def plain_attention(
    query: Tensor, key: Tensor, value: Tensor, *, attn_mask: Tensor | None, dropout_p: float
) -> Tensor:
    """Write attention out: softmax of scaled products, (B, H, T, D / H) in and out."""
    products = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
    if attn_mask is not None:
        products = products + attn_mask
    weights = products.softmax(dim=-1).to(value.dtype)  # autocast makes it float32
    return (F.dropout(weights, dropout_p) if dropout_p else weights) @ value


def make_mask(is_token: Tensor, dtype: torch.dtype) -> Tensor:
    """Make what is added to attention's products: nothing at tokens, -inf at padding, (B, 1, 1, T)."""
    mask = torch.zeros(is_token.shape, dtype=dtype, device=is_token.device)
    return rearrange(mask.masked_fill_(~is_token, float("-inf")), "b t -> b 1 1 t")


class EncoderBlock(nn.Module):
    """Attention, then a feed-forward layer four times as wide; each added to what came in.

    Post-norm normalises the sums, pre-norm what goes into attention and feed-forward layer.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        d_model, dropout = config.d_model, config.dropout
        self.pre_norm = config.norm == "pre"
        self.attention = MultiHeadSelfAttention(d_model, config.n_heads, config.attention_dropout)
        self.feed_forward = nn.Sequential(
            nn.Linear(d_model, 4 * d_model),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(4 * d_model, d_model),
        )
        self.norm_attention = nn.LayerNorm(d_model)
        self.norm_feed_forward = nn.LayerNorm(d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, is_token: Tensor | None = None) -> Tensor:
        """Transform tokens, (B, T, D) in and out; ``is_token`` (B, T) as in the attention."""
        if self.pre_norm:
            x = x + self.dropout(self.attention(self.norm_attention(x), is_token))
            return x + self.dropout(self.feed_forward(self.norm_feed_forward(x)))
        x = self.norm_attention(x + self.dropout(self.attention(x, is_token)))
        return self.norm_feed_forward(x + self.dropout(self.feed_forward(x)))


class TokenEmbedding(nn.Module):
    """A vector for each token: its gene's, together with how strongly the cell expresses it.

    With bins, the bin's vector is added; with continuous values the gene's vector is scaled, so that a gene
    twice as strong speaks twice as loud.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        # "No gene" has the id n_attended; with tokens of all genes no cell needs it.
        self.gene = nn.Embedding(config.n_attended + (config.tokens == "expressed"), config.d_model)
        self.bin = nn.Embedding(config.n_bins + 2, config.d_model) if config.values == "bins" else None

    def forward(self, batch: TokenBatch) -> Tensor:
        """Embed tokens, (B, T, D)."""
        genes = self.gene(batch.gene_ids)
        if self.bin is not None:
            return genes + self.bin(batch.bin_ids)
        return genes * rearrange(batch.values, "b t -> b t 1").to(genes.dtype)


class GeneTransformer(nn.Module):
    """From a cell's tokens to class logits.

    Tokens have no position: their order does not matter.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = TokenEmbedding(config)
        self.blocks = nn.ModuleList(EncoderBlock(config) for _ in range(config.n_layers))
        self.summary = nn.Parameter(torch.zeros(config.d_model)) if config.pooling == "cls" else None
        self.head = nn.Linear(config.d_model, config.n_classes)
        self.linear_path = LinearPath(config) if config.linear_path else None

    def forward(self, batch: TokenBatch) -> Tensor:
        """Classify cells: logits, (B, C)."""
        attended = take_attended(batch, self.config)
        logits = self.classify(self.embedding(attended), attended.is_token)
        return logits if self.linear_path is None else logits + self.linear_path(batch)

    def classify(self, x: Tensor, is_token: Tensor) -> Tensor:
        """Say what the attention says of cells: logits, (B, C), of embedded tokens, (B, T, D)."""
        return self.head(self.encode(x, is_token))

    def encode(self, x: Tensor, is_token: Tensor) -> Tensor:
        """Represent each cell by one vector, (B, D): its summary token, or the mean of its tokens."""
        x, is_token = self.attend(x, is_token)
        return pool_mean(x, is_token) if self.summary is None else x[:, 0]

    def attend(self, x: Tensor, is_token: Tensor) -> tuple[Tensor, Tensor]:
        """Transform a cell's embedded tokens, (B, T, D), and tell which are no padding, (B, T).

        With a summary token it comes first: T is one more than the batch's.
        """
        if self.summary is not None:
            x = torch.cat([repeat(self.summary.to(x.dtype), "d -> b 1 d", b=len(x)), x], dim=1)
            is_token = torch.cat([torch.ones_like(is_token[:, :1]), is_token], dim=1)
        for block in self.blocks:
            x = block(x, is_token)
        return x, is_token


def take_attended(batch: TokenBatch, config: NetworkConfig) -> TokenBatch:
    """Take the tokens that attend to each other, those of the panel's first genes, (B, T) to (B, T').

    A cell's tokens come in panel order, so these are in front. A cell without any gets a "no gene" token.
    """
    n_attended = config.n_attended
    if n_attended == config.n_genes:
        return batch
    attended = batch.is_token & (batch.gene_ids < n_attended)
    n_places = max(1, int(attended.sum(dim=1).max())) if len(attended) else 1
    batch, attended = batch.take_places(n_places), attended[:, :n_places]
    is_token = attended.clone()
    is_token[:, 0] = True
    return TokenBatch(
        gene_ids=batch.gene_ids.where(attended, n_attended),
        bin_ids=batch.bin_ids.where(attended, 0),
        values=batch.values.where(attended, 0.0),
        is_token=is_token,
    )


class LinearPath(nn.Module):
    """A weight for each gene and class, times the gene's value: what a linear model says of the cell."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.weight = nn.Embedding(config.n_genes + 1, config.n_classes)
        nn.init.zeros_(self.weight.weight)

    def forward(self, batch: TokenBatch) -> Tensor:
        """Add up the weights of a cell's tokens, (B, C)."""
        weight = self.weight.weight
        return F.embedding_bag(batch.gene_ids, weight, per_sample_weights=batch.values, mode="sum")


def pool_mean(x: Tensor, is_token: Tensor) -> Tensor:
    """Average a cell's tokens without its padding, (B, T, D) to (B, D)."""
    weights = rearrange(is_token, "b t -> b t 1").to(x.dtype)
    return (x * weights).sum(dim=1) / weights.sum(dim=1)
