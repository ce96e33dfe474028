import json
import os
import re

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.shell import Shell


@pytest.fixture
def compressctl(tmp_path):
    return Shell(tmp_path, dict(os.environ)).run


@pytest.fixture
def path(tmp_path):
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="stem", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["y"], name="act"),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 8, 8])],
        [numpy_helper.from_array(np.ones((4, 3, 3, 3), np.float32), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    onnx.save(model, tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


def test_json_tells_the_file_as_it_is(compressctl, path):
    done = compressctl("inspect", "--json", str(path))
    document = json.loads(done.out)
    assert done.code == 0
    assert document["ir_version"] == 9
    assert document["opsets"] == {"ai.onnx": 19}
    assert document["inputs"] == [{"name": "x", "dtype": "float32", "shape": [1, 3, 8, 8]}]
    assert document["stored_bytes"] == {"float32": 432}
    assert document["parameters"] == 4 * 3 * 3 * 3
    assert document["macs"] == 4 * 8 * 8 * 3 * 3 * 3
    assert [(layer["name"], layer["size_share"]) for layer in document["layers"]] == [("stem", 1.0), ("act", 0.0)]


def test_the_table_shows_layers_that_hold_or_compute_something(compressctl, path):
    text = compressctl("inspect", str(path)).out
    assert re.search(r"stem +Conv +1x4x8x8 +108 +6,912 +100\.0 %", text)
    assert "act" not in text
    assert "1 node without parameters and MACs is not shown" in text


def test_all_nodes_are_shown_when_asked_for(compressctl, path):
    assert re.search(r"act +Relu +1x4x8x8", compressctl("inspect", "--all", str(path)).out)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("nope.onnx", "does not exist"),
        ("builtin:nope", "there is no built-in network 'nope'"),
        ("model.h5", "is no model that can be inspected"),
    ],
)
def test_what_cannot_be_inspected_is_a_usage_error(compressctl, argument, message):
    done = compressctl("inspect", argument)
    assert done.code == 2
    assert message in done.err
    assert "Traceback" not in done.err


def test_a_built_in_network_is_shown_as_the_graph_it_lowers_to(compressctl):
    pytest.importorskip("torch")
    document = json.loads(compressctl("inspect", "--json", "builtin:digits-resnet").out)
    names = [layer["name"] for layer in document["layers"]]
    assert {"stem.conv", "block4.shortcut.conv", "classifier"} <= set(names)
    assert 50_000 <= document["parameters"] <= 150_000


def test_a_recipe_shows_its_model(compressctl, path):
    (path.parent / "recipe.yaml").write_text(
        "recipe: compressctl/v1\nname: shown\nmodel: {source: onnx, path: net.onnx}\n"
    )
    document = json.loads(compressctl("inspect", "--json", str(path.parent / "recipe.yaml")).out)
    assert [layer["name"] for layer in document["layers"]] == ["stem", "act"]


@pytest.fixture
def open_sizes(tmp_path):
    """Weights in a Constant node, height open by name, width open without one."""
    nodes = [
        helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(np.ones((4, 3, 3, 3), np.float32), "v")),
        helper.make_node("Conv", ["x", "w"], ["y"], name="stem", pads=[1, 1, 1, 1]),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, "H", None])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4, "H", None])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)]), tmp_path / "open.onnx")
    return str(tmp_path / "open.onnx")


def test_macs_that_depend_on_an_open_axis_are_unknown_and_say_what_tells_them(compressctl, open_sizes):
    document = json.loads(compressctl("inspect", "--json", open_sizes).out)
    assert (document["macs"], document["macs_at_least"], document["macs_unknown"]) == (None, None, {"Conv": 1})
    assert [layer["macs"] for layer in document["layers"] if layer["op"] == "Conv"] == [None]
    assert [(axis["name"], axis["size"]) for axis in document["open_axes"]] == [("N", 1), ("H", None), ("x.3", None)]
    assert document["stored_bytes"] == {"float32": 432}
    text = compressctl("inspect", open_sizes).out
    assert re.search(r"stem +Conv +1x4x\?x\? +108 +unknown", text)
    assert "open axes  N = 1 (taken for the batch), H, x.3" in text
    assert "--shape H=SIZE --shape x.3=SIZE" in text


@pytest.mark.parametrize(
    ("sizes", "batch"), [(["H=8", "x.3=10"], 1), (["x.2=8", "x.3=10"], 1), (["N=2", "H=8", "x.3=10"], 2)]
)
def test_sizes_of_open_axes_decide_macs(compressctl, open_sizes, sizes, batch):
    options = [part for size in sizes for part in ("--shape", size)]
    document = json.loads(compressctl("inspect", "--json", open_sizes, *options).out)
    assert document["macs"] == batch * 4 * 8 * 10 * 27
    text = compressctl("inspect", open_sizes, *options).out
    assert "unknown" not in text
    assert "H = 8, x.3 = 10" in text


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("W=8", "no open axis 'W'"),
        ("x.1=8", "no open axis 'x.1'"),
        ("H", "not NAME=SIZE"),
        ("H=0", "not NAME=SIZE"),
        ("H=tall", "not NAME=SIZE"),
        ("H=²", "not NAME=SIZE"),
    ],
)
def test_a_size_that_fits_no_open_axis_is_a_usage_error(compressctl, open_sizes, said, message):
    done = compressctl("inspect", open_sizes, "--shape", said)
    assert done.code == 2
    assert message in done.err
    assert "Traceback" not in done.err


def test_outputs_that_are_no_tensors_are_called_what_they_are(compressctl, tmp_path):
    nodes = [
        helper.make_node(
            "LinearClassifier", ["x"], ["label", "p"], domain="ai.onnx.ml", coefficients=[0.1] * 8,
            intercepts=[0.0, 0.0], classlabels_ints=[0, 1],
        ),
        helper.make_node("ZipMap", ["p"], ["probabilities"], domain="ai.onnx.ml", classlabels_int64s=[0, 1]),
    ]  # fmt: skip
    scores = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, None))
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
        [
            helper.make_tensor_value_info("label", TensorProto.INT64, ["N"]),
            helper.make_value_info("probabilities", helper.make_sequence_type_proto(scores)),
        ],
    )
    domains = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    onnx.save(helper.make_model(graph, opset_imports=domains), tmp_path / "trees.onnx")
    document = json.loads(compressctl("inspect", "--json", str(tmp_path / "trees.onnx")).out)
    assert document["outputs"][1] == {
        "name": "probabilities", "dtype": "sequence of map from int64 to float32", "shape": None,
    }  # fmt: skip
    assert (document["parameters"], document["stored_bytes"]) == (10, {"float32": 40})


def test_what_is_quantized_already_is_listed(compressctl, tmp_path):
    nodes = [
        helper.make_node("Cast", ["codes"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["numbers", "scale"], ["w"]),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "net",
        [value("x", TensorProto.FLOAT, [1, 8])],
        [value("y", TensorProto.FLOAT, [1, 4])],
        [
            numpy_helper.from_array(np.ones((8, 4), np.int8), "codes"),
            numpy_helper.from_array(np.ones((1, 4), np.float32), "scale"),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    shown = " ".join(compressctl("inspect", str(tmp_path / "m.onnx")).out.split())
    assert "already quantized: 1 weight in int8 behind Cast and Mul (codes)" in shown
    (found,) = json.loads(compressctl("inspect", "--json", str(tmp_path / "m.onnx")).out)["already_quantized"]
    assert found == {"what": "weight", "dtype": "int8", "how": "behind Cast and Mul", "names": ["codes"]}
