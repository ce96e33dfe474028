"""The layers of a torch network."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from compressctl.core.feeds import zeros
from compressctl.core.model import TorchModel
from compressctl.graph.torch_outputs import outputs_of
from compressctl.layers.layer import Layer, Outline
from compressctl.layers.network import Inputs, See

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
RECURRENT = (nn.LSTM, nn.GRU, nn.RNN)
MATRICES = (nn.RNNBase, nn.modules.conv._ConvTransposeNd)
"""Layers whose weights are matrices, the rest of each row as it is stored, and whose inputs are not watched."""


class TorchNetwork:
    """A copy of the model, with the weights of attention's projections among its layers. See `Network`."""

    said: tuple[str, ...] = ()
    batch_size = 32

    def __init__(
        self, model: TorchModel, *, embeddings: bool = False, matrices: bool = False, input_weights: bool = False
    ) -> None:
        """input_weights: whether what recurrent layers multiply their inputs with is a layer, all directions as one."""
        self._model = replace(model, body=copy.deepcopy(model.body))
        self.body: nn.Module = self._model.body
        self.signature = model.signature
        self._owners, self.skipped = _find(self.body, embeddings, matrices, input_weights)
        self._input_weights = input_weights
        self._order = self._execution_order()

    def layers(self) -> list[Layer]:
        return [self._layer(name, *self._owners[name]) for name in self._order]

    def _layer(self, name: str, path: str, module: nn.Module) -> Layer:
        if self._input_weights and isinstance(module, nn.RNNBase):
            weight = np.concatenate([_array(module.get_parameter(key)) for key in input_weights(module)])
            return Layer(name, type(module).__name__, Outline(path, weight.shape), weight)
        return _layer(name, path, module)

    def write(self, name: str, weight: np.ndarray) -> None:
        parameter = dict(self.body.named_parameters())[name]
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(weight).reshape(parameter.shape))

    def shift(self, name: str, change: np.ndarray) -> None:
        bias = _bias(self._owners[name][1])
        if isinstance(bias, nn.Parameter) and bias.shape == change.shape:
            with torch.no_grad():
                bias.add_(torch.from_numpy(change).to(bias))

    def watch(self, names: Sequence[str], batches: Iterable[Inputs], see: See) -> None:
        def observe(name: str, module: nn.Module, given: tuple[Any, ...], named: Mapping[str, Any]) -> None:
            is_sequence = self._input_weights and isinstance(module, nn.RNNBase)
            values = _sequence_of(given, named) if is_sequence else _input_of(module, given, named)
            if values is not None:
                see(name, values.float().numpy())

        with self._hooked(names, observe):
            for inputs in batches:
                outputs_of(self._model, inputs)

    def outputs(self, inputs: Inputs) -> Mapping[str, np.ndarray]:
        return {name: value.cpu().numpy() for name, value in outputs_of(self._model, inputs).items()}

    def model(self) -> TorchModel:
        return self._model

    def _execution_order(self) -> list[str]:
        """Weights in the order in which their modules first work; those that never do come last."""
        seen: dict[str, None] = {}
        with self._hooked(list(self._owners), lambda name, *_: seen.setdefault(name)):
            outputs_of(self._model, zeros(self.signature.inputs, 2))
        return [*seen, *(name for name in self._owners if name not in seen)]

    @contextmanager
    def _hooked(self, names: Sequence[str], call: Callable[..., Any]) -> Iterator[None]:
        with ExitStack() as hooks:
            for name in names:
                module = self._owners[name][1]
                hooks.enter_context(module.register_forward_pre_hook(partial(call, name), with_kwargs=True))
            yield


