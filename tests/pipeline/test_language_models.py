"""Language models as their user meets them: perplexity in every report, bounded by gates and budgets, judged as trained."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.shell import Shell

WORDS, LENGTH, WIDTH = 16, 12, 48

NETWORK = """
import torch
from torch import nn

class Successor(nn.Module):
    '''The language 0 1 2 ... 15 0 1 ...; perfect when it knows, and without any idea else.'''

    def __init__(self, knows=True):
        super().__init__()
        self.table, self.head = nn.Embedding(16, 16), nn.Linear(16, 16, bias=False)
        with torch.no_grad():
            self.table.weight.copy_(12 * torch.roll(torch.eye(16), 1, dims=1) if knows else torch.eye(16))
            self.head.weight.copy_(torch.eye(16) if knows else torch.zeros(16, 16))

    def forward(self, input_ids):
        return self.head(self.table(input_ids))

def ignorant():
    return Successor(knows=False)
"""

RECIPE = """recipe: compressctl/v1
name: successor
task: language-model
model: {{source: python, factory: "network.py:{factory}", input_shape: [{length}], input_dtype: int64}}
data: {{source: npz, path: text.npz, test_inputs: test, labels: {labels}, test_labels: {test_labels}, calibration: 40}}
stages:
  - {stage}
{extra}
"""


def counting(samples: int, seed: int) -> np.ndarray:
    """(samples, tokens): each word is followed by the next one, the last by the first."""
    start = np.random.default_rng(seed).integers(0, WORDS, (samples, 1))
    return np.asarray((start + np.arange(LENGTH)) % WORDS, np.int64)


def perplexity(file: str, tokens: np.ndarray) -> float:
    """By the runtime and NumPy alone."""
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    logits = session.run(None, {session.get_inputs()[0].name: tokens})[0].astype(np.float64)
    losses = np.log(np.exp(logits).sum(-1))[:, :-1] - np.take_along_axis(logits[:, :-1], tokens[:, 1:, None], 2)[..., 0]
    return float(np.exp(losses.mean()))


@pytest.fixture
def words(shell: Shell) -> Shell:
    """A folder with the network, and texts whose labels are the tokens, shifted by one, or not there."""
    (shell.folder / "network.py").write_text(NETWORK)
    train, test = counting(300, 0), counting(60, 1)
    np.savez(
        shell.folder / "text.npz", inputs=train, test=test, labels=train, test_labels=test,
        shifted=(train + 1) % WORDS, test_shifted=(test + 1) % WORDS,
    )  # fmt: skip
    return shell


def written(shell: Shell, stage: str, *, labels: str = "labels", factory: str = "Successor", extra: str = "") -> str:
    test_labels = "null" if labels == "null" else "test_labels" if labels == "labels" else f"test_{labels}"
    text = RECIPE.format(
        factory=factory, length=LENGTH, labels=labels, test_labels=test_labels, stage=stage, extra=extra
    )
    (shell.folder / "recipe.yaml").write_text(text)
    return "recipe.yaml"


@pytest.mark.parametrize("labels", ["labels", "null"])
def test_a_perfect_language_model_is_reported_as_one_and_stays_one_in_training(words: Shell, labels: str) -> None:
    pytest.importorskip("torch")
    stage = "{id: tune, use: finetune, epochs: 5, optimizer: adam, learning_rate: 0.05, checkpoint: last, gate: {accuracy_drop: 0.01}}"
    recipe = written(words, stage, labels=labels, extra="budget: {accuracy_drop: 0.01}")
    done = words.run("apply", recipe, "--output", "run")
    assert done.code == 0, done.err
    report = words.report("run")
    part = report["backends"][0]
    before, after = (part[name]["score"] for name in ("baseline", "compressed"))
    assert (report["metric"], before["metric"], before["samples"]) == ("perplexity", "perplexity", 60)
    file = str(words.folder / "run" / part["compressed"]["path"])
    assert after["value"] == pytest.approx(perplexity(file, counting(60, 1)), rel=1e-6)
    assert 1 <= before["value"] < 1.001
    assert 1 <= after["value"] < 1.001
    assert part["compressed"]["tokens"]["agreement"] == 1
    tuned = next(entry for entry in report["stages"] if entry["id"] == "tune")
    assert tuned["facts"]["validation_metric"] == "perplexity"
    assert report["budget"][0]["explanation"] == "rise of perplexity on the test split"


def test_the_network_that_a_language_model_teaches_speaks_like_it(words: Shell) -> None:
    pytest.importorskip("torch")
    stage = (
        '{id: learn, use: distill.logits, student: {factory: "network.py:ignorant"}, epochs: 30, optimizer: adam, '
        "learning_rate: 0.1, temperature: 1, label_weight: 0.5}"
    )
    done = words.run("apply", written(words, stage, labels="null"), "--output", "run")
    assert done.code == 0, done.err
    facts = next(entry["facts"] for entry in words.report("run")["stages"] if entry["id"] == "learn")
    assert facts["metric"] == "perplexity"
    assert facts["before"]["score"] == pytest.approx(WORDS)
    assert facts["after"]["score"] < 1.01
    assert facts["teacher_score"] < 1.01
    after = words.report("run")["backends"][0]["compressed"]
    assert after["score"]["value"] < 1.01


def test_shifted_labels_are_refused_before_any_work(words: Shell) -> None:
    pytest.importorskip("torch")
    done = words.run("apply", written(words, "{id: tune, use: finetune}", labels="shifted"), "--output", "run")
    assert done.code == 2
    assert "shifted already" in done.err
    assert "give the input tokens as labels, or none" in done.err
    assert "Traceback" not in done.err
    started = [event["step"] for event in words.events("run") if event["kind"] == "step.started"]
    assert started == ["preflight"]


@pytest.fixture
def graph(shell: Shell) -> Shell:
    """An ONNX file that knows the language by heart, in weights that two bits cannot hold; texts without labels."""
    rng = np.random.default_rng(0)
    known = rng.normal(size=(WORDS, WIDTH)).astype(np.float32)
    following = np.roll(known, 1, axis=0).T * np.float32(0.1)  # column t is like the vector of the word before t
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["rows"]),
        helper.make_node("MatMul", ["rows", "head"], ["logits"]),
    ]
    inputs = [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", LENGTH])]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", LENGTH, WORDS])]
    weights = [numpy_helper.from_array(known, "table"), numpy_helper.from_array(following, "head")]
    proto = helper.make_model(
        helper.make_graph(nodes, "words", inputs, outputs, weights),
        opset_imports=[helper.make_opsetid("", 21)],
        ir_version=10,
    )
    onnx.save(proto, shell.folder / "words.onnx")
    np.savez(shell.folder / "text.npz", inputs=counting(300, 0), test=counting(60, 1))
    (shell.folder / "graph.yaml").write_text("""recipe: compressctl/v1
