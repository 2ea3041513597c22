"""Where the network computes, and in which precision."""

import torch

from annotary.errors import ConfigError

_NAMES = ("auto", "cpu", "cuda", "mps")
_REMEDIES = {
    "cuda": "Use --device auto or cpu, or install the NVIDIA driver and a CUDA build of torch.",
    "mps": "Use --device auto or cpu; mps is there on Apple's own processors only.",
}


def choose_device(name: str) -> torch.device:
    """Resolve ``auto``, ``cpu``, ``cuda`` or ``mps``; auto takes CUDA if it is there, then MPS.

    Raises
    ------
    ConfigError
        If the name is another, or the device is not there.
    """
    if name not in _NAMES:
        raise ConfigError(
            "--device",
            expected="auto, cpu, cuda or mps",
            found=repr(name),
            remedy="Choose one of them.",
        )
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(device for device, is_there in there.items() if is_there)
    if not there[name]:
        raise ConfigError(
            "--device",
            expected=f"a {name.upper()} device for {name}",
            found="none",
            remedy=_REMEDIES[name],
        )
    return torch.device(name)


def multiply_in_bfloat16(device: torch.device) -> torch.autocast:
    """Take bfloat16 for matrix products where the device has it natively; an emulated one is slower.

    Lightning's own precision would round what goes into the network too, counts among it.
    """
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        # torch tells of the instructions only here; oneDNN's own answer includes emulation.
        native = device.type == "cpu" and (
            torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        )
    return torch.autocast(device.type, torch.bfloat16, enabled=native)
