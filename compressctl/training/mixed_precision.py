"""Whether products are computed in 16 bits: where a recipe asks for it and the device has instructions for it."""

from __future__ import annotations

import copy
import time
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from compressctl.core.events import Events
from compressctl.graph.torch_outputs import named_outputs
from compressctl.training.params import TrainingParams
from compressctl.training.processes import Processes

_WORTH_STEPS = 200
"""Steps from which on a training is worth four more of them."""

_MOST_BYTES = 512 * 1024**2
"""Of a network that is copied to be timed."""

_SLOWER = 1.1


def warn_where_slower(network: nn.Module, inputs: tuple[Tensor, ...], steps: int, events: Events) -> None:
    """On processors 16-bit products may be the slower ones: narrow layers take longer to convert than to multiply. inputs: of one batch."""
    size = sum(weight.numel() * weight.element_size() for weight in network.parameters())
    if inputs[0].device.type != "cpu" or steps < _WORTH_STEPS or size > _MOST_BYTES:
        return
    ratio = times_as_long(network, inputs)
    if ratio > _SLOWER:
        events.warn(
            f"a step takes {ratio:.1f} times as long in bfloat16 as in float32 with this network on this processor: `precision: float32` trains faster"
        )


def times_as_long(network: nn.Module, inputs: tuple[Tensor, ...]) -> float:
    """A step in 16 bits against one in 32, forward and backward, of a copy; the second of two each. Weights, statistics and random numbers stay."""
    seconds = {False: 0.0, True: 0.0}
    with torch.random.fork_rng(devices=[]):
        learner = copy.deepcopy(network).train()
        for in_16_bits in (False, True, False, True):
            began = time.perf_counter()
            with torch.enable_grad(), autocast(inputs[0].device, in_16_bits=in_16_bits):
                outputs = [value for value in named_outputs(learner(*inputs)).values() if value.requires_grad]
            torch.autograd.backward([value.float().square().mean() for value in outputs])
            seconds[in_16_bits] = time.perf_counter() - began
    return seconds[True] / seconds[False]


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