name: words
task: language-model
model: {source: onnx, path: words.onnx}
data: {source: npz, path: text.npz, test_inputs: test, labels: null, calibration: 40}
stages:
  - {id: small, use: quantize.weights, bits: 2, group_size: 16}
budget: {accuracy_drop: 0.0001}
""")
    return shell


def test_an_onnx_file_with_tokens_alone_is_held_to_its_budget(graph: Shell) -> None:
    missed = graph.run("apply", "graph.yaml", "--output", "run")
    assert missed.code == 1, missed.err
    part = graph.report("run")["backends"][0]
    before, after = (part[name]["score"]["value"] for name in ("baseline", "compressed"))
    assert before == pytest.approx(perplexity(str(graph.folder / "words.onnx"), counting(60, 1)), rel=1e-6)
    file = graph.folder / "run" / part["compressed"]["path"]
    assert after == pytest.approx(perplexity(str(file), counting(60, 1)), rel=1e-4)
    assert part["compressed"]["change"]["drop"] == pytest.approx(after - before)
    assert after > before + 0.0001

    sentence = f"perplexity {before:.4f} -> {after:.4f}"
    assert sentence in " ".join(missed.out.split())
    for name in ("report.md", "report.html"):
        text = (graph.folder / "run" / name).read_text()
        assert sentence in text.replace("&gt;", ">").replace("\\>", ">")
        assert "perplexity (60 test samples)" in text
    assert "rise of perplexity on the test split" in (graph.folder / "run" / "report.junit.xml").read_text()

    assert graph.run("check", "run", "--budget", f"accuracy_drop={after - before + 0.001}").code == 0
    assert graph.run("check", "run", "--budget", f"accuracy_drop={after - before - 0.00001}").code == 1
    scored = graph.run("evaluate", str(file), "--data", "graph.yaml", "--json")
    assert json.loads(scored.out) == {
        "file": str(file), "metric": "perplexity", "value": pytest.approx(after, rel=1e-4), "samples": 60,
    }  # fmt: skip
    compared = graph.run("compare", "run", "run")
    assert f"perplexity {after:.4f}" in " ".join(compared.out.split())


def test_a_gate_on_perplexity_undoes_a_stage_in_its_own_words(graph: Shell) -> None:
    gated = (
        (graph.folder / "graph.yaml")
        .read_text()
        .replace("bits: 2", "bits: 2, gate: {accuracy_drop: 0.0001, otherwise: undo}")
    )
    (graph.folder / "graph.yaml").write_text(gated)
    done = graph.run("apply", "graph.yaml", "--output", "run")
    assert done.code == 0, done.err
    skipped = graph.report("run")["stages"][-1]["facts"]["skipped"]
    assert skipped.startswith("perplexity rose by ")
    assert skipped.endswith("on the validation split, the gate allows 0.0001")


def test_what_stands_in_padding_changes_no_figure(shell: Shell) -> None:
    """Two inputs from a function; padding on the left and on the right, filled with words that would be wrong."""
    (shell.folder / "texts.py").write_text(f"""
