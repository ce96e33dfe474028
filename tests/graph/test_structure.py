"""What decides how long a graph takes: equal for equal layers, whatever they are called and have learned."""

from dataclasses import replace

import numpy as np
import onnx
from hypothesis import HealthCheck, given, settings
from onnx import TensorProto, helper, numpy_helper
from support.random_graphs import Drawn, graphs

from compressctl.core.model import OnnxModel, Signature
from compressctl.core.quant import QuantPlan, TensorQuant
from compressctl.graph.index import all_graphs
from compressctl.graph.structure import structure_digest

NO_SIGNATURE = Signature((), ())


def digest(model: onnx.ModelProto, quant: QuantPlan | None = None) -> str:
    return structure_digest(OnnxModel(model, NO_SIGNATURE, quant))


def network(prefix: str = "", width: int = 32, stride: int = 1, scale: float = 1.0, seed: int = 0) -> onnx.ModelProto:
    """A convolution, an activation and a reshape, with names that begin so."""
    rng = np.random.default_rng(seed)
    weights = [
        numpy_helper.from_array(scale * rng.standard_normal((width, 3, 3, 3)).astype(np.float32), f"{prefix}w"),
        numpy_helper.from_array(rng.standard_normal(width).astype(np.float32), f"{prefix}b"),
        numpy_helper.from_array(np.array([0, -1]), f"{prefix}shape"),
    ]
    nodes = [
        helper.make_node("Conv", [f"{prefix}x", f"{prefix}w", f"{prefix}b"], [f"{prefix}c"], strides=[stride, stride]),
        helper.make_node("Relu", [f"{prefix}c"], [f"{prefix}r"]),
        helper.make_node("Reshape", [f"{prefix}r", f"{prefix}shape"], [f"{prefix}y"]),
    ]
    x = helper.make_tensor_value_info(f"{prefix}x", TensorProto.FLOAT, [1, 3, 8, 8])
    y = helper.make_tensor_value_info(f"{prefix}y", TensorProto.FLOAT, None)
    return helper.make_model(
        helper.make_graph(nodes, "net", [x], [y], weights), opset_imports=[helper.make_opsetid("", 17)]
    )


def test_names_and_values_of_weights_do_not_count() -> None:
    assert digest(network()) == digest(network("other.", scale=3.0, seed=1))


def test_shapes_attributes_and_numbers_that_decide_shapes_do() -> None:
    reshaped = network()
    reshaped.graph.initializer[2].CopyFrom(numpy_helper.from_array(np.array([1, -1]), "shape"))
    half = network()
    half.graph.initializer[1].CopyFrom(numpy_helper.from_array(np.zeros(32, np.float16), "b"))
    found = [digest(one) for one in (network(), network(width=16), network(stride=2), reshaped, half)]
    assert len(set(found)) == len(found)


def test_how_tensors_are_quantized_counts_and_their_scales_do_not() -> None:
    def plan(scale: float, dtype: str = "int8", axis: int | None = 0) -> QuantPlan:
        count = 32 if axis is not None else 1
        weight = TensorQuant(dtype, np.full(count, scale, np.float32), np.zeros(count, dtype), axis)
        rounded = TensorQuant("uint8", np.array(scale, np.float32), np.array(3, np.uint8))
        return QuantPlan({"x": rounded, "r": rounded}, {"w": weight})

    assert digest(network(), plan(0.1)) == digest(network(), plan(0.7))
    without = replace(plan(0.1), float_nodes={"": "kept"})
    found = [digest(network(), one) for one in (None, plan(0.1), plan(0.1, axis=None), plan(0.1, "uint8"), without)]
    assert len(set(found)) == len(found)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(graphs())
def test_on_any_graph_learned_numbers_do_not_count(drawn: Drawn) -> None:
    before = digest(drawn.model)
    other = onnx.ModelProto()
    other.CopyFrom(drawn.model)
    for graph in all_graphs(other.graph):
        for tensor in graph.initializer:
            values = numpy_helper.to_array(tensor)
            if values.dtype.kind == "f" and values.size > 1:
                tensor.CopyFrom(numpy_helper.from_array((values * 0.5).astype(values.dtype), tensor.name))
    assert digest(other) == before
    for node in other.graph.node:
        node.name += "_other"
    assert digest(other) == before
    other.graph.node.add().CopyFrom(helper.make_node("Identity", [other.graph.node[0].output[0]], ["one_more"]))
    assert digest(other) != before
