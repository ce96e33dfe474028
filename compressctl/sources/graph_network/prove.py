"""Whether the network computes what the file does, node by node."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from torch import Tensor

from compressctl.core.errors import UsageError, in_short
from compressctl.core.failures import refused_in
from compressctl.graph.execute import ActivationRecorder
from compressctl.sources.graph_network import numbers
from compressctl.sources.graph_network.network import GraphNetwork
from compressctl.sources.graph_network.words import CANNOT, HINT, NoCounterpartError

MOST = 1e-3
"""Root mean square of the difference over that of the values: sums in another order are some 1e-6 apart, and deep networks add that up."""


_SMALLEST = 1e-4
"""Size of values below which their differences count as if they were of it: saturated activations differ by all of next to nothing."""


@dataclass(frozen=True)
class Apart:
    """node: the first that differs although what it reads does not, with its operator. share: by how much."""

    node: str
    op: str
    share: float


def proven(network: GraphNetwork, model: onnx.ModelProto, inputs: Mapping[str, np.ndarray]) -> None:
    """Raises UsageError where outputs differ by more than rounding, naming the node."""
    there = ActivationRecorder(model, list(network.outputs)).run(dict(inputs))
    here = _outputs(network, inputs)
    if all(_share(here[name], there[name]) <= MOST for name in network.outputs):
        return
    found = first_apart(network, model, inputs)
    if found is not None:
        raise UsageError(
            f"{CANNOT}: torch's counterpart of node {found.node} ({found.op}) computes something else (by {found.share:.1%} of its size)",
            hint=HINT,
        )


def first_apart(network: GraphNetwork, model: onnx.ModelProto, inputs: Mapping[str, np.ndarray]) -> Apart | None:
    """The first step that makes something else than its nodes do of equal inputs; None where every one makes the same up to rounding: what outputs
    differ by in the end is then rounding that the network itself makes larger."""
    made = {name: node for node in model.graph.node for name in node.output if name}
    there = ActivationRecorder(
        model, sorted({name for step in network.steps for name in step["writes"]} & made.keys())
    ).run(dict(inputs))
    known = network.given(*_tensors(network, inputs))
    for step in network.steps:
        with torch.no_grad():
            found = network.made(step, known)
        for name, value in zip(step["writes"], found, strict=False):
            known[name] = value
            if name not in there:
                continue
            share = _share(numbers.as_tensor(value).numpy(), there[name])
            if share > MOST:
                return Apart(made[name].name, made[name].op_type, share)
            if isinstance(value, Tensor):
                known[name] = torch.from_numpy(np.array(there[name]))
    return None


def _outputs(network: GraphNetwork, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    try:
        with torch.no_grad():
            return {name: value.numpy() for name, value in network(*_tensors(network, inputs)).items()}
    except NoCounterpartError as error:
        raise UsageError(f"{CANNOT}: torch has no counterpart of {error}", hint=HINT) from error
    except Exception as error:
        said = f"{CANNOT}: its counterpart in torch does not run"
        raise refused_in(said, error) or UsageError(f"{said}: {in_short(error)}", hint=HINT) from error


def _tensors(network: GraphNetwork, inputs: Mapping[str, np.ndarray]) -> list[Tensor]:
    return [torch.from_numpy(np.array(inputs[name])) for name in network.inputs]


def _share(one: np.ndarray, other: np.ndarray) -> float:
    """Infinite where shapes differ."""
    if one.shape != other.shape:
        return float("inf")
    first, second = (np.nan_to_num(np.asarray(values, np.float64)) for values in (one, other))
    return _size(first - second) / max(_size(second), _SMALLEST)


def _size(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2))) if values.size else 0.0
