"""Names inside a file: what users see stays, the rest takes a letter or two."""

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from compressctl.graph.canonical import canonical
from compressctl.graph.short_names import with_short_names

LONG = "a_layer/with/a/very/long/name;that_an_exporter/wrote"


def branching() -> onnx.ModelProto:
    """y = x * w, then + 1 or - 1 by `flag`, in branches that read the outer product; one input is called `a`."""
    value = helper.make_tensor_value_info
    bodies = [
        helper.make_graph(
            [helper.make_node(operator, [LONG, f"{LONG}/one"], [f"{LONG}/{operator}"])],
            "body",
            [],
            [value(f"{LONG}/{operator}", TensorProto.FLOAT, [2])],
        )
        for operator in ("Add", "Sub")
    ]
    nodes = [
        helper.make_node("Mul", ["a", f"{LONG}/w"], [LONG], LONG),
        helper.make_node("If", ["flag"], ["y"], then_branch=bodies[0], else_branch=bodies[1]),
    ]
    constants = [numpy_helper.from_array(np.float32([n, n]), f"{LONG}/{name}") for n, name in ((3, "w"), (1, "one"))]
    inputs = [value("a", TensorProto.FLOAT, [2]), value("flag", TensorProto.BOOL, [])]
    graph = helper.make_graph(nodes, "g", inputs, [value("y", TensorProto.FLOAT, [2])], constants)
    return canonical(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9))


def computed(model: onnx.ModelProto, flag: bool) -> list[float]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(["y"], {"a": np.float32([1, 2]), "flag": np.array(flag)})[0])


def test_the_same_is_computed_by_the_same_inputs_and_outputs_also_in_branches() -> None:
    made = with_short_names(branching())
    assert [computed(made, flag) for flag in (True, False)] == [[4, 7], [2, 5]]
    onnx.checker.check_model(made, full_check=True)


def test_no_long_name_is_left() -> None:
    data = with_short_names(branching()).SerializeToString()
    assert b"exporter" not in data
    assert len(data) < 350 < len(branching().SerializeToString())
