import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from compressctl.graph.dynamic_batch import free_batch


def model(nodes, input_shape, output_shape, **constants) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, input_shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, output_shape)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def run(proto: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def batch_of(proto: onnx.ModelProto) -> int | str:
    dim = proto.graph.input[0].type.tensor_type.shape.dim[0]
    return dim.dim_param or dim.dim_value


def test_a_reshape_that_writes_the_batch_down_follows_it_afterwards():
    flatten = [helper.make_node("Reshape", ["x", "shape"], ["y"])]
    freed = free_batch(model(flatten, [1, 2, 3], [1, 6], shape=np.array([1, 6])))
    x = np.arange(24, dtype=np.float32).reshape(4, 2, 3)
    assert freed.reason is None
    assert batch_of(freed.model) == "batch"
    np.testing.assert_array_equal(run(freed.model, x), x.reshape(4, 6))


def test_a_graph_that_mixes_its_samples_stays_fixed():
    """The mean over all axes is of one sample when the batch is 1, and of all samples otherwise."""
    centre = [
        helper.make_node("ReduceMean", ["x"], ["mean"], keepdims=0),
        helper.make_node("Sub", ["x", "mean"], ["y"]),
    ]
    kept = free_batch(model(centre, [1, 3], [1, 3]))
    assert kept.reason == "y depends on which samples share a batch"
    assert batch_of(kept.model) == 1


def test_a_graph_that_folds_the_batch_away_stays_fixed():
    squeeze = [helper.make_node("Reshape", ["x", "shape"], ["y"])]
    kept = free_batch(model(squeeze, [1, 6], [2, 3], shape=np.array([2, 3])))
    assert kept.reason is not None
    assert batch_of(kept.model) == 1


def test_a_free_batch_is_left_alone():
    original = model([helper.make_node("Relu", ["x"], ["y"])], ["N", 3], ["N", 3])
    assert free_batch(original).model is original


def test_the_given_graph_is_not_changed():
    original = model([helper.make_node("Relu", ["x"], ["y"])], [1, 3], [1, 3])
    before = original.SerializeToString()
    assert free_batch(original).model is not original
    assert original.SerializeToString() == before
