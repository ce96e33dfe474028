"""BatchNormalization that follows a convolution, computed into the convolution's weights."""

from __future__ import annotations

import numpy as np
import onnx

from compressctl.graph.edit import GraphEditor
from compressctl.graph.index import GraphIndex, attribute, index
from compressctl.graph.tensors import to_array

_OUT_CHANNELS_AXIS = {"Conv": 0, "ConvTranspose": 1}


def fold_norms(graph: onnx.GraphProto) -> None:
    """Fold in place every inference-mode BatchNormalization whose convolution feeds nothing else.

    Exporters fold most; they leave those whose convolution shares its weight with another. The folded weight is a constant
    of its own, so that the other keeps what it has.
    """
    editor = GraphEditor(graph)
    for norm in [node for node in graph.node if node.op_type == "BatchNormalization"]:
        looked_up = index(graph)
        conv = looked_up.producers.get(norm.input[0])
        if conv is not None and _can_fold(conv, norm, looked_up):
            _fold(editor, conv, norm, looked_up)
    editor.close()


def _can_fold(conv: onnx.NodeProto, norm: onnx.NodeProto, looked_up: GraphIndex) -> bool:
    if conv.op_type not in _OUT_CHANNELS_AXIS or attribute(norm, "training_mode", 0):
        return False
    if conv.op_type == "ConvTranspose" and attribute(conv, "group", 1) != 1:
        return False  # its weight holds the output channels of one group only
    is_constant = all(name in looked_up.initializers for name in (*conv.input[1:], *norm.input[1:]) if name)
    return is_constant and looked_up.only_consumer(conv.output[0]) is not None


def _fold(editor: GraphEditor, conv: onnx.NodeProto, norm: onnx.NodeProto, looked_up: GraphIndex) -> None:
    scale, shift, mean, variance = (_float64(looked_up, name) for name in norm.input[1:5])
    factor = scale / np.sqrt(variance + float(str(attribute(norm, "epsilon", 1e-5))))
    weight = _float64(looked_up, conv.input[1])
    bias = _float64(looked_up, conv.input[2]) if len(conv.input) > 2 and conv.input[2] else np.zeros_like(mean)
    along = [1] * weight.ndim
    along[_OUT_CHANNELS_AXIS[conv.op_type]] = -1
    dtype = to_array(looked_up.initializers[conv.input[1]]).dtype
    folded = {"weight": weight * factor.reshape(along), "bias": (bias - mean) * factor + shift}
    names = [editor.constant(value.astype(dtype), f"{conv.name}.folded.{role}") for role, value in folded.items()]
    conv.input[:] = [conv.input[0], *names]
    conv.output[0] = norm.output[0]
    editor.graph.node.remove(norm)


def _float64(looked_up: GraphIndex, name: str) -> np.ndarray:
    return to_array(looked_up.initializers[name]).astype(np.float64)
