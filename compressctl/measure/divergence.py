"""Where two deliverables of one model begin to compute different things."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from compressctl.graph.execute import ActivationRecorder

_NOTICEABLE = 0.10
_PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True)
class Divergence:
    """node: the first product whose outputs differ noticeably, or the one that differs most. share: of the outputs' RMS."""

    node: str
    share: float


def first_divergence(
    one: onnx.ModelProto, other: onnx.ModelProto, inputs: Mapping[str, np.ndarray]
) -> Divergence | None:
    """Both graphs run in ONNX Runtime on the same inputs; products are compared by their nodes' names, before any Q or Relu.

    None when they have no product in common. Differences of arithmetic between runtimes are not seen here, only those of
    what the two files say.
    """
    first, second = (_outputs(model) for model in (one, other))
    common = [name for name in first if name in second]
    if not common:
        return None
    taps = [
        ActivationRecorder(model, [found[name] for name in common]) for model, found in ((one, first), (other, second))
    ]
    values = [tap.run(inputs) for tap in taps]
    shares = {name: _difference(values[0][first[name]], values[1][second[name]]) for name in common}
    name = next((name for name in common if shares[name] > _NOTICEABLE), max(common, key=lambda key: shares[key]))
    return Divergence(name, shares[name])


def _outputs(model: onnx.ModelProto) -> dict[str, str]:
    return {node.name: node.output[0] for node in model.graph.node if node.op_type in _PRODUCTS and node.name}


def _difference(one: np.ndarray, other: np.ndarray) -> float:
    if one.shape != other.shape:
        return float("inf")
    old, new = one.astype(np.float64), other.astype(np.float64)
    rms = float(np.sqrt(np.mean(old**2)))
    return float(np.sqrt(np.mean((old - new) ** 2))) / rms if rms > 0 else float(np.any(new))
