"""One zero instead of two, so that zeros are equal bits and pack as one value."""

from __future__ import annotations

import numpy as np
import onnx

from compressctl.graph.tensors import from_array, to_array


def one_zero(graph: onnx.GraphProto) -> None:
    """Write -0.0 in float weights as 0.0, in place.

    A pruned weight times a negative scale is -0.0. A product with either adds nothing to a sum, but coders, codebooks and masks see
    two values. Constants with fewer than two axes are left alone: a division by a scalar may want its sign.
    """
    for tensor in graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT or len(tensor.dims) < 2:
            continue
        values = to_array(tensor)
        if (np.signbit(values) & (values == 0)).any():
            tensor.CopyFrom(from_array(values + np.float32(0), tensor.name))
