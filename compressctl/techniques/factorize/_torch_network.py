"""Factorizing torch networks: plain layers become `nn.Sequential`s of plain layers."""

from __future__ import annotations

import copy
from collections import OrderedDict, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from compressctl.core.errors import StageError
from compressctl.core.model import TorchModel
from compressctl.graph.torch_outputs import outputs_of
from compressctl.techniques.factorize._layers import Layer, Outline, Piece, Survey

_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_BY_AXES: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


class TorchNetwork:
    """model: a torch model, which stays as it is. example: a batch by input name."""

    before: tuple[str, ...] = ()

    def __init__(self, model: TorchModel, example: Mapping[str, np.ndarray]) -> None:
        self._model = model
        self._network: nn.Module = model.body
        self._example = example

    @property
    def model(self) -> TorchModel:
        return self._model

    def survey(self) -> Survey:
        names = _names(self._network)
        calls = next(self.inputs([name for name, *_ in names.values()], iter([dict(self._example)])))
        samples = len(next(iter(self._example.values())))
        layers, whole = [], {}
        for module, (name, *others) in names.items():
            given = calls.get(name, [])
            reason = self._reason(module, others, given)
            if reason is None:
                layers.append(_layer(name, module, given, samples))
            else:
                whole[name] = reason
        read = self._read_elsewhere([layer.name for layer in layers])
        whole |= dict.fromkeys(sorted(read), "the code around it reads its weight")
        return Survey(tuple(layer for layer in layers if layer.name not in read), whole)

    def inputs(
        self, layers: Sequence[str], batches: Iterator[dict[str, np.ndarray]]
    ) -> Iterator[dict[str, list[np.ndarray]]]:
        seen: dict[str, list[np.ndarray]] = defaultdict(list)

        def keep(name: str) -> Any:
            return lambda module, given: seen[name].append(given[0].detach().float().cpu().numpy())

        hooks = [self._network.get_submodule(name).register_forward_pre_hook(keep(name)) for name in layers]
        try:
            for batch in batches:
                seen.clear()
                outputs_of(replace(self._model, body=self._network), batch)
                yield dict(seen)
        finally:
            for hook in hooks:
                hook.remove()

    def with_pieces(self, chains: Mapping[str, Sequence[Piece]]) -> TorchModel:
        network: nn.Module = copy.deepcopy(self._network)
        for name, pieces in chains.items():
            chain = _chain(network.get_submodule(name), pieces)
            if name:
                network.set_submodule(name, chain)
            else:
                network = chain
        network.eval()
        try:
            outputs_of(replace(self._model, body=network), self._example)
        except Exception as error:
            raise StageError(
                f"the network does not run with factorized layers: {error}",
                hint="its forward may read a layer's weight itself; leave that layer whole with an override",
            ) from error
        known = dict(network.named_parameters())
        sparse = tuple(name for name in self._model.sparse if name in known)
        return replace(self._model, body=network, sparse=sparse)

    def _read_elsewhere(self, names: Sequence[str]) -> set[str]:
        """The layers without whose own attributes the network does not run: each is wrapped once, to see."""
        network = copy.deepcopy(self._network)

        def runs(wrapped: Sequence[str]) -> bool:
            layers = {name: network.get_submodule(name) for name in wrapped}
            for name, layer in layers.items():
                network.set_submodule(name, nn.Sequential(layer))
            try:
                outputs_of(replace(self._model, body=network), self._example)
            except Exception:
                return False
            finally:
                for name, layer in layers.items():
                    network.set_submodule(name, layer)
            return True

        if "" in names or runs(names):
            return set()
        return {name for name in names if not runs([name])}

    def _reason(self, module: nn.Module, others: Sequence[str], given: Sequence[np.ndarray]) -> str | None:
        """Why a layer cannot be factorized."""
        if type(module) is not nn.Linear and type(module) not in _CONVS:
            return f"{type(module).__name__} is not a plain layer: its own code may use the weight otherwise"
        if others:
            return f"it is also used as {', '.join(others)}"
        if sum(parameter is module.weight for parameter in _parameters(self._network)) > 1:
            return "its weight is tied to another layer's"
        if not given:
            return "the network's forward does not call it"
        if type(module) in _CONVS:
            return _conv_reason(module, given)
        return None


