"""Bias correction: what rounded weights shift the mean of each channel by, taken out of the bias."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import helper

from compressctl.core.quant import QuantPlan
from compressctl.graph.codes import weight_values
from compressctl.graph.edit import GraphEditor
from compressctl.graph.execute import ActivationRecorder
from compressctl.graph.index import index
from compressctl.graph.sites import Site
from compressctl.graph.tensors import copy_of, from_array


def correctable(site: Site) -> bool:
    """Whether a site has, or can be given, a bias that its runtime adds for nothing."""
    return site.op in ("Conv", "Gemm") and site.weight is not None


def corrected_biases(
    model: onnx.ModelProto, sites: Sequence[Site], plan: QuantPlan, means: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """b - E[(Wq - W) x] for the bias b of every correctable site, by node: (channels,), the weight's dtype.

    means: the mean of each site's input over samples, without the batch axis. A convolution is linear, so the mean of its
    outputs is its output for the mean input: padding and strides are exact. Source: Nagel et al. 2019, Data-Free
    Quantization, section 4.2, with means measured on calibration data.
    """
    looked_up = index(model.graph)
    nodes = {node.name: node for node in model.graph.node}
    biases = {}
    for site in sites:
        mean = means.get(site.inputs[0])
        quant = plan.weights.get(site.weight or "")
        if not correctable(site) or quant is None or mean is None or mean.ndim == 0:
            continue
        weight = looked_up.array(site.weight or "")
        assert weight is not None
        shift = channel_means(nodes[site.node], weight_values(weight, quant) - weight, mean, model)
        biases[site.node] = shifted_back(looked_up.array(site.bias) if site.bias else None, shift, weight.dtype)
    return biases


def shifted_back(bias: np.ndarray | None, shift: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """What a bias has to be, so that outputs shifted by so much keep their mean."""
    return ((0 if bias is None else bias.reshape(-1)) - shift).astype(dtype)


def with_biases(model: onnx.ModelProto, biases: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    """The model with other biases, by node; the argument is not changed. Constants may be shared, so each gets its own."""
    changed = copy_of(model)
    editor = GraphEditor(changed.graph)
    for node in changed.graph.node:
        if node.name in biases:
            name = editor.constant(biases[node.name], node.name, "corrected_bias")
            node.input[:] = [*node.input[:2], name]
    return changed


def channel_means(node: onnx.NodeProto, weight: np.ndarray, mean: np.ndarray, model: onnx.ModelProto) -> np.ndarray:
    """(channels,): the node with another weight and no bias, run on one mean sample, averaged over positions."""
    # Before opset 11 a Gemm must have a bias.
    none = {"b": np.zeros(1, np.float32)} if node.op_type == "Gemm" else {}
    alone = helper.make_node(node.op_type, ["x", "w", *none], ["y"], name="alone")
    alone.attribute.extend(node.attribute)
    shape = (1, *mean.shape)
    graph = helper.make_graph(
        [alone],
        "alone",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
        [onnx.ValueInfoProto(name="y")],
        [from_array(values.astype(np.float32), name) for name, values in {"w": weight, **none}.items()],
    )
    wrapped = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    output = ActivationRecorder(wrapped, ["y"], threads=1).run({"x": mean.reshape(shape).astype(np.float32)})["y"]
    return output.reshape(output.shape[1], -1).mean(axis=1, dtype=np.float64)  # type: ignore[no-any-return]
