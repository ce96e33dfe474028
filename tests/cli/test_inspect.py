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