def outline_of(path: str, module: Any) -> Outline:
    """A convolution's padding that is not of zeros is taken for zeros: it concerns positions at the border alone."""
    if not isinstance(module, CONVOLUTIONS):
        weight = module.in_proj_weight if isinstance(module, nn.MultiheadAttention) else module.weight
        return Outline(path, tuple(weight.shape))
    if isinstance(module.padding, str):
        reach = [step * (size - 1) for size, step in zip(module.kernel_size, module.dilation, strict=True)]
        around = [total if module.padding == "same" else 0 for total in reach]
        pads = (*(total // 2 for total in around), *(math.ceil(total / 2) for total in around))
    else:
        pads = tuple(module.padding) * 2
    geometry = tuple(module.stride), pads, tuple(module.dilation)
    return Outline(path, tuple(module.weight.shape), *geometry, groups=module.groups)


def _layer(name: str, path: str, module: nn.Module) -> Layer:
    if isinstance(module, MATRICES):
        values = _array(module.get_parameter(name.rpartition(".")[2]))
        matrix = values.reshape(len(values), -1)
        return Layer(name, type(module).__name__, Outline(path, matrix.shape), matrix)
    weight = module.in_proj_weight if isinstance(module, nn.MultiheadAttention) else module.weight
    bias = _bias(module)
    return Layer(
        name, type(module).__name__, outline_of(path, module), _array(weight), None if bias is None else _array(bias)
    )


def input_weights(layer: nn.RNNBase) -> list[str]:
    """The parameters that a recurrent layer multiplies its inputs with, one for each direction."""
    return ["weight_ih_l0", "weight_ih_l0_reverse"][: 2 if layer.bidirectional else 1]


def _sequence_of(given: tuple[Any, ...], named: Mapping[str, Any]) -> Tensor:
    """What a recurrent layer goes through, packed or not."""
    sequence = given[0] if given else named["input"]
    values: Tensor = sequence.data if isinstance(sequence, PackedSequence) else sequence
    return values.detach().cpu()


def _bias(module: nn.Module) -> Any:
    if isinstance(module, MATRICES):
        return None
    return module.in_proj_bias if isinstance(module, nn.MultiheadAttention) else getattr(module, "bias", None)


def _array(parameter: Any) -> np.ndarray:
    values: Tensor = parameter.detach().cpu()
    return (values if values.dtype == torch.float64 else values.float()).numpy().copy()


def _find(
    network: nn.Module, embeddings: bool, matrices: bool, input_weights: bool
) -> tuple[dict[str, tuple[str, nn.Module]], dict[str, str]]:
    """Weight name to (path, module) of what is a layer, and why other matrices belong to none."""
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    owners: dict[str, tuple[str, nn.Module]] = {}
    skipped: dict[str, str] = {}
    for path, module in network.named_modules():
        for key, parameter in module.named_parameters(recurse=False):
            name = names[id(parameter)]
            if parameter.ndim < 2:
                continue
            is_input = input_weights and type(module) in RECURRENT and key == "weight_ih_l0"
            reason = None if is_input else _reason(module, key, embeddings, matrices)
            if reason is not None:
                skipped[name] = reason
            else:
                owners.setdefault(name, (path, module))
    # A table that a linear layer shares stays whole unless tables are meant.
    return {name: owner for name, owner in owners.items() if name not in skipped}, skipped


def _reason(module: nn.Module, key: str, embeddings: bool, matrices: bool) -> str | None:
    """Why a weight is no layer's, None where it is one's."""
    if matrices and isinstance(module, MATRICES) and key.startswith("weight"):
        return None
    if isinstance(module, nn.Embedding):
        return None if embeddings else "an embedding table; `embeddings: true` takes it too"
    if isinstance(module, nn.MultiheadAttention) and key == "in_proj_weight":
        return None
    if isinstance(module, (nn.Linear, *CONVOLUTIONS)) and key == "weight":
        return None
    if key.startswith("original"):
        return "its weight is computed (a parametrization)"
    if not type(module).__module__.startswith("torch."):
        return f"{type(module).__name__} is none of torch's own layers, so that the order of its weights is not known"
    return f"{type(module).__name__} is neither linear nor a convolution"


def _input_of(module: nn.Module, given: tuple[Any, ...], named: Mapping[str, Any]) -> Tensor | None:
    """What the module multiplies its weight with; None where that is not one tensor."""
    tensors = [value for value in (*given, *named.values()) if isinstance(value, Tensor)]
    if isinstance(module, (nn.Embedding, *MATRICES)) or not tensors:
        return None
    if isinstance(module, nn.MultiheadAttention) and any(tensor is not tensors[0] for tensor in tensors[:3]):
        return None  # query, key and value differ: three inputs for one weight
    return tensors[0].detach().cpu()
