import pytest
import torch
from models.transformer.small_training import fit

from annotary.errors import ConfigError
from annotary.models.transformer.device import choose_device


def test_cuda_is_refused_where_there_is_none(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"--device needs a CUDA device .*; found none\. Use --device auto"):
        fit(device="cuda")


def test_auto_takes_cuda_only_where_it_is(monkeypatch):
    for available, expected in [(True, "cuda"), (False, "cpu")]:
        monkeypatch.setattr(torch.cuda, "is_available", lambda available=available: available)
        assert choose_device("auto").type == expected
        assert choose_device("cpu").type == "cpu"


def test_an_unknown_device_is_refused():
    with pytest.raises(ConfigError, match="--device needs auto, cpu, cuda or mps; found 'tpu'"):
        choose_device("tpu")
