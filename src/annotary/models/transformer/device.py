"""Where the network computes."""

import torch

from annotary.errors import ConfigError


def choose_device(name: str) -> torch.device:
    """Resolve ``auto``, ``cpu`` or ``cuda``; auto takes CUDA if it is there.

    Raises
    ------
    ConfigError
        If the name is another, or CUDA is asked for and not there.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise ConfigError(
            "--device",
            expected="auto, cpu or cuda",
            found=repr(name),
            remedy="Choose one of the three.",
        )
    has_cuda = torch.cuda.is_available()
    if name == "cuda" and not has_cuda:
        raise ConfigError(
            "--device",
            expected="a CUDA device for cuda",
            found="none",
            remedy="Use --device auto or cpu, or install the NVIDIA driver and a CUDA build of torch.",
        )
    return torch.device("cuda" if has_cuda and name != "cpu" else "cpu")
