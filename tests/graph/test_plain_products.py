"""Gemm with factors and Einsum with a constant become plain products that compute the same."""

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from compressctl.graph.plain_products import as_plain_products
from compressctl.graph.simplify import simplify
from compressctl.graph.weight_nodes import find_weighted

RNG = np.random.default_rng(0)
SIZES = {"a": 2, "b": 3, "c": 4, "d": 5, "e": 2, "f": 3}


def _model(node: onnx.NodeProto, shape: list[int | str], constants: dict[str, np.ndarray]) -> onnx.ModelProto:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    stored = [numpy_helper.from_array(values.astype(np.float32), name) for name, values in constants.items()]
    graph = helper.make_graph([node], "g", [x], [y], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def _run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


@pytest.mark.parametrize("bias", [None, (6,), (1, 6), ()])
@pytest.mark.parametrize("turned", [(0, 0), (1, 0), (0, 1), (1, 1)])
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 1.0), (0.5, 1.0), (1.0, 2.0), (-3.0, 0.25), (1.0, 0.0)])
def test_gemm(alpha: float, beta: float, turned: tuple[int, int], bias: tuple[int, ...] | None) -> None:
    constants = {"w": RNG.standard_normal((6, 4) if turned[1] else (4, 6))}
    if bias is not None:
        constants["c"] = RNG.standard_normal(bias)
    node = helper.make_node(
        "Gemm", ["x", *constants], ["y"], "gemm", alpha=alpha, beta=beta, transA=turned[0], transB=turned[1]
    )
    model = _model(node, [4, 3] if turned[0] else [3, 4], constants)
    x = RNG.standard_normal((4, 3) if turned[0] else (3, 4)).astype(np.float32)
    made = as_plain_products(onnx.ModelProto.FromString(model.SerializeToString()))
    onnx.checker.check_model(onnx.shape_inference.infer_shapes(made, strict_mode=True))
    assert np.allclose(_run(made, x), _run(model, x), atol=1e-5)
    assert [found.weight for found in find_weighted(made.graph)]


@pytest.mark.parametrize(
    ("equation", "steps"),
    [
        ("abc,cd->abd", ["MatMul"]),
        ("abc,dc->abd", ["MatMul"]),
        ("abc,cde->abde", ["MatMul", "Reshape"]),
        ("abcd,cde->abe", ["Reshape", "MatMul"]),
        ("abcd,dce->abe", ["Transpose", "Reshape", "MatMul"]),
        ("abc,bd->adc", ["Transpose", "MatMul", "Transpose"]),
        ("ab,b->a", ["MatMul", "Reshape"]),
        ("ab,bc", ["MatMul"]),
        ("cd,abc->abd", ["MatMul"]),
    ],
)
def test_einsum_takes_no_more_steps_than_it_needs(equation: str, steps: list[str]) -> None:
    terms = equation.partition("->")[0].split(",")
    inputs = ["w", "x"] if equation.startswith("cd,") else ["x", "w"]
    shapes = dict(zip(inputs, ([SIZES[letter] for letter in term] for term in terms), strict=True))
    node = helper.make_node("Einsum", inputs, ["y"], "einsum", equation=equation)
    model = _model(node, list(shapes["x"]), {"w": RNG.standard_normal(shapes["w"])})
    x = RNG.standard_normal(shapes["x"]).astype(np.float32)
    made = as_plain_products(onnx.ModelProto.FromString(model.SerializeToString()))
    assert [step.op_type for step in made.graph.node] == steps
    assert np.allclose(_run(made, x), _run(model, x), atol=1e-5)


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_any_einsum_computes_what_it_did(data: st.DataObject) -> None:
    letters = st.text("abcdef", min_size=1, max_size=4)
    first, second = data.draw(letters), data.draw(letters)
    output = "".join(
        data.draw(st.permutations([letter for letter in sorted({*first, *second}) if data.draw(st.booleans())]))
    )
    node = helper.make_node("Einsum", ["x", "w"], ["y"], "einsum", equation=f"{first},{second}->{output}")
    shapes = [[SIZES[letter] for letter in term] for term in (first, second)]
    model = _model(node, list(shapes[0]), {"w": RNG.standard_normal(shapes[1])})
    x = RNG.standard_normal(shapes[0]).astype(np.float32)
    try:
        wanted = _run(model, x)
    except Exception:
        return  # ONNX Runtime has no diagonal of two inputs
    made = as_plain_products(onnx.ModelProto.FromString(model.SerializeToString()))
    assert np.allclose(_run(made, x), wanted, atol=1e-4)


def test_an_open_batch_stays_open() -> None:
    node = helper.make_node("Einsum", ["x", "w"], ["y"], "einsum", equation="bsd,dhk->bhsk")
    model = _model(node, ["N", "S", 6], {"w": RNG.standard_normal((6, 2, 3))})
    made = simplify(model)
    [weighted] = find_weighted(made.graph)
    assert weighted.op == "MatMul"
    for shape in ((1, 4, 6), (3, 2, 6)):
        x = RNG.standard_normal(shape).astype(np.float32)
        assert np.allclose(_run(made, x), _run(model, x), atol=1e-5)
