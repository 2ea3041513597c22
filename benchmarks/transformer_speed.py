"""Simulated cells, the networks of the transformer's benchmark, and how each is timed.

A network labels cells in batches that are made as it goes, and also in batches that were made before (the
bare forward pass). It trains by its own recipe: ours as ``annotary transformer`` trains, the notebook's by
AdamW and cross entropy on batches of 32 in float32.
"""

import contextlib
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from scipy.sparse import csr_matrix
from torch.utils.flop_counter import FlopCounterMode

from annotary.models.transformer.batches import TokenBatch, make_batch
from annotary.models.transformer.config import NetworkConfig, TrainingConfig
from annotary.models.transformer.device import multiply_in_bfloat16
from annotary.models.transformer.inference import TOKEN_BUDGET, count_attended, predict_logits, take_batch
from annotary.models.transformer.network import GeneTransformer, MultiHeadSelfAttention
from annotary.models.transformer.tokens import TokenizedCells, tokenize
from annotary.models.transformer.training import fit_transformer
from annotary.quality.prepare import PreparedCells

SEED = 42
N_CLASSES = 10
NOTEBOOK_BATCH = 32

NOTEBOOK, NOTEBOOK_FUSED = "notebook, dense", "notebook, dense, fused attention"
SAME_SIZE, SAME_SIZE_BF16 = "annotary, notebook's size", "annotary, notebook's size, bfloat16"
DEFAULT, DEFAULT_BF16 = "annotary, default", "annotary, default, bfloat16"

NOTEBOOK_SIZE = {
    "values": "bins",
    "attention_genes": 0,
    "d_model": 128,
    "n_layers": 4,
    "n_heads": 4,
    "norm": "post",
    "linear_path": False,
    "dropout": 0.1,
    "attention_dropout": 0.0,
}
_POPULARITY = 30  # the gene at place r of a panel is drawn in proportion to 1 / (30 + r)
_SPREAD = 0.35  # of the logarithm of a cell's number of genes
_PEAK_SIZE = 2048


@dataclass(frozen=True)
class Variant:
    """A network, and how it is run.

    Attributes
    ----------
    shape
        What differs from :class:`NetworkConfig`'s defaults.
    as_notebook
        Whether batches, optimiser and precision are the notebook's.
    fused
        Passed to the attention.
    bfloat16
        Whether labelling multiplies in bfloat16; training of ours always does where the processor can.
    thinning
        Share of a cell's molecules that training leaves out at most.
    """

    shape: dict[str, object]
    as_notebook: bool = False
    fused: bool | None = None
    bfloat16: bool = False
    thinning: float = TrainingConfig.thinning


VARIANTS = {
    NOTEBOOK: Variant(NOTEBOOK_SIZE | {"tokens": "all", "attention_dropout": 0.1}, True, fused=False),
    NOTEBOOK_FUSED: Variant(NOTEBOOK_SIZE | {"tokens": "all"}, True, fused=True),
    SAME_SIZE: Variant(NOTEBOOK_SIZE, thinning=0.0),
    SAME_SIZE_BF16: Variant(NOTEBOOK_SIZE, bfloat16=True),
    DEFAULT: Variant({}),
    DEFAULT_BF16: Variant({}, bfloat16=True),
}


def simulate_cells(n_cells: int, n_genes: int, n_tokens: int) -> PreparedCells:
    """Draw cells of a panel, ``(n_cells, n_genes)``; on average ``n_tokens`` of its genes are expressed."""
    rng = np.random.default_rng(SEED)
    lengths = rng.lognormal(np.log(n_tokens) - _SPREAD**2 / 2, _SPREAD, n_cells)
    lengths = np.clip(lengths.round().astype(int), 1, n_genes)
    waits = _POPULARITY + np.arange(n_genes)
    genes = [
        np.sort(np.argpartition(rng.exponential(size=n_genes) * waits, length - 1)[:length])
        for length in lengths
    ]
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    values = rng.geometric(0.6, indptr[-1]).astype(np.float32)
    counts = csr_matrix((values, np.concatenate(genes), indptr), shape=(n_cells, n_genes))
    return PreparedCells(counts, np.asarray(counts.sum(axis=1)).ravel())


