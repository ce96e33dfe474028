import textwrap

import numpy as np
import pytest
from pydantic import ValidationError

torch = pytest.importorskip("torch")
from safetensors.torch import save_file  # noqa: E402

from compressctl.core.errors import MachineError, UsageError  # noqa: E402
from compressctl.core.model import Form, TensorSpec  # noqa: E402
from compressctl.graph.lower import lower, parity  # noqa: E402
from compressctl.sources.params import InputParams, PythonModelParams  # noqa: E402
from compressctl.sources.python_code import code_files  # noqa: E402
from compressctl.sources.python_model import fingerprint, load  # noqa: E402

CODE = """
import torch
from torch import nn
from blocks import Double

not_a_function = 3

def net(width=4):
    return nn.Sequential(nn.Flatten(), nn.Linear(12, width), Double())

def two_outputs():
    class Two(nn.Module):
        def forward(self, x):
            return {"logits": x.mean((2, 3)), "features": x, "unused": None}
    return Two()

def whole_batch():
    class Whole(nn.Module):
        def forward(self, x):
            return x.reshape(2, -1)
    return Whole()

def text():
    class Text(nn.Module):
        def forward(self, x):
            return "hello"
    return Text()

def wrong():
    return 7

def fails():
    raise RuntimeError("no such layer")
"""

BLOCKS = """
from torch import nn

class Double(nn.Module):
    def forward(self, x):
        return 2 * x
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "nets.py").write_text(textwrap.dedent(CODE))
    (tmp_path / "blocks.py").write_text(textwrap.dedent(BLOCKS))
    return tmp_path


def params(factory: str = "nets.py:net", **fields) -> PythonModelParams:
    return PythonModelParams(factory=factory, input_shape=(3, 2, 2), **fields)


def test_a_file_next_to_the_recipe_gives_the_network_in_eval_mode(folder):
    model = load(params(args={"width": 5}), folder, 0)
    assert model.form == Form.TORCH
    assert not model.body.training
    assert model.signature.inputs == (TensorSpec("input", "float32", ("batch", 3, 2, 2)),)
    assert model.signature.outputs == (TensorSpec("output", "float32", ("batch", 5)),)


def test_several_outputs_are_named_by_their_keys(folder):
    model = load(params("nets.py:two_outputs"), folder, 0)
    assert [(spec.name, spec.shape) for spec in model.signature.outputs] == [
        ("logits", ("batch", 3)),
        ("features", ("batch", 3, 2, 2)),
    ]


def test_an_installed_module_can_be_named(folder):
    model = load(
        PythonModelParams(factory="torch.nn:Linear", args={"in_features": 2, "out_features": 3}, input_shape=(2,)),
        folder,
        0,
    )
    assert model.signature.outputs[0].shape == ("batch", 3)


def test_weights_come_from_the_named_file(folder):
    state = {"1.weight": torch.full((4, 12), 0.5), "1.bias": torch.zeros(4)}
    save_file(state, folder / "trained.safetensors")
    model = load(params(weights="trained.safetensors"), folder, 0)
    assert model.body(torch.ones(1, 3, 2, 2)).tolist() == [[12.0] * 4]


def test_without_weights_the_seed_decides(folder):
    first, same, other = (load(params(), folder, seed).body[1].weight for seed in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_loading_leaves_torchs_own_generator_alone(folder):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load(params(), folder, 0)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("nothere.py:net", "does not exist"),
        ("nets.py:nett", "there is no nett in it"),
        ("nets.py:not_a_function", "is a int, not a function"),
        ("nets.py:wrong", r"returned a int, not a torch\.nn\.Module"),
        ("nets.py:fails", "RuntimeError: no such layer"),
        ("nets.py:text", "is a str, not a tensor"),
        ("nets.py:whole_batch", "first axis must be the batch"),
        ("no_such_package.models:net", "there is no module no_such_package"),
        ("nets", "does not name a function"),
        ("nets.py:", "does not name a function"),
    ],
)
def test_a_wrong_factory_is_a_clear_error(folder, factory, message):
    with pytest.raises(UsageError, match=message):
        load(params(factory), folder, 0)


@pytest.mark.parametrize("error", ["MemoryError", "OSError(28, 'No space left on device')"])
def test_what_the_machine_refuses_a_factory_is_the_machines(folder, error):
    (folder / "short.py").write_text(f"def net(): raise {error}\n")
    with pytest.raises(
        MachineError, match=r"short.py:net failed when called as net\(\): (not enough memory|No space left)"
    ):
        load(PythonModelParams(factory="short.py:net", input_shape=(3, 2, 2)), folder, 0)


def test_arguments_that_the_factory_does_not_take_are_named(folder):
    with pytest.raises(UsageError, match=r"net\(depth=3\).*unexpected keyword argument 'depth'"):
        load(params(args={"depth": 3}), folder, 0)


def test_a_file_with_a_syntax_error_is_a_clear_error(folder):
    (folder / "nets.py").write_text("def net(:\n")
    with pytest.raises(UsageError, match="SyntaxError"):
        load(params(), folder, 0)


def test_an_input_shape_that_does_not_fit_is_named(folder):
    with pytest.raises(UsageError, match=r"does not run on input \[3, 7\]"):
        load(PythonModelParams(factory="nets.py:net", input_shape=(7,)), folder, 0)


TWO = """
import torch
from torch import nn

