"""A stage for speed that makes the file slower is no gain: it is undone, unless the recipe says otherwise."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from support.lessons import SMALL, lowered_teacher
from support.shell import Shell

from compressctl.core.errors import GateError, MissingDependencyError
from compressctl.core.events import Events
from compressctl.core.model import Model, OnnxModel, Signature
from compressctl.pipeline.acceptance import is_fast_enough
from compressctl.recipe.schema import Stage
from compressctl.techniques.quantize.params import StaticParams


def _tiny(shell: Shell, stage: str) -> str:
    """A network of 3-D convolutions with few channels, for which no runtime has a good 8-bit kernel: several times slower on any processor."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(400, 4))
    label = (features @ [1.0, -2.0, 0.5, 0.0] > 0).astype(int)
    rows = [",".join([*(f"{x:.4f}" for x in row), str(value)]) for row, value in zip(features, label, strict=True)]
    (shell.folder / "table.csv").write_text("\n".join(["a,b,c,d,label", *rows]))
    (shell.folder / "net.py").write_text("""
import torch
def make():
    torch.manual_seed(0)
    wide = [torch.nn.Linear(4, 1000), torch.nn.Unflatten(1, (1, 10, 10, 10))]
    convolutions = [torch.nn.Conv3d(1, 4, 3), torch.nn.ReLU(), torch.nn.Conv3d(4, 4, 3), torch.nn.ReLU()]
    return torch.nn.Sequential(*wide, *convolutions, torch.nn.Flatten(), torch.nn.Linear(864, 2))
""")
    (shell.folder / "tiny.yaml").write_text(f"""recipe: compressctl/v1
model: {{source: python, factory: "net.py:make", input_shape: [4]}}
data: {{source: csv, path: table.csv, label: label, calibration: 60, test: 200}}
stages: [{stage}]
""")
    return "tiny.yaml"


def test_a_slower_int8_file_is_undone_and_the_report_says_so(shell: Shell) -> None:
    done = shell.run("apply", _tiny(shell, "{use: quantize.static, id: int8}"), "--output", "out")
    assert done.code == 0, done.err
    assert "stage int8 was undone" in done.out + done.err
    facts = shell.report("out")["stages"][-1]["facts"]
    assert facts["slower"]["after_ms"] > facts["slower"]["before_ms"]
    ratio = facts["slower"]["after_ms"] / facts["slower"]["before_ms"]
    assert f"its file is {ratio:.2f}x slower than what the stage was given" in facts["skipped"]
    assert "onnxruntime, batch 1, 1 thread" in facts["skipped"]
    assert "Stage int8 was undone: its file is" in (shell.folder / "out" / "report.md").read_text()
    kept = onnx.load(shell.folder / "out" / "artifacts" / "onnxruntime" / "model.onnx")
    assert "QuantizeLinear" not in {node.op_type for node in kept.graph.node}


@pytest.mark.slow
def test_a_network_that_was_trained_in_vain_is_lowered_as_it_came(shell: Shell) -> None:
    """quantize.qat takes a network and gives a graph: undone, the graph is the network's."""
    pytest.importorskip("accelerate")
    done = shell.run("apply", _tiny(shell, "{use: quantize.qat, id: qat, epochs: 1}"), "--output", "out")
    assert done.code == 0, done.err
    report = shell.report("out")
    assert "slower" in next(stage for stage in report["stages"] if stage["id"] == "qat")["facts"]["skipped"]
    part = report["backends"][0]
    assert part["compressed"]["score"]["value"] == part["baseline"]["score"]["value"]
    kept = onnx.load(shell.folder / "out" / "artifacts" / "onnxruntime" / "model.onnx")
    assert "QuantizeLinear" not in {node.op_type for node in kept.graph.node}


def _student(shell: Shell, following: str = "") -> str:
    """An ONNX file whose student is never good enough for its gate."""
    onnx.save(lowered_teacher().body, shell.folder / "digits.onnx")
    (shell.folder / "small.py").write_text(SMALL)
    (shell.folder / "student.yaml").write_text(f"""recipe: compressctl/v1
model: {{source: onnx, path: digits.onnx}}
data: {{source: digits, calibration: 100}}
stages:
  - {{use: distill.logits, id: learn, student: {{factory: "small.py:small"}}, epochs: 0, gate: {{accuracy_drop: 0, otherwise: undo}}}}
{following}
""")
    return "student.yaml"