import numpy as np

def padded(filled=0):
    tokens = (np.random.default_rng(0).integers(0, {WORDS}, (80, 1)) + np.arange({LENGTH})) % {WORDS}
    mask = np.ones_like(tokens)
    mask[::2, :4], mask[1::2, -5:] = 0, 0
    return {{"input_ids": np.where(mask, tokens, filled), "attention_mask": mask}}, None
""")
    rows = np.random.default_rng(0).normal(size=(WORDS, WORDS)).astype(np.float32)
    shape = ["batch", LENGTH]
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, shape) for name in ("input_ids", "attention_mask")]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [*shape, WORDS])]
    nodes = [helper.make_node("Gather", ["rows", "input_ids"], ["logits"])]
    body = helper.make_graph(nodes, "words", inputs, outputs, [numpy_helper.from_array(rows, "rows")])
    onnx.save(
        helper.make_model(body, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), shell.folder / "words.onnx"
    )
    found = []
    for filled in (0, 7):
        (shell.folder / "recipe.yaml").write_text(f"""recipe: compressctl/v1
task: language-model
model: {{source: onnx, path: words.onnx}}
data: {{source: python, factory: "texts.py:padded", args: {{filled: {filled}}}, calibration: 10, validation: 10, test: 60}}
""")
        done = shell.run("evaluate", "words.onnx", "--data", "recipe.yaml", "--json")
        assert done.code == 0, done.err
        found.append(json.loads(done.out)["value"])
    assert found[0] == found[1]
    # Every pair of neighbours is one word and the next, so that the mean loss lies among the losses of those pairs.
    losses = np.log(np.exp(rows.astype(float)).sum(1)) - rows[np.arange(WORDS), np.arange(1, WORDS + 1) % WORDS]
    assert losses.min() < np.log(found[0]) < losses.max()
