"""Networks of one's own whose forward takes arguments by name, dictionaries and tuples, and returns nested outputs."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnxruntime = pytest.importorskip("onnxruntime")
from support.digit_runs import context  # noqa: E402
from support.shell import Shell  # noqa: E402

from compressctl.core.errors import UsageError  # noqa: E402
from compressctl.graph.lower import lower, parity  # noqa: E402
from compressctl.graph.torch_outputs import named_outputs, outputs_of  # noqa: E402
from compressctl.sources.params import PythonModelParams  # noqa: E402
from compressctl.sources.python_model import load  # noqa: E402

CODE = """
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Boxes(NamedTuple):
    corners: Tensor
    score: Tensor


@dataclass
class Output:
    logits: Tensor
    boxes: Boxes
    loss: Tensor | None = None


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.image, self.meta = nn.Linear(4, 6), nn.Linear(2, 6)


class Holding(Base):
    def forward(self, batch, *, scale, detailed=False):
        x = self.image(batch["image"]) * scale + self.meta(batch["meta"])
        output = Output(x, Boxes(x[:, :4], x.sum(1, keepdim=True)))
        if detailed:
            return {"output": output, "states": [x, (x, x * 2)], "kind": "detailed"}
        return output


class ByName(Base):
    def forward(self, image, names=None, meta=None):
        assert names is None
        return self.image(image) - self.meta(meta)


class Keywords(Base):
    def forward(self, **given):
        return self.image(given["image"]) - self.meta(given["meta"])


class Tuples(Base):
    def forward(self, given):
        image, meta = given
        return self.image(image) - self.meta(meta)


class Loss(Base):
    def forward(self, image):
        x = self.image(image)
        return x, x.mean()


def scripted():
    class Plain(nn.Module):
        def forward(self, image, meta):
            return image[:, :2] - meta
    return torch.jit.trace(Plain(), (torch.zeros(1, 4), torch.zeros(1, 2)))
