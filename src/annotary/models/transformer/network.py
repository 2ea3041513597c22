"""The network, read from top to bottom: attention, block, model.

Letters in shapes: B cells, T tokens of the longest cell, D width, H heads, C classes.

The layout is that of scGPT's encoder (Cui et al. 2024, doi:10.1038/s41592-024-02201-0) with
the post-norm blocks of Vaswani et al. 2017 (arXiv:1706.03762), trained on labels directly.
"""

import torch.nn.functional as F  # noqa: N812
from einops import rearrange
from torch import Tensor, nn

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
        Use torch's fused kernel, which never holds the (T, T) weights; the
        plain path says the same in three lines.
    """

    def __init__(self, d_model: int, n_heads: int, dropout: float, *, fused: bool = True) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.dropout = dropout
        self.fused = fused
        self.query = nn.Linear(d_model, d_model)
        self.key = nn.Linear(d_model, d_model)
        self.value = nn.Linear(d_model, d_model)
        self.out = nn.Linear(d_model, d_model)
        for projection in (self.query, self.key, self.value):
            nn.init.xavier_uniform_(projection.weight)
        for projection in (self.query, self.key, self.value, self.out):
            nn.init.zeros_(projection.bias)

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
        query, key, value = (
            rearrange(projection(x), "b t (h d) -> b h t d", h=self.n_heads)
            for projection in (self.query, self.key, self.value)
        )
        may_attend = None if is_token is None else rearrange(is_token, "b t -> b 1 1 t")
        dropout = self.dropout if self.training else 0.0
        attend = F.scaled_dot_product_attention if self.fused else plain_attention
        gathered = attend(query, key, value, attn_mask=may_attend, dropout_p=dropout)
        return self.out(rearrange(gathered, "b h t d -> b t (h d)"))


def plain_attention(
    query: Tensor, key: Tensor, value: Tensor, *, attn_mask: Tensor | None, dropout_p: float
) -> Tensor:
    """Write attention out: softmax of scaled products, (B, H, T, D / H) in and out."""
    products = query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5
    if attn_mask is not None:
        products = products.masked_fill(~attn_mask, float("-inf"))
    return F.dropout(products.softmax(dim=-1), dropout_p) @ value


class EncoderBlock(nn.Module):
    """Attention, then a feed-forward layer four times as wide; each added, then normalised."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        d_model, dropout = config.d_model, config.dropout
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
        x = self.norm_attention(x + self.dropout(self.attention(x, is_token)))
        return self.norm_feed_forward(x + self.dropout(self.feed_forward(x)))


class GeneTransformer(nn.Module):
    """From a cell's genes and their bins to class logits.

    Tokens have no position: their order does not matter.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        # A cell that expresses no panel gene has the id n_genes; with tokens of all genes none can.
        n_ids = config.n_genes + (config.tokens == "expressed")
        self.gene_embedding = nn.Embedding(n_ids, config.d_model)
        self.bin_embedding = nn.Embedding(config.n_bins + 2, config.d_model)
        self.blocks = nn.ModuleList(EncoderBlock(config) for _ in range(config.n_layers))
        self.head = nn.Linear(config.d_model, config.n_classes)

    def forward(self, gene_ids: Tensor, bin_ids: Tensor, is_token: Tensor | None = None) -> Tensor:
        """Classify cells.

        Parameters
        ----------
        gene_ids, bin_ids
            Tokens, (B, T), int64.
        is_token
            False where padded, (B, T); None if nothing is padded.

        Returns
        -------
        Logits, (B, C).
        """
        x = self.gene_embedding(gene_ids) + self.bin_embedding(bin_ids)
        for block in self.blocks:
            x = block(x, is_token)
        return self.head(pool_mean(x, is_token))


def pool_mean(x: Tensor, is_token: Tensor | None) -> Tensor:
    """Average a cell's tokens without its padding, (B, T, D) to (B, D)."""
    if is_token is None:
        return x.mean(dim=1)
    weights = rearrange(is_token, "b t -> b t 1").to(x.dtype)
    return (x * weights).sum(dim=1) / weights.sum(dim=1)
