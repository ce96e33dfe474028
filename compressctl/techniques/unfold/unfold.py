"""unfold: norms behind convolutions, which exporting folds in again."""

from __future__ import annotations

import copy
import itertools
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from compressctl.core.data import Split, first_filled
from compressctl.core.errors import NothingToCompressError, UsageError
from compressctl.core.model import TorchModel
from compressctl.core.patterns import matching
from compressctl.core.technique import RunContext, StageResult
from compressctl.graph.torch_outputs import leaves
from compressctl.layers.channels.dependency_groups import example_inputs
from compressctl.techniques.unfold.params import UnfoldParams
from compressctl.training.data import tensor_batches

_NORMS = {nn.Conv1d: nn.BatchNorm1d, nn.Conv2d: nn.BatchNorm2d, nn.Conv3d: nn.BatchNorm3d}

_AT_ONCE = 64


def apply(model: TorchModel, params: UnfoldParams, run: RunContext) -> StageResult:
    """The same function in eval mode. Raises UsageError without samples or for a pattern that matches nothing, NothingToCompressError where no
    convolution lacks a norm."""
    network = copy.deepcopy(model.body).eval()
    bare = bare_convolutions(network, example_inputs(model.signature))
    if not bare:
        raise NothingToCompressError("no convolution lacks a norm", hint="leave unfold out")
    names = matching(params.match, bare, lambda name: (name,), key="match", what="convolution without a norm")
    split = first_filled(run.data, "train", "calibration")
    if split is None:
        raise UsageError("unfold measures means and variances on samples, and there are none", hint="add data")
    seen = _statistics(network, names, split, model, params.samples)
    for name in names:
        owner, _, attribute = name.rpartition(".")
        convolution = network.get_submodule(name)
        both = OrderedDict([("conv", convolution), ("norm", _norm(convolution, seen[name]))])
        setattr(network.get_submodule(owner), attribute, nn.Sequential(both))
    return StageResult(
        replace(model, body=network), {"norms": list(names), "with_a_norm_already": _normalized(model.body)}
    )


def bare_convolutions(network: nn.Module, inputs: Sequence[Tensor]) -> list[str]:
    """Convolutions that run once, whose output no BatchNorm reads and which is no output of the network, in the order in which they run."""
    made: dict[str, list[Tensor]] = {}
    normalized: list[Tensor] = []

    def convolved(name: str, module: nn.Module, given: object, output: Tensor) -> None:
        made.setdefault(name, []).append(output)

    with ExitStack() as hooks, torch.no_grad():
        for name, module in network.named_modules():
            if type(module) in _NORMS:
                hooks.enter_context(module.register_forward_hook(partial(convolved, name)))
            if isinstance(module, _BatchNorm):
                hooks.enter_context(module.register_forward_pre_hook(lambda _, given: normalized.append(given[0])))
        outputs = [value for _, value in leaves(network(*inputs))]
    taken = {id(value) for value in (*normalized, *outputs)}
    return [name for name, values in made.items() if len(values) == 1 and id(values[0]) not in taken]


def _normalized(network: nn.Module) -> int:
    return sum(isinstance(module, _BatchNorm) for module in network.modules())


@dataclass
class _Seen:
    """Of a convolution's channels, in float64."""

    count: int = 0
    total: Tensor | None = None
    squares: Tensor | None = None

    def add(self, output: Tensor) -> None:
        values = output.detach().double().movedim(1, 0).flatten(1)
        total, squares = values.sum(1), values.square().sum(1)
        self.count += values.shape[1]
        self.total = total if self.total is None else self.total + total
        self.squares = squares if self.squares is None else self.squares + squares

    @property
    def mean_and_variance(self) -> tuple[Tensor, Tensor]:
        assert self.total is not None
        assert self.squares is not None
        mean = self.total / self.count
        return mean, (self.squares / self.count - mean.square()).clamp(min=0)


def _statistics(
    network: nn.Module, names: Sequence[str], split: Split, model: TorchModel, samples: int
) -> dict[str, _Seen]:
    """Of all of them in one pass: norms that change nothing leave what comes after them as it is."""
    found = {name: _Seen() for name in names}
    with ExitStack() as hooks, torch.no_grad():
        for name in names:
            module = network.get_submodule(name)
            hooks.enter_context(
                module.register_forward_hook(lambda _, given, output, seen=found[name]: seen.add(output))
            )
        size = min(_AT_ONCE, samples)
        batches = tensor_batches(split, model.signature, size, shuffle_seed=0)
        for batch in itertools.islice(batches, max(1, samples // size)):
            network(*batch.inputs)
    return found


def _norm(convolution: nn.Module, seen: _Seen) -> nn.Module:
    """Whose scale and shift undo what it normalizes."""
    mean, variance = seen.mean_and_variance
    kind = _NORMS[type(convolution)]  # type: ignore[index]
    norm = kind(len(mean)).eval()
    with torch.no_grad():
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)
        norm.weight.copy_((norm.running_var.double() + norm.eps).sqrt())
        norm.bias.copy_(norm.running_mean)
    return norm
