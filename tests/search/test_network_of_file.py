"""An ONNX file with labels is pruned and trained as the network that it was exported from would be."""

from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from onnx import helper

torch = pytest.importorskip("torch")
from support.digit_runs import context, digits_data, digits_model  # noqa: E402

from compressctl.core.model import OnnxModel, TorchModel  # noqa: E402
from compressctl.graph.lower import lower  # noqa: E402
from compressctl.graph.summary import summarize  # noqa: E402
from compressctl.search.evaluate import Bench  # noqa: E402
from compressctl.search.facts import Facts, read_facts  # noqa: E402
from compressctl.search.measure_widths import by_module  # noqa: E402
from compressctl.search.narrow import on_a_scale  # noqa: E402
from compressctl.search.network_of_file import with_network  # noqa: E402
from compressctl.search.request import Goal, Request  # noqa: E402
from compressctl.search.search import search  # noqa: E402
from compressctl.search.space import left_out, untrained  # noqa: E402
from compressctl.search.subject import Asked, Subject, subject_of  # noqa: E402
from compressctl.search.tables import LayerOption, LayerTable, Tables  # noqa: E402
from compressctl.sources.graph_network.trainable import trainable  # noqa: E402
from compressctl.techniques.prune.narrower import Narrower  # noqa: E402
from compressctl.techniques.unfold.params import UnfoldParams  # noqa: E402
from compressctl.techniques.unfold.unfold import apply as unfold  # noqa: E402


@pytest.fixture(scope="module")
def exported() -> OnnxModel:
    """With nodes named as torch's own exporter names them, /block1/body/0/conv/Conv, and weights as the network does."""
    network = digits_model("digits-resnet")
    assert isinstance(network, TorchModel)
    model = lower(network)
    for node in model.body.graph.node:
        node.name = f"/{node.name.replace('.', '/')}/{node.op_type}"
    return model


@pytest.fixture
def file(exported: OnnxModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    onnx.save(exported.body, tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


def looked_at(file: Path, data: str | None = "digits") -> tuple[Subject, Facts, Facts]:
    """Before and after a network was asked for."""
    subject = subject_of(Asked(str(file), data=data), file.parent)
    facts = read_facts(subject.recipe(), None)
    return subject, facts, with_network(facts, subject, None, ())


def test_labels_open_training_of_a_file(file: Path) -> None:
    subject, before, facts = looked_at(file)
    assert (before.can_train, facts.can_train, facts.is_torch) == (False, True, False)
    assert "training" not in dict(left_out(facts))
    bench = Bench(subject, facts, file.parent, None, {})
    offered = {one.name: one for one in (*untrained(facts, Goal()), *on_a_scale(facts, Goal(), {}))}
    made = {name: bench.recipe(one) for name, one in offered.items()}
    trained = {name for name in offered if "narrow" in name}
    assert {name for name, recipe in made.items() if recipe.resolved["model"].get("trainable")} == trained
    has_norms = {name for name, recipe in made.items() if recipe.stages[0].use == "unfold"}
    assert has_norms == trained, "exporting folded norms into convolutions"
    assert {"int8", "weights4", "rank50-int8"} <= made.keys() - trained, "what takes the graph takes the file as it is"


def test_without_labels_no_network_is_made(file: Path) -> None:
    _, before, facts = looked_at(file, None)
    assert facts is before
    assert dict(left_out(facts))["training"].startswith("it takes labels")


def _with_fixed_samples(model: onnx.ModelProto) -> None:
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 4


def _with_what_torch_lacks(model: onnx.ModelProto) -> None:
    name = model.graph.output[0].name
    last = next(node for node in model.graph.node if name in node.output)
    last.output[0] = "before"
    model.graph.node.append(helper.make_node("Hardmax", ["before"], [name], "last"))


@pytest.mark.parametrize(
    ("change", "why"),
    [(_with_fixed_samples, "does not count samples"), (_with_what_torch_lacks, "no counterpart in torch for Hardmax")],
)
def test_what_cannot_be_a_network_says_so(change, why: str, file: Path) -> None:  # type: ignore[no-untyped-def]
    model = onnx.load(file)
    change(model)
    onnx.save(model, file)
    _, _, facts = looked_at(file)
    assert not facts.can_train
    assert why in dict(left_out(facts))["training"]
    assert {"int8", "w4a8"} <= {one.name for one in untrained(facts, Goal())}


@pytest.mark.parametrize("task", ["custom", "classification"])
def test_labels_of_which_nothing_says_what_they_are_of_are_named(task: str, file: Path) -> None:
    """They would train the network, and judge nothing."""
    asked = Asked(str(file), data="digits", sets=(f"task={task}",))
    found = search(Request(seconds=0.01), asked, file.parent / "out", cache=None)
    assert any("have labels" in note for note in found.notes) == (task == "custom")


def test_a_quantized_file_says_why_nothing_is_trained(file: Path) -> None:
    _, before, _ = looked_at(file)
    assert "integers already" in dict(left_out(replace(before, quantized=("Conv int8",))))["training"]


@pytest.mark.parametrize("with_norms", [False, True])
def test_tables_of_the_file_tell_of_the_network_s_layers(with_norms: bool, exported: OnnxModel, file: Path) -> None:
    """Without this no layer of it has integers, nor 4 bits."""
    option = LayerOption(name="int8", width="int8", bytes=1, adds_ms=0.0, distance={"int8": 0.0})
    layers = tuple(
        LayerTable(name=layer.name, nodes=(layer.name,), op=layer.op, parameters=1, options=(option,))
        for layer in summarize(exported.body).layers
    )
    tables = Tables(key="", distance="KL", samples=1, float_bytes=1, layers=layers, seconds=1.0)
    network = trainable(exported, file)
    if with_norms:
        made = unfold(network, UnfoldParams(), context(file.parent, digits_data())).model
        assert isinstance(made, TorchModel)
        network = made
    named = {layer.name for layer in by_module(tables, network).layers}
    inside = {name for name, *_ in Narrower(network, context(file.parent, digits_data())).layers}
    assert inside
    assert inside <= named
    assert not inside & {layer.name for layer in layers}