def _conv_reason(module: Any, given: Sequence[np.ndarray]) -> str | None:
    if module.groups > 1:
        return f"it has {module.groups} groups: its weight is many small ones already"
    if module.padding_mode != "zeros":
        return f"it pads by {module.padding_mode} values"
    if isinstance(module.padding, str) and any((size - 1) * step % 2 for size, step in _reach(module)):
        return "it pads unevenly"
    if given[0].ndim != 2 + len(module.kernel_size):
        return "it is given a single sample without a batch"
    return None


def _reach(module: Any) -> list[tuple[int, int]]:
    return list(zip(module.kernel_size, module.dilation, strict=True))


def _names(network: nn.Module) -> dict[Any, list[str]]:
    """Every linear layer and convolution with all the names that it goes by."""
    found: dict[Any, list[str]] = defaultdict(list)
    for name, module in network.named_modules(remove_duplicate=False):
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
            found[module].append(name)
    return found


def _parameters(network: nn.Module) -> list[nn.Parameter]:
    """Each as often as a module holds it."""
    return [
        parameter for module in network.modules() for parameter in module._parameters.values() if parameter is not None
    ]


def _layer(name: str, module: Any, given: Sequence[np.ndarray], samples: int) -> Layer:
    shape, dtype = tuple(module.weight.shape), str(module.weight.dtype).removeprefix("torch.")
    weight, bias = _array(module.weight), None if module.bias is None else _array(module.bias)
    op = type(module).__name__
    if isinstance(module, nn.Linear):
        first = given[0].shape
        # A batch that the network folds into other axes, as windows of attention, is counted as rows of one sample.
        rows = int(np.prod(first[:-1])) // samples
        inner = first[1:] if len(first) == 2 or first[0] == samples else (rows, first[-1])
        return Layer(Outline(name, shape), weight, bias, inner, op, len(given), dtype)
    padding = module.padding
    pads = (
        padding * 2
        if not isinstance(padding, str)
        else tuple((size - 1) * step // 2 if padding == "same" else 0 for size, step in _reach(module)) * 2
    )
    outline = Outline(name, shape, tuple(module.stride), tuple(pads), tuple(module.dilation))
    calls = len(given) * max(1, given[0].shape[0] // samples)
    return Layer(outline, weight, bias, given[0].shape[1:], op, calls, dtype)


def _array(parameter: Tensor) -> np.ndarray:
    return parameter.detach().cpu().double().numpy()


def _chain(whole: Any, pieces: Sequence[Piece]) -> nn.Sequential:
    """The pieces as modules, on the layer's device and of its type, each under the last part of its name."""
    return nn.Sequential(
        OrderedDict((piece.outline.name.rsplit(".", 1)[-1], _module(piece, whole.weight)) for piece in pieces)
    )


def _module(piece: Piece, like: Tensor) -> Any:
    part, has_bias = piece.outline, piece.bias is not None
    axes = len(part.kernel)
    where: dict[str, Any] = {"device": like.device, "dtype": like.dtype}
    if not axes:
        module: Any = nn.Linear(part.shape[1], part.shape[0], bias=has_bias, **where)
    else:
        module = _BY_AXES[axes](
            part.shape[1] * part.groups,
            part.shape[0],
            part.kernel,
            part.strides,
            part.pads[:axes],
            part.dilations,
            part.groups,
            bias=has_bias,
            **where,
        )
    with torch.no_grad():
        module.weight.copy_(torch.from_numpy(np.ascontiguousarray(piece.weight)))
        if piece.bias is not None:
            module.bias.copy_(torch.from_numpy(piece.bias))
    return module
