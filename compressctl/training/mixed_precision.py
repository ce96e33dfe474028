"""Whether products are computed in 16 bits: where a recipe asks for it and the device has instructions for it."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch

from compressctl.core.events import Events
from compressctl.training.params import TrainingParams
from compressctl.training.processes import Processes


def computes_in_16_bits(params: TrainingParams, processes: Processes, events: Events) -> bool:
    """The same in all processes. Where it was asked for and one of them cannot, a warning says so and float32 takes its place:
    a processor that has to emulate 16-bit products takes 6 to 20 times as long as for those of 32 bits, which are more exact."""
    if params.precision != "bfloat16":
        return False
    able = all(processes.gather([has_16_bit_products(processes.device)]))
    if not able:
        events.warn(
            "precision: bfloat16 was asked for, which this processor would have to emulate, many times slower: trained in float32"
        )
    return able


def has_16_bit_products(device: torch.device) -> bool:
    """Of bfloat16. Processors: as oneDNN sees them, which asks for AVX-512 or its counterpart."""
    if device.type != "cpu":
        return True
    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError):  # a build without oneDNN
        return False


def autocast(device: torch.device, *, in_16_bits: bool) -> AbstractContextManager[None]:
    return torch.autocast(device.type, torch.bfloat16, enabled=in_16_bits)
