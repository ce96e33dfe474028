"""Factorizing torch networks: plain layers become `nn.Sequential`s of plain layers, recurrent ones get a projection before them."""

from __future__ import annotations

import copy
import math
from collections import OrderedDict, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from compressctl.core.errors import StageError
from compressctl.core.failures import refused_in
from compressctl.core.model import TorchModel
from compressctl.graph.torch_outputs import outputs_of
from compressctl.layers.layer import Layer
from compressctl.layers.torch_network import CONVOLUTIONS, RECURRENT, TorchNetwork, input_weights
from compressctl.sources.modules.projected_recurrent import ProjectedRecurrent
from compressctl.techniques.factorize._pieces import STATE_WEIGHT, Piece, Survey, measured

_BY_AXES: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


class TorchChains:
    """model: stays as it is. example: a batch by input name. See `Factorizable`."""

    def __init__(self, model: TorchModel, example: Mapping[str, np.ndarray]) -> None:
        self.network = TorchNetwork(model, input_weights=True)
        self._example = example

    def survey(self) -> Survey:
        known = {layer.owner: layer for layer in self.network.layers()}
        given: dict[str, list[tuple[int, ...]]] = defaultdict(list)
        names = [layer.name for layer in known.values()]
        self.network.watch(names, [self._example], lambda name, inputs: given[name].append(inputs.shape))
        samples = len(next(iter(self._example.values())))
        layers, whole = [], {}
        for module, (name, *others) in _names(self.network.body).items():
            layer = known.get(name)
            shapes = [] if layer is None else given[layer.name]
            reason = self._reason(module, others, shapes)
            if reason is None and layer is not None:
                layers.append(_measured(layer, shapes, samples))
            elif reason is not None:
                whole[name] = reason
            if isinstance(module, nn.RNNBase):
                whole |= _inner_weights(name, module)
        read = self._read_elsewhere([layer.owner for layer in layers])
        whole |= dict.fromkeys(sorted(read), "the code around it reads its weight")
        return Survey(tuple(layer for layer in layers if layer.owner not in read), whole)

    def with_pieces(self, chains: Mapping[str, Sequence[Piece]]) -> TorchModel:
        network: nn.Module = copy.deepcopy(self.network.body)
        for name, pieces in chains.items():
            whole = network.get_submodule(name)
            chain = _projected(whole, pieces) if isinstance(whole, nn.RNNBase) else _chain(whole, pieces)
            if name:
                network.set_submodule(name, chain)
            else:
                network = chain
        network.eval()
        try:
            outputs_of(replace(self.network.model(), body=network), self._example)
        except Exception as error:
            said = "the network does not run with factorized layers"
            raise refused_in(said, error) or StageError(
                f"{said}: {error}",
                hint="its forward may read a layer's weight itself; leave that layer whole with an override",
            ) from error
        model, known = self.network.model(), dict(network.named_parameters())
        sparse = tuple(name for name in model.sparse if name in known)
        return replace(model, body=network, sparse=sparse)

    def _read_elsewhere(self, names: Sequence[str]) -> set[str]:
        """The layers without whose own attributes the network does not run: each is wrapped once, to see."""
        network = copy.deepcopy(self.network.body)

        def runs(wrapped: Sequence[str]) -> bool:
            layers = {name: network.get_submodule(name) for name in wrapped}
            for name, layer in layers.items():
                network.set_submodule(name, _wrapped(layer))
            try:
                outputs_of(replace(self.network.model(), body=network), self._example)
            except Exception:
                return False
            finally:
                for name, layer in layers.items():
                    network.set_submodule(name, layer)
            return True

        if "" in names or runs(names):
            return set()
        return {name for name in names if not runs([name])}

    def _reason(self, module: nn.Module, others: Sequence[str], given: Sequence[tuple[int, ...]]) -> str | None:
        """Why a layer cannot be factorized."""
        if type(module) not in (nn.Linear, *CONVOLUTIONS, *RECURRENT):
            return f"{type(module).__name__} is not a plain layer: its own code may use the weight otherwise"
        if others:
            return f"it is also used as {', '.join(others)}"
        keys = input_weights(module) if isinstance(module, nn.RNNBase) else ["weight"]
        mine = [module.get_parameter(key) for key in keys]
        if sum(parameter is one for parameter in _parameters(self.network.body) for one in mine) > len(mine):
            return "its weight is tied to another layer's"
        if not given:
            return "the network's forward does not call it"
        if type(module) in CONVOLUTIONS:
            return _conv_reason(module, given)
        return None


