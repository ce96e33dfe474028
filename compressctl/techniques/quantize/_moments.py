"""What layers' inputs look like on calibration data, as far as rounding their weights depends on it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import tee

import numpy as np
import onnx

from compressctl.core.data import Split
from compressctl.core.errors import StageError
from compressctl.core.events import Events
from compressctl.core.model import Signature
from compressctl.graph.execute import ActivationRecorder
from compressctl.graph.index import attribute
from compressctl.graph.piecewise import Arrays, PiecewiseRun
from compressctl.graph.weight_nodes import WeightNode
from compressctl.numerics.second_moments import SecondMoments
from compressctl.techniques.quantize._calibrate import batch_size, calibration_batches
from compressctl.techniques.quantize._rows import Rows, input_rows, matrix_rows

_MOST_ROWS = 4096
"""Of one tensor in one batch: positions of a large feature map repeat each other, so an even part of them will do."""


@dataclass(frozen=True)
class Moments:
    """second: (columns, columns) float64, the mean of x x^T as more samples are expected to show it (`SecondMoments`). magnitude: (columns,)
    float64, the mean of |x|. rows: how many."""

    second: np.ndarray
    magnitude: np.ndarray
    rows: int


class Walk:
    """Calibration data on its way through a network, layer by layer."""

    def __init__(self, signature: Signature, split: Split, events: Events) -> None:
        self._signature, self._split, self._events = signature, split, events
        self._run = PiecewiseRun()
        self._size: int | None = None

    def moments(self, model: onnx.ModelProto, nodes: Sequence[WeightNode]) -> dict[str, Moments]:
        """By node, over the whole split: of a matrix product's inputs, and of a convolution's, kernel positions included.

        model: the same nodes at every call; weights may differ. Nodes that read one tensor in the same way share their moments.
        Convolutions in groups are left out: each group has inputs of its own. Positions that the input `attention_mask` leaves out do
        not count. Raises UsageError without a call's samples, StageError when an input holds NaN or infinity.
        """
        made = {node.name: node for node in model.graph.node}
        kept = [node for node in nodes if node.op != "Gather" and not _has_groups(made[node.node])]
        if not kept:
            return {}
        weights = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
        sums: dict[tuple[str, bytes], _Sum] = {}
        ways = {node.node: (node.input, _way(made[node.node], weights[node.weight])) for node in kept}
        for inputs, values in self._look(model, list(dict.fromkeys(node.input for node in kept))):
            for node in {ways[node.node]: node for node in kept}.values():
                rows = input_rows(values[node.input], made[node.node], weights[node.weight], inputs, _MOST_ROWS)
                if not np.isfinite(rows.values).all():
                    raise StageError(
                        f"tensor {node.input}: the values hold NaN or infinity on calibration data",
                        hint="check the data's scaling and the float model's outputs",
                    )
                sums.setdefault(ways[node.node], _Sum(rows.values.shape[1])).add(rows)
        found = {way: total.moments() for way, total in sums.items()}
        return {node.node: found[ways[node.node]] for node in kept}

    def _look(self, model: onnx.ModelProto, tensors: Sequence[str]) -> Iterator[tuple[Arrays, Arrays]]:
        """By batch, the model's inputs and the tensors."""
        if self._size is None:  # batches stay as they are from piece to piece
            self._size = batch_size(
                self._split, self._signature, lambda inputs: next(PiecewiseRun().look(model, tensors, [inputs]))
            )
        first, second = tee(
            inputs for inputs, _ in calibration_batches(self._split, self._signature, self._size, self._events)
        )
        return zip(first, self._run.look(model, tensors, second), strict=True)


def input_maxima(
    model: onnx.ModelProto, signature: Signature, split: Split, nodes: Sequence[WeightNode], events: Events
) -> dict[str, np.ndarray]:
    """By tensor that matrix products read: (channels,) float32, the largest |x| of each over the whole split.

    Positions that the input `attention_mask` leaves out do not count. Raises UsageError without a call's samples.
    """
    tapped = ActivationRecorder(model, list(dict.fromkeys(node.input for node in nodes)))
    found: dict[str, np.ndarray] = {}
    size = batch_size(split, signature, tapped.run)
    for inputs, _ in calibration_batches(split, signature, size, events, "finding outliers"):
        for tensor, values in tapped.run(inputs).items():
            largest = np.abs(matrix_rows(values, inputs).values).max(axis=0)
            found[tensor] = np.maximum(found[tensor], largest) if tensor in found else largest
    return found


class _Sum:
    def __init__(self, columns: int) -> None:
        self._second, self._magnitude, self._rows = SecondMoments(columns), np.zeros(columns), 0

    def add(self, rows: Rows) -> None:
        self._second.add(rows.values, rows.samples)
        self._magnitude += np.abs(rows.values).sum(axis=0, dtype=np.float64)
        self._rows += len(rows.values)

    def moments(self) -> Moments:
        """Once, in the memory of the sums."""
        return Moments(self._second.matrices()[0], self._magnitude / max(self._rows, 1), self._rows)


def _has_groups(node: onnx.NodeProto) -> bool:
    return node.op_type == "Conv" and attribute(node, "group", 1) != 1


def _way(node: onnx.NodeProto, weight: Sequence[int]) -> bytes:
    """How a node reads its input: all matrix products alike, convolutions as kernel and attributes say."""
    if node.op_type != "Conv":
        return b""
    return repr((tuple(weight[2:]), sorted(entry.SerializeToString() for entry in node.attribute))).encode()
