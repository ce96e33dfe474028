"""A graph that names its batch and takes only one sample, written as what it is."""

from __future__ import annotations

import onnx

from compressctl.core.model import Signature
from compressctl.graph.tensors import copy_of


def fix_batch(model: onnx.ModelProto, signature: Signature) -> onnx.ModelProto:
    """A copy in which every batch axis of inputs and outputs is 1; the input is not changed."""
    fixed = copy_of(model)
    axes = {spec.name: spec.batch_axis for spec in (*signature.inputs, *signature.outputs)}
    for value in (*fixed.graph.input, *fixed.graph.output):
        axis = axes.get(value.name)
        if axis is not None:
            value.type.tensor_type.shape.dim[axis].dim_value = 1
    del fixed.graph.value_info[:]  # shapes inferred for the open batch
    return fixed
