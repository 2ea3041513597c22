from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from models.conformance import N_PANEL, make_cells
from models.transformer.small_training import NETWORK, STILL, TRAINING, fit

from annotary.errors import BundleError, ConfigError, GeneOverlapError
from annotary.models.transformer.batches import gather
from annotary.models.transformer.pretrained import PretrainedNetwork
from annotary.models.transformer.pretraining import mask_genes, pretrain_network
from annotary.models.transformer.tokens import store_chunks, tokenize

GENES = pd.Index([f"G{gene:03d}" for gene in range(N_PANEL)])
SHAPE = replace(NETWORK, dropout=0.0)


def pretrain(**changes):
    cells, _ = make_cells(200, seed=0)
    training = replace(TRAINING, max_epochs=4, **changes)
    return pretrain_network(tokenize(SHAPE, cells), network=SHAPE, training=training, mask_share=0.3)


@pytest.fixture(scope="module")
def done():
    return pretrain()


@pytest.fixture(scope="module")
def pretrained(done):
    return PretrainedNetwork.take(done[0], GENES, {"run_id": "r"})


def test_hidden_genes_are_learned_from_those_that_are_left(done):
    _, epochs = done
    assert [one.epoch for one in epochs] == [1, 2, 3, 4]
    assert epochs[-1].train_loss < 0.9 * epochs[0].train_loss
    assert epochs[-1].held_out_loss < epochs[0].held_out_loss
    assert epochs[-1].held_out_auc > 0.62


def test_the_same_seed_gives_the_same_network_and_leaves_the_generators(done):
    state = torch.get_rng_state()
    again, epochs = pretrain()
    assert torch.equal(torch.get_rng_state(), state)
    assert epochs == done[1]
    for name, weight in again.state_dict().items():
        assert torch.equal(weight, done[0].state_dict()[name])
    assert pretrain(seed=9)[1] != epochs


@pytest.mark.parametrize("share", [0.3, 0.999])
def test_hidden_genes_are_expressed_and_not_shown_and_the_others_are_not_expressed(share):
    cells, _ = make_cells(30, seed=3)
    flat = gather(tokenize(SHAPE, cells), np.arange(30))
    frequency = np.full(N_PANEL, 1 / N_PANEL)
    masked = mask_genes(flat, SHAPE, frequency, mask_share=share, rng=np.random.default_rng(0))
    expressed = cells.counts.toarray() > 0
    batch, hidden = masked.batch, masked.is_hidden.numpy() == 1
    genes, owner = masked.genes.numpy(), masked.owner.numpy()
    np.testing.assert_array_equal(expressed[owner, genes], hidden)
    assert batch.is_token.any(dim=1).all()
    shown = np.zeros_like(expressed)
    rows, _ = np.nonzero(batch.is_token.numpy())
    shown[rows, batch.gene_ids[batch.is_token].numpy()] = True
    assert not shown[owner[hidden], genes[hidden]].any()
    shown[owner[hidden], genes[hidden]] = True
    np.testing.assert_array_equal(shown, expressed)


def test_tokens_of_chunks_in_files_are_those_of_all_cells(tmp_path):
    cells, _ = make_cells(50, seed=1)
    whole = tokenize(SHAPE, cells)
    chunks = (cells[start : start + 20] for start in (0, 20, 40))
    stored = store_chunks(SHAPE, chunks, tmp_path, most_tokens=len(whole.gene_ids) + 7)
    for name, values in vars(whole).items():
        np.testing.assert_array_equal(getattr(stored, name), values, err_msg=name)


def test_gene_vectors_are_carried_over_by_id_and_the_rest_as_it_is(pretrained):
    other = pd.Index(["NEW", "G005", "G030", "ALSO_NEW"])
    first, n_known = pretrained.carry_over(replace(SHAPE, n_genes=4), other, seed=1)
    own = pretrained.weights["embedding.gene.weight"]
    vectors = first["embedding.gene.weight"]
    assert n_known == 2
    assert torch.equal(vectors[[1, 2, 4]], own[[5, 30, N_PANEL]])
    assert not (vectors[0] == vectors[3]).any()
    assert torch.equal(
        vectors, pretrained.carry_over(replace(SHAPE, n_genes=4), other, seed=1)[0]["embedding.gene.weight"]
    )
    for name, weight in pretrained.weights.items():
        if name.startswith("blocks."):
            assert torch.equal(first[name], weight)
    assert not [name for name in first if name.startswith("head")]


def test_a_training_begins_with_what_was_carried_over(pretrained):
    first, _ = pretrained.carry_over(NETWORK, GENES[::-1], seed=1)
    begun, _ = fit(first=first, max_epochs=1, ema_decay=0.0, **STILL)
    for name, weight in first.items():
        torch.testing.assert_close(begun.state_dict()[name], weight, atol=1e-6, rtol=1e-6)


def test_a_saved_network_is_read_back_from_safe_files(pretrained, tmp_path):
    again = PretrainedNetwork.load(pretrained.save(tmp_path / "p"))
    assert {path.suffix for path in (tmp_path / "p").iterdir()} == {".json", ".safetensors"}
    assert (again.config, again.gene_ids, again.origin) == (
        pretrained.config, pretrained.gene_ids, pretrained.origin
    )  # fmt: skip
    assert all(torch.equal(again.weights[name], weight) for name, weight in pretrained.weights.items())


def test_an_altered_or_missing_network_is_refused(pretrained, tmp_path):
    folder = pretrained.save(tmp_path / "p")
    weights = folder / "pretrained.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    with pytest.raises(BundleError, match="weights of SHA-256"):
        PretrainedNetwork.load(folder)
    with pytest.raises(BundleError, match="No such file"):
        PretrainedNetwork.load(tmp_path)


def test_another_shape_is_refused_with_the_options_to_pass(pretrained):
    shape = replace(SHAPE, d_model=32, n_heads=4)
    with pytest.raises(ConfigError, match=r"found d_model 16, n_heads 2\. Pass --d-model 16 --n-heads 2\."):
        pretrained.carry_over(shape, GENES, seed=0)


def test_genes_of_another_kind_are_refused(pretrained):
    with pytest.raises(GeneOverlapError, match=r"--init-from needs some of the 1 genes.*'ENSG1'"):
        pretrained.carry_over(replace(SHAPE, n_genes=1), pd.Index(["ENSG1"]), seed=0)
