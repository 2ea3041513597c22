import json
from dataclasses import asdict

import pytest

from annotary.config import TransformerConfig
from annotary.models.transformer.config import NetworkConfig, TrainingConfig
from annotary.network_options import NetworkOptions

OTHER = {
    "tokens": "all", "max_tokens": 7, "attention_genes": 4, "values": "bins", "value_target_sum": 9.0,
    "n_bins": 3, "d_model": 24,
    "n_layers": 2, "n_heads": 3, "norm": "post", "pooling": "cls", "linear_path": False, "dropout": 0.1,
    "attention_dropout": 0.2, "learning_rate": 0.3, "gene_learning_rate": 0.4, "linear_learning_rate": 0.5,
    "loss": "plain", "label_smoothing": 0.6, "thinning": 0.7, "gene_dropout": 0.8, "batch_size": 5,
    "max_epochs": 6, "patience": 8, "n_processes": 4,
}  # fmt: skip
NOT_OF_A_NETWORK = {"network_panel", "network_genes", "n_networks", "refit", "init_from"}


def test_without_options_the_defaults_are_those_of_the_command_line():
    options = TransformerConfig(dataset="d.h5ad")
    assert NetworkConfig(5, 2) == NetworkConfig.from_options(options, n_genes=5, n_classes=2)
    assert TrainingConfig() == TrainingConfig.from_options(options, seed=options.seed, device=options.device)


def test_every_option_reaches_the_network_or_its_training():
    assert set(OTHER) | NOT_OF_A_NETWORK == set(NetworkOptions.model_fields)
    options = NetworkOptions(**OTHER)
    taken = asdict(NetworkConfig.from_options(options, n_genes=5, n_classes=2))
    taken |= asdict(TrainingConfig.from_options(options, seed=1, device="cpu"))
    taken["value_target_sum"] = taken.pop("target_sum")
    assert {name: taken[name] for name in OTHER} == OTHER


def test_a_shape_stored_before_attention_was_limited_attends_to_all_genes():
    stored = json.loads(NetworkConfig(500, 2, attention_genes=0).to_json())
    stored.pop("attention_genes")
    assert NetworkConfig.from_json(json.dumps(stored)).n_attended == 500


@pytest.mark.parametrize(
    ("changes", "expected"), [({}, 300), ({"attention_genes": 600}, 500), ({"tokens": "all"}, 500)]
)
def test_the_first_genes_attend(changes, expected):
    assert NetworkConfig(500, 2, **changes).n_attended == expected


@pytest.mark.parametrize("text", ["{}", '{"n_genes": 5, "n_classes": 2, "colour": 1}'])
def test_a_stored_shape_with_other_fields_is_refused(text):
    with pytest.raises(TypeError):
        NetworkConfig.from_json(text)