def _inner_weights(name: str, layer: nn.RNNBase) -> dict[str, str]:
    """Why the other weights of a recurrent layer stay whole."""
    found = {}
    for key, _ in layer.named_parameters():
        if key.startswith("weight_ih") and key not in input_weights(layer):
            found[key] = (
                "it multiplies what the layer before gives inside one module: make each layer a module of its own"
            )
        elif key.startswith("weight_hr"):
            found[key] = "it is a projection of a low rank already"
        elif key.startswith("weight_hh"):
            found[key] = STATE_WEIGHT
    return {f"{name}.{key}" if name else key: reason for key, reason in found.items()}


def _wrapped(layer: nn.Module) -> nn.Module:
    """The layer, called as it was, with attributes of another module."""
    return ProjectedRecurrent.of(nn.Identity(), layer) if isinstance(layer, nn.RNNBase) else nn.Sequential(layer)


def _projected(whole: nn.RNNBase, pieces: Sequence[Piece]) -> ProjectedRecurrent:
    """A recurrent layer whose inputs are projected first; the second piece has its input weights, those of both directions."""
    reduce, expand = pieces
    layer = copy.deepcopy(whole)
    layer.input_size = expand.outline.shape[1]
    keys = input_weights(whole)
    for key, weight in zip(keys, np.split(expand.weight, len(keys)), strict=True):
        values = torch.from_numpy(np.ascontiguousarray(weight)).to(whole.get_parameter(key))
        setattr(layer, key, nn.Parameter(values))
    layer.flatten_parameters()
    return ProjectedRecurrent.of(_module(reduce, whole.get_parameter(keys[0])), layer)


def _conv_reason(module: Any, given: Sequence[tuple[int, ...]]) -> str | None:
    if module.groups > 1:
        return f"it has {module.groups} groups: its weight is many small ones already"
    if module.padding_mode != "zeros":
        return f"it pads by {module.padding_mode} values"
    if isinstance(module.padding, str) and any((size - 1) * step % 2 for size, step in _reach(module)):
        return "it pads unevenly"
    if len(given[0]) != 2 + len(module.kernel_size):
        return "it is given a single sample without a batch"
    return None


def _reach(module: Any) -> list[tuple[int, int]]:
    return list(zip(module.kernel_size, module.dilation, strict=True))


def _names(network: nn.Module) -> dict[Any, list[str]]:
    """Every linear layer, convolution and recurrent layer with all the names that it goes by."""
    found: dict[Any, list[str]] = defaultdict(list)
    for name, module in network.named_modules(remove_duplicate=False):
        if isinstance(module, (nn.Linear, nn.RNNBase, *CONVOLUTIONS)):
            found[module].append(name)
    return found


def _parameters(network: nn.Module) -> list[nn.Parameter]:
    """Each as often as a module holds it."""
    return [
        parameter for module in network.modules() for parameter in module._parameters.values() if parameter is not None
    ]


def _measured(layer: Layer, given: Sequence[tuple[int, ...]], samples: int) -> Layer:
    """given: the shape of each call's input for so many samples."""
    first = given[0]
    if not layer.is_linear:
        return measured(layer, first[1:], len(given) * max(1, first[0] // samples))
    # A batch that the network folds into other axes, as windows of attention, is counted as rows of one sample.
    rows = math.prod(first[:-1]) // samples
    return measured(layer, first[1:] if len(first) == 2 or first[0] == samples else (rows, first[-1]), len(given))


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
