"""The same architecture with fewer channels in every layer that can lose some."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from compressctl.core.errors import MissingDependencyError, NothingToCompressError
from compressctl.core.quiet import quiet
from compressctl.graph.torch_outputs import named_outputs
from compressctl.techniques.prune.search_bound import bound_search

_LEAST = 4
"""Channels that a layer keeps at least, and what widths below _NARROW are a multiple of; others are one of _STEP."""
_STEP = 8
_NARROW = 32


@dataclass(frozen=True)
class Shrunk:
    """widths: "32 -> 16" by the first layer of each group that shares a width. whole: why others kept theirs."""

    network: nn.Module
    widths: Mapping[str, str]
    whole: Mapping[str, str]


def rounded_width(width: int, share: float) -> int:
    """About share * width channels: a multiple of 8, of 4 below 32, at least 4, and never more than there are."""
    wanted = width * share
    step = _LEAST if wanted < _NARROW else _STEP
    return min(width, max(_LEAST, math.floor(wanted / step + 0.5) * step))


def shrink(network: nn.Module, samples: tuple[Tensor, ...], share: float) -> Shrunk:
    """Cut every group of layers that shares a width down to its most important channels.

    Importance is the L2 norm of a channel's weights in all layers of its group. A cut after which the network does not run,
    or gives another shape, is taken back. The network changes; use what is returned.
    Raises NothingToCompressError when nothing could be cut. Source of the groups: Fang et al. 2023, DepGraph.
    """
    prune = _torch_pruning()
    shape = _output_shapes(network, samples)
    widths: dict[str, str] = {}
    whole: dict[str, str] = {}
    done: set[str] = set()
    while (name := _next_layer(network, done)) is not None:
        before = copy.deepcopy(network)
        try:
            members, width, kept = _cut(prune, network, samples, name, share)
            if _output_shapes(network, samples) != shape:
                raise ValueError("the outputs would change their shape")
        except Exception as error:
            network, members, width, kept = before, (name,), 0, 0
            whole[name] = _in_short(error)
        if kept < width:
            widths[name] = f"{width} -> {kept}"
        done |= {name, *members}
    if not widths:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(whole.items())[:3])
        raise NothingToCompressError(
            f"no layer of the teacher can lose channels{f' ({reasons})' if reasons else ''}",
            hint="give the student by `factory`",
        )
    return Shrunk(network, widths, whole)


def reinitialise(network: nn.Module, seed: int) -> None:
    """Fresh weights in place, as each module's own `reset_parameters` draws them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in network.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()


def _cut(prune: Any, network: nn.Module, samples: tuple[Tensor, ...], name: str, share: float) -> tuple[Any, int, int]:
    """Cut the group of one layer in place: the layers that share its width, and its width before and after."""
    with quiet(), torch.enable_grad():
        graph = prune.DependencyGraph().build_dependency(network, example_inputs=samples, verbose=False)
    layer = network.get_submodule(name)
    width = _width(layer)
    cut_outputs = graph.get_pruner_of_module(layer).prune_out_channels
    steps = bound_search(graph)
    group = graph.get_pruning_group(layer, cut_outputs, list(range(width)))
    paths = {module: path for path, module in network.named_modules()}
    members = [
        paths[step.target.module]
        for step, _ in group
        if step.target.module in paths and graph.is_out_channel_pruning_fn(step.handler)
    ]
    importance = prune.importance.GroupMagnitudeImportance(p=2)(group)
    if importance is None or len(importance) != width:
        raise ValueError("its channels have no weights to be ranked by")
    kept = rounded_width(width, share)
    lost = torch.argsort(importance)[: width - kept].tolist()
    if lost:
        steps.taken = 0
        graph.get_pruning_group(layer, cut_outputs, lost).prune()
    return members, width, kept


def _next_layer(network: nn.Module, done: set[str]) -> str | None:
    """The first layer with channels of its own that no group so far held."""
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.Linear)
    return next(
        (name for name, module in network.named_modules() if isinstance(module, kinds) and name not in done), None
    )


def _width(layer: Any) -> int:
    return int(layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels)


def _output_shapes(network: nn.Module, samples: tuple[Tensor, ...]) -> dict[str, torch.Size]:
    network.eval()
    with torch.no_grad():
        return {name: value.shape for name, value in named_outputs(network(*samples)).items()}


def _in_short(error: Exception) -> str:
    text = str(error).splitlines()
    return text[0][:200] if text else type(error).__name__


def _torch_pruning() -> Any:
    try:
        import torch_pruning
    except ImportError as error:
        raise MissingDependencyError(
            "shrinking a teacher", "torch-pruning", "pip install 'compressctl[torch]'"
        ) from error
    return torch_pruning