class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(4, 6), nn.Embedding(9, 6)

    def forward(self, image, word):
        return self.left(image) + self.right(word).mean(1)
"""
TWO_INPUTS = [{"name": "image", "shape": (4,)}, {"name": "word", "shape": (3,), "dtype": "int64"}]


def test_a_network_takes_several_tensors_in_the_order_of_its_forward(folder):
    (folder / "two.py").write_text(TWO)
    model = load(PythonModelParams(factory="two.py:Two", inputs=TWO_INPUTS), folder, 0)
    assert model.signature.inputs == (
        TensorSpec("image", "float32", ("batch", 4)),
        TensorSpec("word", "int64", ("batch", 3)),
    )
    graph = lower(model).body.graph
    assert [value.name for value in graph.input] == ["image", "word"]


def test_tensors_that_forward_asks_for_and_the_recipe_does_not_name_are_named(folder):
    (folder / "two.py").write_text(TWO)
    with pytest.raises(UsageError) as refused:
        load(PythonModelParams(factory="two.py:Two", input_shape=(4,)), folder, 0)
    assert "inputs: [{name: image, shape: [...]}, {name: word, shape: [...]}]" in refused.value.hint
    three = [*TWO_INPUTS, {"name": "more", "shape": (1,)}]
    with pytest.raises(UsageError) as refused:
        load(PythonModelParams(factory="two.py:Two", inputs=three), folder, 0)
    assert "forward takes 2 tensors (image, word), and the model section names 3" in refused.value.hint


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "give input_shape"),
        ({"input_shape": (4,), "inputs": TWO_INPUTS}, "give input_shape"),
        ({"inputs": TWO_INPUTS, "input_name": "x"}, "input_name stand inside each"),
        ({"inputs": [TWO_INPUTS[0], TWO_INPUTS[0]]}, "two of `inputs` have one name"),
    ],
)
def test_inputs_are_named_in_one_way(fields, message):
    with pytest.raises(ValueError, match=message):
        PythonModelParams(factory="two.py:Two", **fields)


def test_the_fingerprint_follows_the_code_and_what_it_imports(folder):
    before = fingerprint(params(), folder)
    (folder / "unrelated.py").write_text("x = 1\n")
    assert fingerprint(params(), folder) == before
    (folder / "blocks.py").write_text(textwrap.dedent(BLOCKS).replace("2 * x", "3 * x"))
    assert fingerprint(params(), folder) != before


def test_the_fingerprint_follows_weights_and_parameters(folder):
    save_file({"a": torch.zeros(1)}, folder / "w.safetensors")
    first = fingerprint(params(weights="w.safetensors"), folder)
    save_file({"a": torch.ones(1)}, folder / "w.safetensors")
    second = fingerprint(params(weights="w.safetensors"), folder)
    assert len({first, second, fingerprint(params(), folder), fingerprint(params(args={"width": 3}), folder)}) == 4


def test_the_fingerprint_of_an_installed_network_needs_no_look_at_every_file(folder):
    linear, conv = (PythonModelParams(factory=f"torch.nn:{name}", input_shape=(2,)) for name in ("Linear", "Conv1d"))
    assert fingerprint(linear, folder) != fingerprint(conv, folder)
    assert len(code_files(linear.factory, folder)) == 2


OPEN = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.mix = nn.Embedding(9, 4), nn.Linear(4, 4)

    def forward(self, tokens, scores):
        found = self.mix(self.table(tokens)) * scores
        return {"each": found, "all": found.mean(1), "twice": torch.cat([found, found], dim=1)}

class Fixed(nn.Module):
    def forward(self, tokens, scores):
        return scores.reshape(-1, 12, 4)
"""
OPEN_INPUTS = (
    InputParams(name="tokens", shape=("length",), dtype="int64"), InputParams(name="scores", shape=("length", 4)),
)  # fmt: skip


def test_sizes_that_samples_differ_in_are_names_and_stay_open_in_the_graph(tmp_path):
    (tmp_path / "open.py").write_text(OPEN)
    model = load(PythonModelParams(factory="open.py:Net", inputs=OPEN_INPUTS), tmp_path, 0)
    assert {spec.name: spec.shape for spec in model.signature.outputs} == {
        "each": ("batch", "length", 4), "all": ("batch", 4), "twice": ("batch", "twice_1", 4),
    }  # fmt: skip
    graph = lower(model)
    for length in (1, 5, 31):
        inputs = {"tokens": np.ones((3, length), np.int64), "scores": np.ones((3, length, 4), np.float32)}
        assert max(parity(model, graph, inputs).values()) < 1e-5


def test_a_length_that_is_written_into_the_code_is_told(tmp_path):
    (tmp_path / "open.py").write_text(OPEN)
    with pytest.raises(UsageError, match="does not run"):
        load(PythonModelParams(factory="open.py:Fixed", inputs=OPEN_INPUTS), tmp_path, 0)


def test_an_axis_of_samples_cannot_be_called_the_batch():
    with pytest.raises(ValidationError):
        InputParams(name="x", shape=("batch",))
