"""What every module of a network is called with, and what it gives."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

Call = tuple[Any, Any, Any]
"""Arguments by place, arguments by name, and what came back."""


def calls_of(network: nn.Module, inputs: Sequence[Tensor]) -> dict[str, list[Call]]:
    """By module that runs, in the order of the network's own list; one entry a call. Without gradients, in eval mode; the network's mode comes back."""
    seen: dict[str, list[Call]] = {}

    def note(name: str, _: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        seen.setdefault(name, []).append((args, kwargs, output))

    was_training = network.training
    try:
        with ExitStack() as hooks, torch.no_grad():
            for name, module in network.named_modules():
                hooks.enter_context(module.register_forward_hook(partial(note, name), with_kwargs=True))
            network.eval()(*inputs)
    finally:
        network.train(was_training)
    return {name: seen[name] for name, _ in network.named_modules() if name in seen}
