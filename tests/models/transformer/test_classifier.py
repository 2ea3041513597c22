import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from models.conformance import N_CLASSES, N_PANEL, AnnotatorConformance, make_cells
from scipy.sparse import csr_matrix

from annotary.errors import AnnotaryError, ConfigError
from annotary.models.transformer import inference
from annotary.models.transformer.classifier import TransformerAnnotator
from annotary.models.transformer.config import NetworkConfig, TrainingConfig
from annotary.models.transformer.network import GeneTransformer
from annotary.models.transformer.tokens import tokenize
from annotary.models.transformer.training import fit_transformer
from annotary.quality.prepare import PreparedCells


def fit_small(cells, codes, *, seed, learning_rate=1e-2, **shape):
    held_out = len(cells) // 5
    network, _ = fit_transformer(
        cells[held_out:],
        codes[held_out:],
        cells[:held_out],
        codes[:held_out],
        network=NetworkConfig(N_PANEL, N_CLASSES, d_model=16, n_layers=1, n_heads=2, **shape),
        training=TrainingConfig(
            learning_rate, batch_size=16, max_epochs=12, patience=12, seed=seed, device="cpu"
        ),
    )
    return network


class TestTransformer(AnnotatorConformance):
    def fit(self, cells, codes, *, seed):
        return TransformerAnnotator([fit_small(cells, codes, seed=seed)])


class TestSeveralTransformers(AnnotatorConformance):
    def fit(self, cells, codes, *, seed):
        return TransformerAnnotator([fit_small(cells, codes, seed=seed + k, pooling="cls") for k in range(2)])


class TestTransformerThatAttendsToFewGenes(AnnotatorConformance):
    def fit(self, cells, codes, *, seed):
        return TransformerAnnotator([fit_small(cells, codes, seed=seed, attention_genes=10)])


class TestTransformerWithTokensOfAllGenes(AnnotatorConformance):
    def fit(self, cells, codes, *, seed):
        network = fit_small(
            cells, codes, seed=seed, learning_rate=3e-3, tokens="all", values="bins", norm="post"
        )
        return TransformerAnnotator([network])


@pytest.fixture
def annotator():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return TransformerAnnotator([GeneTransformer(NetworkConfig(N_PANEL, N_CLASSES))])


def fail_above(annotator, monkeypatch, n_tokens):
    """Let the network run out of memory above ``n_tokens``; list the cells of each batch and if it fitted."""
    network, batches = annotator.networks[0], []
    forward = network.forward

    def forward_or_fail(batch):
        fits = batch.gene_ids.numel() <= n_tokens
        batches.append((len(batch.gene_ids), fits))
        if not fits:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(batch)

    monkeypatch.setattr(network, "forward", forward_or_fail)
    return batches


def test_a_batch_that_does_not_fit_is_halved(annotator, monkeypatch):
    cells, _ = make_cells(100)
    expected = annotator.predict_proba(cells, device="cpu")
    longest = np.diff(cells.counts.indptr).max()
    batches = fail_above(annotator, monkeypatch, 30 * longest)
    np.testing.assert_allclose(annotator.predict_proba(cells, device="cpu"), expected, atol=1e-5)
    assert batches[:3] == [(100, False), (50, False), (25, True)]
    assert all(fits for _, fits in batches[2:])
    assert sum(n_cells for n_cells, fits in batches if fits) == 100


def test_one_cell_that_does_not_fit_is_an_error(annotator, monkeypatch):
    cells, _ = make_cells(4)
    fail_above(annotator, monkeypatch, 0)
    with pytest.raises(torch.OutOfMemoryError):
        annotator.predict_proba(cells, device="cpu")


def test_the_token_budget_does_not_change_predictions(annotator, monkeypatch):
    cells, _ = make_cells(70)
    expected = annotator.predict_proba(cells, device="cpu")
    for budget in (1, 100, 1000):
        monkeypatch.setitem(inference.TOKEN_BUDGET, "cpu", budget)
        np.testing.assert_allclose(annotator.predict_proba(cells, device="cpu"), expected, atol=1e-5)


def test_batches_keep_to_the_token_budget(annotator, monkeypatch):
    cells, _ = make_cells(70)
    monkeypatch.setitem(inference.TOKEN_BUDGET, "cpu", 200)
    shapes = []
    annotator.networks[0].register_forward_pre_hook(
        lambda module, inputs: shapes.append(inputs[0].gene_ids.shape)
    )
    annotator.predict_proba(cells, device="cpu")
    assert sum(n_cells for n_cells, _ in shapes) == 70
    assert all(n_cells * n_tokens <= 200 for n_cells, n_tokens in shapes)


def test_tokens_of_the_linear_path_alone_fill_no_batch():
    config = NetworkConfig(n_genes=100, n_classes=3, attention_genes=10)
    counts = np.ones((2, 100), dtype=np.float32)
    counts[1, :50] = 0  # none of these genes attends
    cells = PreparedCells(csr_matrix(counts), counts.sum(axis=1))
    assert inference.count_attended(tokenize(config, cells), config).tolist() == [10, 4]


def test_dropout_is_off_even_on_a_network_left_in_training_mode(annotator):
    cells, _ = make_cells(10)
    annotator.networks[0].train()
    first, second = (annotator.predict_proba(cells, device="cpu") for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_another_number_of_genes_is_refused(annotator):
    cells, _ = make_cells(5)
    narrow = type(cells)(counts=cells.counts[:, :30], depth=cells.depth)
    with pytest.raises(AnnotaryError, match=f"needs the {N_PANEL} genes .*; found 30 genes"):
        annotator.predict_proba(narrow, device="cpu")


def test_cuda_is_refused_where_there_is_none(annotator, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    cells, _ = make_cells(5)
    with pytest.raises(ConfigError, match="--device needs a CUDA device"):
        annotator.predict_proba(cells, device="cuda")


def test_loading_leaves_the_random_generators_alone(annotator, tmp_path):
    annotator.save(tmp_path)
    before = torch.get_rng_state()
    TransformerAnnotator.load(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


def test_loading_and_predicting_need_no_training_library(annotator, tmp_path):
    annotator.save(tmp_path)
    script = (
        "import sys, json\n"
        "sys.path[:0] = json.loads(sys.argv[1])\n"
        "from pathlib import Path\n"
        "from models.conformance import make_cells\n"
        "from annotary.models.transformer.classifier import TransformerAnnotator\n"
        "model = TransformerAnnotator.load(Path(sys.argv[2]))\n"
        "model.predict_proba(make_cells(3)[0], device='cpu')\n"
        "print(json.dumps(sorted({'lightning', 'sklearn', 'mlflow', 'torchmetrics'} & set(sys.modules))))\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, json.dumps(sys.path), str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(run.stdout) == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cpu_and_cuda_agree(annotator):
    cells, _ = make_cells(60)
    np.testing.assert_allclose(
        annotator.predict_proba(cells, device="cuda"), annotator.predict_proba(cells, device="cpu"), atol=1e-4
    )