def make_network(variant: Variant, n_genes: int) -> GeneTransformer:
    """Make a network with random weights, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        network = GeneTransformer(NetworkConfig(n_genes, N_CLASSES, **variant.shape))
    for module in network.modules():
        if isinstance(module, MultiHeadSelfAttention):
            module.fused = variant.fused
    return network.eval()


@dataclass(frozen=True)
class Labelling:
    """How fast a network labels.

    Attributes
    ----------
    seconds
        Of each repeat, from tokens to logits.
    bare_seconds
        Of each repeat, batches being there.
    flops
        Operations of the matrix products of all cells, padding included.
    padding
        Share of the places of all batches that hold no token.
    attended
        Tokens of a cell that attend to each other, mean.
    """

    seconds: list[float]
    bare_seconds: list[float]
    flops: int
    padding: float
    attended: float


def time_labelling(variant: Variant, cells: PreparedCells, repeats: int) -> Labelling:
    """Label cells again and again, after a first time that is not counted."""
    network = make_network(variant, cells.counts.shape[1])
    tokens = tokenize(network.config, cells)
    plan = _plan(variant, network.config, tokens)
    batches = [make_batch(tokens, rows, network.config) for rows in plan]

    with torch.inference_mode(), _choose_precision(variant):
        seconds = _repeat(lambda: _label(variant, network, tokens), repeats)
        bare = _repeat(lambda: [network(batch) for batch in batches], repeats)
    attended = (tokens.gene_ids < network.config.n_attended).sum() / len(tokens)
    return Labelling(seconds, bare, _count_flops(network, batches), _find_padding(batches), float(attended))


def label_once(variant: Variant, cells: PreparedCells) -> None:
    """Label cells once."""
    network = make_network(variant, cells.counts.shape[1])
    with torch.inference_mode(), _choose_precision(variant):
        _label(variant, network, tokenize(network.config, cells))


def _label(variant: Variant, network: GeneTransformer, tokens: TokenizedCells) -> None:
    if not variant.as_notebook:
        predict_logits(network, tokens, torch.device("cpu"))
        return
    for rows in _plan(variant, network.config, tokens):
        network(make_batch(tokens, rows, network.config))


def _plan(variant: Variant, config: NetworkConfig, tokens: TokenizedCells) -> list[np.ndarray]:
    """List the rows of each batch."""
    if variant.as_notebook:
        rows = np.arange(len(tokens))
        return [rows[start : start + NOTEBOOK_BATCH] for start in range(0, len(rows), NOTEBOOK_BATCH)]
    return plan_batches(config, tokens)


def plan_batches(config: NetworkConfig, tokens: TokenizedCells) -> list[np.ndarray]:
    """List the rows of each batch that annotary labels at a time on a CPU."""
    lengths, batches = count_attended(tokens, config), []
    left = np.argsort(-lengths, kind="stable")
    while len(left):
        batches.append(take_batch(left, lengths, TOKEN_BUDGET["cpu"]))
        left = left[len(batches[-1]) :]
    return batches


def _choose_precision(variant: Variant) -> contextlib.AbstractContextManager[object]:
    return multiply_in_bfloat16(torch.device("cpu")) if variant.bfloat16 else contextlib.nullcontext()


def _repeat(task: Callable[[], object], repeats: int) -> list[float]:
    """Time a task, once more than is counted."""
    seconds = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        task()
        seconds.append(time.perf_counter() - started)
    return seconds[1:]


def _count_flops(network: GeneTransformer, batches: Sequence[TokenBatch]) -> int:
    """Count the operations of the forward pass, with attention written out so that none is missed."""
    attentions = [one for one in network.modules() if isinstance(one, MultiHeadSelfAttention)]
    fused = attentions[0].fused
    for attention in attentions:
        attention.fused = False
    # Meta tensors have shapes and no values: nothing is computed.
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        for batch in batches:
            network(batch)
    for attention in attentions:
        attention.fused = fused
    return int(counter.get_total_flops())


def _find_padding(batches: Sequence[TokenBatch]) -> float:
    places = sum(batch.is_token.numel() for batch in batches)
    return 1 - sum(int(batch.is_token.sum()) for batch in batches) / places


def time_training(variant: Variant, cells: PreparedCells, repeats: int) -> tuple[list[float], float]:
    """Train on cells with random labels: seconds of each repeat, and the share that making batches took.

    A repeat sees each cell once; the first, which is not counted, warms up.
    """
    codes = np.arange(len(cells.depth), dtype=np.int64) % N_CLASSES
    shape = NetworkConfig(cells.counts.shape[1], N_CLASSES, **variant.shape)
    if variant.as_notebook:
        return _train_as_notebook(variant, cells, codes, repeats)
    training = TrainingConfig(max_epochs=repeats + 1, thinning=variant.thinning, device="cpu")
    _, epochs = fit_transformer(cells, codes, None, None, network=shape, training=training)
    return (
        [len(codes) / epoch.cells_per_second for epoch in epochs[1:]],
        statistics.median(epoch.loading_share for epoch in epochs[-repeats:]),
    )


def _train_as_notebook(
    variant: Variant, cells: PreparedCells, codes: np.ndarray, repeats: int
) -> tuple[list[float], float]:
    network = make_network(variant, cells.counts.shape[1]).train()
    tokens = tokenize(network.config, cells)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)
    loading = 0.0

    def train() -> None:
        nonlocal loading
        for rows in _plan(variant, network.config, tokens):
            started = time.perf_counter()
            batch = make_batch(tokens, rows, network.config)
            loading += time.perf_counter() - started
            optimizer.zero_grad()
            F.cross_entropy(network(batch), torch.from_numpy(codes[rows])).backward()
            optimizer.step()

    started = time.perf_counter()
    seconds = _repeat(train, repeats)
    return seconds, loading / (time.perf_counter() - started)


def find_peak(dtype: torch.dtype) -> float:
    """Measure this machine's matrix products of 2048 x 2048: operations a second, the best of ten."""
    one = torch.randn(_PEAK_SIZE, _PEAK_SIZE, dtype=dtype)
    return 2 * _PEAK_SIZE**3 / min(_repeat(lambda: one @ one, 10))