"""

IMAGE, META, SCALE = ({"name": name, "shape": (size,)} for name, size in (("image", 4), ("meta", 2), ("scale", 1)))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "net.py").write_text(CODE)
    return tmp_path


def made(folder, name, *inputs, **fields):
    return load(PythonModelParams(factory=f"net.py:{name}", inputs=inputs, **fields), folder, 0)


def to(argument, given):
    return {**given, "argument": argument}


def samples(count=3):
    rng = np.random.default_rng(1)
    return {
        name: rng.normal(size=(count, size)).astype(np.float32)
        for name, size in (("image", 4), ("meta", 2), ("scale", 1))
    }


def by_hand(model, sign=-1):
    """What the plain classes above compute."""
    given = {name: torch.tensor(array) for name, array in samples().items()}
    with torch.no_grad():
        return model.body.image(given["image"]) + sign * model.body.meta(given["meta"])


def test_a_dictionary_and_a_keyword_go_in_and_a_dataclass_comes_out(folder):
    model = made(folder, "Holding", to("batch.meta", META), to("batch.image", IMAGE), SCALE)
    assert [(spec.name, spec.shape) for spec in model.signature.outputs] == [
        ("logits", ("batch", 6)), ("boxes.corners", ("batch", 4)), ("boxes.score", ("batch", 1)),
    ]  # fmt: skip
    graph = lower(model)
    assert [value.name for value in graph.body.graph.input] == ["meta", "image", "scale"]
    assert [value.name for value in graph.body.graph.output] == ["logits", "boxes.corners", "boxes.score"]
    assert max(parity(model, graph, samples(5)).values()) < 1e-5


def test_other_arguments_are_the_same_in_every_call_and_what_is_returned_may_be_chosen(folder):
    inputs = (to("batch.meta", META), to("batch.image", IMAGE), SCALE)
    with pytest.raises(UsageError, match="the network's kind is a str, not a tensor") as refused:
        made(folder, "Holding", *inputs, forward_args={"detailed": True})
    assert "outputs: [...]" in refused.value.hint
    model = made(folder, "Holding", *inputs, forward_args={"detailed": True}, outputs=("states", "output.logits"))
    assert [spec.name for spec in model.signature.outputs] == ["states.0", "states.1.0", "states.1.1", "output.logits"]
    assert max(parity(model, lower(model), samples()).values()) < 1e-5


@pytest.mark.parametrize("name", ["ByName", "Keywords"])
def test_inputs_go_to_the_arguments_of_their_names_in_any_order(folder, name):
    model = made(folder, name, META, IMAGE)
    assert torch.allclose(outputs_of(model, samples())["output"], by_hand(model))
    assert max(parity(model, lower(model), samples()).values()) < 1e-5


def test_a_tuple_is_given_by_places(folder):
    model = made(folder, "Tuples", to("given.1", META), to("given.0", IMAGE))
    assert torch.allclose(outputs_of(model, samples())["output"], by_hand(model))


def test_layers_keep_their_names_and_the_network_its_class(folder):
    model = made(folder, "ByName", META, IMAGE)
    assert set(model.body.state_dict()) == {"image.weight", "image.bias", "meta.weight", "meta.bias"}
    assert type(model.body).__name__ == "ByName"


def test_a_name_that_is_no_argument_leaves_inputs_in_their_order(folder):
    model = made(
        folder, "Tuples", {"name": "anything", "shape": (2,)}.copy() | {"argument": "given.1"}, to("given.0", IMAGE)
    )
    assert [spec.name for spec in model.signature.inputs] == ["anything", "image"]


@pytest.mark.parametrize(
    ("inputs", "fields", "message", "hint"),
    [
        ((to("batch.image", IMAGE), META), {}, "the input meta goes to meta, and forward of the Holding takes no such", "batch, scale, detailed"),
        ((IMAGE,), {"forward_args": {"deep": True}}, "model.forward_args goes to deep", "batch, scale, detailed"),
        ((IMAGE, META), {}, "does not run", "argument: batch.KEY"),
    ],
)  # fmt: skip
def test_what_forward_does_not_take_is_told(folder, inputs, fields, message, hint):
    with pytest.raises(UsageError, match=message) as refused:
        made(folder, "Holding", *inputs, **fields)
    assert hint in refused.value.hint


def test_an_output_that_is_not_given_is_told_with_those_that_are(folder):
    with pytest.raises(UsageError, match="the network gives no scores") as refused:
        made(folder, "Holding", to("batch.meta", META), to("batch.image", IMAGE), SCALE, outputs=("scores",))
    assert "logits, boxes.corners, boxes.score" in refused.value.hint


def test_a_number_for_the_whole_batch_may_be_left_out(folder):
    with pytest.raises(UsageError, match="output_1 has shape") as refused:
        made(folder, "Loss", IMAGE)
    assert "outputs: [...]" in refused.value.hint
    assert [spec.name for spec in made(folder, "Loss", IMAGE, outputs=("output_0",)).signature.outputs] == ["output_0"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_scripted_network_takes_its_inputs_in_order_alone(folder):
    assert [spec.name for spec in made(folder, "scripted", IMAGE, META).signature.outputs] == ["output"]
    with pytest.raises(UsageError, match="no method of its class"):
        made(folder, "scripted", to("meta", META), to("image", IMAGE))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"inputs": (to("batch", IMAGE), to("batch.meta", META))}, "two of `inputs` go to the argument batch"),
        ({"inputs": (to("a.b", IMAGE), to("a.b", META))}, "two of `inputs` go to the argument a.b"),
        ({"inputs": (to("a.b", IMAGE),), "forward_args": {"a": 1}}, "a is an argument of an input"),
        ({"inputs": (to("a..b", IMAGE),)}, "argument"),
    ],
)
def test_an_argument_is_given_once(fields, message):
    with pytest.raises(ValueError, match=message):
        PythonModelParams(factory="net.py:Holding", **fields)


def test_names_are_ways_of_keys_fields_and_places():
    one, two = torch.zeros(1), torch.ones(1)
    assert list(named_outputs((one, [two, {"x": one}]))) == ["output_0", "output_1.0", "output_1.1.x"]
    assert list(named_outputs({"a": (one,), "b": None, 3: two})) == ["a.0", "3"]
    with pytest.raises(UsageError, match=r"two of the network's outputs are called a\.b"):
        named_outputs({"a.b": one, "a": {"b": two}})
    with pytest.raises(UsageError, match="the network returns nothing"):
        named_outputs(None)


def test_what_holds_itself_has_an_end():
    endless = {}
    endless["again"] = endless
    with pytest.raises(UsageError, match="is a dict, not a tensor"):
        named_outputs(endless)


def test_a_student_by_factory_is_called_with_the_same_arguments_also_from_the_cache(folder):
    from dataclasses import replace

    from compressctl.pipeline.serialization import made_by
    from compressctl.training.supervision.factory import make_network

    teacher = made(folder, "Holding", to("batch.meta", META), to("batch.image", IMAGE), SCALE)
    run = replace(context(folder), base=folder)
    student = make_network("net.py:Holding", {}, None, teacher.signature, run, what="student")
    again = made_by(student.factory, folder, student.signature)
    again.body.load_state_dict(student.body.state_dict())
    first, second = (outputs_of(model, samples()) for model in (student, again))
    assert list(first) == list(second) == ["logits", "boxes.corners", "boxes.score"]
    assert all(torch.equal(first[name], second[name]) for name in first)


RECIPE = """
recipe: compressctl/v1
task: classification
model:
  source: python
  factory: digits.py:Net
  inputs:
    - {name: meta, shape: [2], argument: batch.meta}
    - {name: image, shape: [1, 8, 8], argument: batch.image}
  outputs: [logits, boxes]
