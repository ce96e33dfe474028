"""The prunable weights of a torch network."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from compressctl.core.data import Split
from compressctl.core.model import Signature
from compressctl.numerics.patches import output_positions, patches
from compressctl.techniques.prune._sparse_layers import Layer, See, drawn
from compressctl.training.data import tensor_batches

_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_BATCH = 32


class TorchWeights:
    """network: changed in place. embeddings: whether tables count as prunable. See `Weights`."""

    def __init__(self, network: nn.Module, signature: Signature, *, embeddings: bool, seed: int) -> None:
        self._network = network
        self._signature = signature
        self._seed = seed
        self._owners, self.skipped = _find(network, embeddings)
        self._order = self._execution_order()

    def layers(self) -> list[Layer]:
        parameters = dict(self._network.named_parameters())
        found = []
        for name in self._order:
            path, module = self._owners[name]
            weight = to_canonical(parameters[name].detach().cpu().numpy())
            groups = module.groups if isinstance(module, _CONVS) else 1
            found.append(Layer(name, (path, type(module).__name__), weight, groups))
        return found

    def write(self, name: str, weight: np.ndarray) -> None:
        parameter = dict(self._network.named_parameters())[name]
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(from_canonical(weight, tuple(parameter.shape))))

    def shift(self, name: str, change: np.ndarray) -> None:
        module = self._owners[name][1]
        bias = module.in_proj_bias if isinstance(module, nn.MultiheadAttention) else getattr(module, "bias", None)
        if isinstance(bias, nn.Parameter) and bias.shape == change.shape:
            with torch.no_grad():
                bias.add_(torch.from_numpy(change).to(bias))

    def watch(self, names: Sequence[str], split: Split, see: See, rows: int) -> None:
        rng = np.random.default_rng(self._seed)

        def observe(name: str, module: nn.Module, given: tuple[Any, ...], named: Mapping[str, Any]) -> None:
            values = _input_of(module, name, given, named)
            if values is not None:
                see(name, _rows(module, values, rows, rng))

        with self._hooked(names, observe):
            for batch in tensor_batches(split, self._signature, _BATCH):
                self._run(batch.inputs)

    def body(self) -> nn.Module:
        return self._network

    def _execution_order(self) -> list[str]:
        """Weights in the order in which their modules first work; those that never do come last."""
        seen: dict[str, None] = {}
        zeros = tuple(
            torch.zeros([2, *map(int, spec.shape[1:])], dtype=getattr(torch, spec.dtype))
            for spec in self._signature.inputs
        )
        with self._hooked(list(self._owners), lambda name, *_: seen.setdefault(name)):
            self._run(zeros)
        return [*seen, *(name for name in self._owners if name not in seen)]

    def _run(self, inputs: tuple[Tensor, ...]) -> None:
        device = next((parameter.device for parameter in self._network.parameters()), torch.device("cpu"))
        with torch.no_grad():
            self._network.eval()(*(tensor.to(device) for tensor in inputs))

    @contextmanager
    def _hooked(self, names: Sequence[str], call: Any) -> Iterator[None]:
        def hook_of(name: str) -> Any:
            return lambda module, given, named: call(name, module, given, named)

        handles = [self._owners[name][1].register_forward_pre_hook(hook_of(name), with_kwargs=True) for name in names]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def to_canonical(weight: np.ndarray) -> np.ndarray:
    """(out, in, *kernel) as (out, positions, in), float32, a copy."""
    flat = weight.reshape(*weight.shape[:2], -1)
    # Where there is one position or one channel nothing moves: without a copy this would be the parameter's own memory.
    return np.array(np.moveaxis(flat, 1, 2), dtype=np.float32, order="C")


def from_canonical(weight: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """(out, positions, in) as (out, in, *kernel), a copy."""
    return np.ascontiguousarray(np.moveaxis(weight, 2, 1)).reshape(shape)


def _find(network: nn.Module, embeddings: bool) -> tuple[dict[str, tuple[str, nn.Module]], dict[str, str]]:
    """Weight name to (path, module) of what is prunable, and why other matrices are not."""
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    owners: dict[str, tuple[str, nn.Module]] = {}
    skipped: dict[str, str] = {}
    for path, module in network.named_modules():
        for key, parameter in module.named_parameters(recurse=False):
            name = names[id(parameter)]
            if parameter.ndim < 2:
                continue
            reason = _unprunable(module, key, embeddings)
            if reason is not None:
                skipped[name] = reason
            else:
                owners.setdefault(name, (path, module))
    # A table that a linear layer shares stays whole unless tables are meant.
    return {name: owner for name, owner in owners.items() if name not in skipped}, skipped


def _unprunable(module: nn.Module, key: str, embeddings: bool) -> str | None:
    if isinstance(module, nn.Embedding):
        return None if embeddings else "an embedding table; `embeddings: true` prunes it"
    if isinstance(module, nn.MultiheadAttention) and key == "in_proj_weight":
        return None
    if isinstance(module, (nn.Linear, *_CONVS)) and key == "weight":
        return None
    if key.startswith("original"):
        return "its weight is computed (a parametrization)"
    if not type(module).__module__.startswith("torch."):
        return f"{type(module).__name__} is none of torch's own layers, so that the order of its weights is not known"
    return f"{type(module).__name__} is neither linear nor a convolution"


def _input_of(module: nn.Module, name: str, given: tuple[Any, ...], named: Mapping[str, Any]) -> Tensor | None:
    """What the module multiplies its weight with; None where that is not one tensor."""
    tensors = [value for value in (*given, *named.values()) if isinstance(value, Tensor)]
    if isinstance(module, nn.Embedding) or not tensors:
        return None
    if isinstance(module, nn.MultiheadAttention) and any(tensor is not tensors[0] for tensor in tensors[:3]):
        return None  # query, key and value differ: three inputs for one weight
    return tensors[0].detach().cpu()


def _rows(module: nn.Module, values: Tensor, limit: int, rng: np.random.Generator) -> np.ndarray:
    array = values.float().numpy()
    if not isinstance(module, _CONVS):
        flat = array.reshape(-1, 1, array.shape[-1])
        return flat if len(flat) <= limit else flat[drawn(len(flat), limit, rng)]
    if array.ndim == len(module.kernel_size) + 1:
        array = array[None]
    # Padding that is not of zeros is taken for zeros: it concerns positions at the border alone.
    geometry = (module.kernel_size, module.stride, _pads(module), module.dilation)
    count = output_positions(array, *geometry)
    return patches(array, *geometry, rows=drawn(count, limit, rng))


def _pads(module: Any) -> list[tuple[int, int]]:
    if module.padding == "valid":
        return [(0, 0)] * len(module.kernel_size)
    if module.padding == "same":
        totals = [step * (size - 1) for step, size in zip(module.dilation, module.kernel_size, strict=True)]
        return [(total // 2, math.ceil(total / 2)) for total in totals]
    return [(pad, pad) for pad in module.padding]
