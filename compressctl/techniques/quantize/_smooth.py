"""SmoothQuant: outliers of activations move into the weights that read them, before anything is rounded."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx

from compressctl.core.errors import UsageError
from compressctl.core.model import OnnxModel
from compressctl.core.technique import RunContext
from compressctl.graph.index import index
from compressctl.graph.scale_inputs import scale_inputs
from compressctl.graph.weight_nodes import WeightNode, find_weighted
from compressctl.numerics.equalize import smoothing
from compressctl.techniques.quantize._moments import input_maxima


def smoothed(
    body: onnx.ModelProto, model: OnnxModel, alpha: float, run: RunContext
) -> tuple[onnx.ModelProto, dict[str, str]]:
    """A graph that computes the same in float, and by tensor which node took its division.

    Every input of the main graph's matrix products with constant weights is smoothed: into the normalization in front where it alone feeds
    them, with a Mul of its own otherwise. Raises UsageError without data to see outliers in.
    """
    if run.data is None:
        raise UsageError(
            "smoothing looks at the largest activations, and the recipe has no data",
            hint="add `data` with a calibration split, or remove `smoothquant_alpha`",
        )
    nodes = [node for node in find_weighted(body.graph) if node.op in ("MatMul", "Gemm") and node.is_watched]
    largest = input_maxima(body, model.signature, run.data.split("calibration"), nodes, run.events)
    found = index(body.graph)
    scales: dict[str, np.ndarray] = {}
    for tensor, seen in largest.items():
        weights = _largest_weights([node for node in nodes if node.input == tensor], found.array)
        scale = smoothing(seen, weights, alpha)
        scales[tensor] = (scale / np.exp(np.log(scale).mean())).astype(np.float32)
    return scale_inputs(body, scales, nodes)


def _largest_weights(readers: Sequence[WeightNode], array: Callable[[str], np.ndarray | None]) -> np.ndarray:
    """(columns,): the largest |w| of all products that read the tensor."""
    matrices = [node.matrix(values) for node in readers if (values := array(node.weight)) is not None]
    return np.asarray(np.max([np.abs(matrix).max(axis=0) for matrix in matrices], axis=0))