data: {source: python, factory: "digits.py:samples", label: kind, calibration: 100}
target: {backend: onnxruntime, threads: 1, batch_size: 1}
stages:
  - {use: finetune, epochs: 4, learning_rate: 0.01}
  - {use: prune.channels, keep: 0.6}
  - {use: distill.logits, epochs: 1}
  - {use: quantize.static}
"""

DIGITS = """
from net import Boxes, Output
import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.meta, self.head, self.box = nn.Linear(2, 16), nn.Linear(16, 10), nn.Linear(16, 4)

    def forward(self, batch):
        x = torch.relu(self.second(torch.relu(self.first(batch["image"])))).mean((2, 3))
        x = x + torch.relu(self.meta(batch["meta"]))
        return Output(self.head(x), Boxes(self.box(x), x.sum(1, keepdim=True)))

def samples():
    digits = load_digits()
    for image, kind in zip(digits.images, digits.target):
        yield {"image": (image[None] / 16).astype(np.float32), "meta": np.float32([image.mean(), image.max()]), "kind": kind}
"""


@pytest.mark.slow
def test_such_a_network_is_pruned_taught_quantized_and_compared_output_by_output(shell: Shell):
    (shell.folder / "net.py").write_text(CODE)
    (shell.folder / "digits.py").write_text(DIGITS)
    (shell.folder / "recipe.yaml").write_text(RECIPE)
    done = shell.run("apply", "recipe.yaml", "--output", "out")
    assert done.code == 0, done.err
    backend = shell.report("out")["backends"][0]
    session = onnxruntime.InferenceSession(
        shell.folder / "out" / backend["compressed"]["path"], providers=["CPUExecutionProvider"]
    )
    assert [value.name for value in session.get_inputs()] == ["meta", "image"]
    assert [value.name for value in session.get_outputs()] == ["logits", "boxes.corners", "boxes.score"]
    assert "boxes.corners" in (shell.folder / "out" / "report.md").read_text()