@pytest.mark.slow
def test_a_skipped_student_leaves_the_graph_that_was_given(shell: Shell) -> None:
    pytest.importorskip("accelerate")
    done = shell.run("apply", _student(shell, "  - {use: quantize.static, if_slower: keep}"), "--output", "out")
    assert done.code == 0, done.err
    learn, *_ = shell.report("out")["stages"]
    assert "lost" in learn["facts"]["skipped"]
    part = shell.report("out")["backends"][0]
    assert part["compressed"]["parameters"] == part["baseline"]["parameters"]
    assert part["compressed"]["total_bytes"] < 0.4 * part["baseline"]["total_bytes"]


def test_what_wants_a_skipped_student_says_so(shell: Shell) -> None:
    pytest.importorskip("accelerate")
    done = shell.run("apply", _student(shell, "  - {use: finetune, id: more, epochs: 1}"), "--output", "out")
    assert done.code == 4
    assert "more (finetune) works on the network of an earlier stage, and that one was skipped" in done.err


def test_keep_and_stop_do_what_they_say(shell: Shell) -> None:
    kept = shell.run("apply", _tiny(shell, "{use: quantize.static, id: int8, if_slower: keep}"), "--output", "kept")
    assert kept.code == 0, kept.err
    nodes = onnx.load(shell.folder / "kept" / "artifacts" / "onnxruntime" / "model.onnx").graph.node
    assert "QuantizeLinear" in {node.op_type for node in nodes}
    stopped = shell.run("apply", _tiny(shell, "{use: quantize.static, id: int8, if_slower: stop}"))
    assert stopped.code == 1
    assert "int8 (quantize.static) makes the model slower" in stopped.err
    assert "if_slower: keep" in stopped.err


def test_this_machine_does_not_judge_for_another_processor(shell: Shell) -> None:
    recipe = _tiny(shell, "{use: quantize.static, id: int8}")
    with (shell.folder / recipe).open("a") as file:
        file.write("target: {profile: arm64}\n")
    done = shell.run("apply", recipe, "--output", "out")
    assert done.code == 0, done.err
    assert "slower" not in shell.report("out")["stages"][-1]["facts"]


def test_an_unknown_answer_is_an_error_at_its_place(shell: Shell) -> None:
    done = shell.run("validate", shell.recipe("bad.yaml", "  - {use: quantize.static, if_slower: skip}"))
    assert done.code == 2
    assert "bad.yaml:5" in done.err
    assert "unknown if_slower" in done.err


_MODEL = OnnxModel(onnx.ModelProto(), Signature((), ()))
_STAGE = Stage("int8", "quantize.static", StaticParams())


def _timer(*pairs: tuple[float, float]) -> Callable[[Sequence[Model]], tuple[float, ...]]:
    left = list(pairs)
    return lambda models: left.pop(0)


@pytest.mark.parametrize(
    ("measured", "kept"),
    [
        (((1.0, 0.8),), True),
        (((1.0, 1.01),), True),
        (((1.0, 1.2), (1.0, 0.99)), True),
        (((1.0, 1.2), (1.0, 1.1)), False),
    ],
    ids=["faster", "within the noise", "slower once", "slower twice"],
)
def test_slower_means_slower_each_time(measured: tuple[tuple[float, float], ...], kept: bool) -> None:
    facts: dict[str, Any] = {}
    found = is_fast_enough(_STAGE, "undo", (_MODEL, _MODEL), _timer(*measured), "onnxruntime", facts, Events())
    assert found is kept
    assert ("slower" in facts) is not kept


def test_stop_raises_with_the_ratio_both_latencies_and_what_was_timed() -> None:
    words = r"1\.20x slower than what the stage was given \(1\.200 ms instead of 1\.000 ms, .* on openvino, batch 4, 1 thread\)"
    timer = _timer((1.0, 1.2), (1.0, 1.2))
    with pytest.raises(GateError, match=words):
        is_fast_enough(_STAGE, "stop", (_MODEL, _MODEL), timer, "openvino, batch 4, 1 thread", {}, Events())


def test_a_runtime_that_is_not_here_decides_nothing() -> None:
    def missing(models: Sequence[Model]) -> tuple[float, ...]:
        raise MissingDependencyError("running engines", "tensorrt", "pip install tensorrt")

    assert is_fast_enough(_STAGE, "undo", (_MODEL, _MODEL), missing, "tensorrt", {}, Events())
