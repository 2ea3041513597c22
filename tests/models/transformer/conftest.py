import pytest
import torch
from models.transformer.small_training import fit


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Networks this small are faster on one thread, and much faster on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def fitted():
    seen = []
    network, history = fit(on_epoch=seen.append)
    return network, history, seen
