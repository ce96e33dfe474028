"""quantize.qat: what training simulated is what the exported file computes, in integers, where quantize.static would."""

import copy
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")
from support.exact import exact_output  # noqa: E402
from support.lessons import context, digits_data  # noqa: E402
from support.rounding import small_model  # noqa: E402
from support.shell import Shell  # noqa: E402
from torch import nn  # noqa: E402

from compressctl.backends.dialects.cpu import emit  # noqa: E402
from compressctl.backends.onnxruntime import BACKEND  # noqa: E402
from compressctl.core.errors import NothingToCompressError, RecipeError  # noqa: E402
from compressctl.core.model import Form, Model  # noqa: E402
from compressctl.core.target import Target  # noqa: E402
from compressctl.core.technique import StageResult  # noqa: E402
from compressctl.graph.codes import weight_codes  # noqa: E402
from compressctl.graph.index import index  # noqa: E402
from compressctl.pipeline.plan import make_plan  # noqa: E402
from compressctl.recipe.loader import load  # noqa: E402
from compressctl.techniques.quantize._learned_plan import learned_plan  # noqa: E402
from compressctl.techniques.quantize._qat_layers import find_layers  # noqa: E402
from compressctl.techniques.quantize._simulate import install, layers_of, remove  # noqa: E402
from compressctl.techniques.quantize.params import QatOverride, QatParams  # noqa: E402
from compressctl.techniques.quantize.qat import Calibrated, apply, calibrated  # noqa: E402
from compressctl.training.hooks import FreezeNorms, StepInfo  # noqa: E402

TARGET = Target("onnxruntime", profile="x86-vnni")
BRISK = {"epochs": 2, "batch_size": 64, "learning_rate": 0.02}


@pytest.fixture(scope="module")
def model() -> Model:
    return small_model()


@pytest.fixture(scope="module")
def start(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Calibrated:
    run, _ = context(tmp_path_factory.mktemp("start"), model, target=TARGET)
    return calibrated(model, QatParams(), run)


def predict(model: Model, images: np.ndarray) -> np.ndarray:
    return exact_output(emit(model, TARGET), {"input": images})


@dataclass(frozen=True)
class Done:
    result: StageResult
    warnings: list[str]
    labels: np.ndarray
    outputs: np.ndarray


@pytest.fixture(scope="module")
def done(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Done:
    batch = next(digits_data().split("validation").batches(1000))

    def score(candidate: Model, split: str) -> float:
        assert split == "validation"
        return float((predict(candidate, batch.inputs["input"]).argmax(1) == batch.labels).mean() * 100)

    run, warnings = context(tmp_path_factory.mktemp("done"), model, target=TARGET, score=score)
    result = apply(model, QatParams(weights="int4", teacher="original", **BRISK), run)
    assert batch.labels is not None
    return Done(result, warnings, batch.labels, predict(result.model, batch.inputs["input"]))


def test_the_report_tells_simulation_and_runtime_apart(done: Done) -> None:
    facts = done.result.facts
    measured = float((done.outputs.argmax(1) == done.labels).mean() * 100)
    assert facts["validation_in_runtime"] == pytest.approx(measured)
    assert facts["runtime_minus_simulation"] == pytest.approx(measured - facts["validation_simulated"])
    assert abs(facts["runtime_minus_simulation"]) < 2
    assert facts["validation_by_epoch"][-1] > 85
    assert facts["trained_layers"] == {"int8": 2, "int4": 3}
    assert facts["not_as_trained"] == {}
    assert done.warnings == []


def test_every_product_runs_in_integers(done: Done, tmp_path: Path) -> None:
    artifact = BACKEND.build(done.result.model, TARGET, tmp_path)
    nodes = BACKEND.explain(artifact, TARGET)
    assert sum(node.macs for node in nodes) == sum(node.macs for node in nodes if node.precision == "int8") > 0
    assert sum(node.op == "QLinearConv" for node in nodes) == 4


def test_weights_have_the_codes_of_their_width(done: Done) -> None:
    model, found = done.result.model, {}
    looked_up = index(model.body.graph)
    for name, quant in model.quant.weights.items():
        codes = weight_codes(looked_up.array(name), quant)
        assert quant.dtype == "int8"
        assert np.allclose(codes * quant.scale.reshape(-1, *[1] * (codes.ndim - 1)), looked_up.array(name), rtol=1e-4)
        found[name] = int(np.abs(codes).max())
    assert {name for name, largest in found.items() if largest == 7} == {"left.weight", "right.weight", "last.weight"}
    assert all(found[name] > 100 for name in ("stem.weight", "head.weight"))


def test_what_came_in_is_as_it_was(model: Model, done: Done) -> None:
    assert not model.body.training
    assert all(type(layer) in (nn.Conv2d, nn.Linear) for layer in layers_of(model.body).values())
    assert done.result.model.form is Form.ONNX


@pytest.mark.parametrize("weights", ["int8", "int2"])
def test_the_file_computes_what_training_simulates(
    model: Model, start: Calibrated, tmp_path: Path, weights: str
) -> None:
    """The addition's inputs are rounded in the file alone: a step of theirs is what may differ."""
    images = next(digits_data().split("test").batches(200)).inputs["input"]
    run, _ = context(tmp_path, model, target=TARGET)
    params = QatParams(weights=weights)
    network = copy.deepcopy(model.body)
    layers = find_layers(network, start.sites, start.plan, params, TARGET)
    plain = install(network, layers.roundings)
    with torch.no_grad():
        simulated, exact = (body(torch.tensor(images)).numpy() for body in (network, model.body))
    tensors = {path: layer.weight for path, layer in plain.items()}
    codes, values = layers.codes(tensors), layers.values(tensors)
    remove(network, plain, values)
    end = calibrated(replace(model, body=network), params, run)
    plan, missed = learned_plan(end.model.body, end.sites, end.plan, layers, codes)
    in_runtime = predict(replace(end.model, quant=plan), images)
    assert missed == {}
    spread = exact.std()
    assert np.abs(in_runtime - simulated).mean() < 0.02 * spread
    if weights == "int2":
        assert np.abs(exact - simulated).mean() > 0.1 * spread


def test_readers_of_one_tensor_share_its_range(model: Model, start: Calibrated) -> None:
    layers = find_layers(copy.deepcopy(model.body), start.sites, start.plan, QatParams(), TARGET)
    assert layers.inputs["left"] is layers.inputs["right"]
    assert len({id(quantizer) for quantizer in layers.inputs.values()}) == 4
    pooled = next(site for site in start.sites if site.op == "MaxPool")
    assert layers.by_tensor[pooled.inputs[0]] is layers.by_tensor[pooled.output] is layers.inputs["head"]


@pytest.mark.parametrize(
    ("params", "limits"),
    [
        (QatParams(), [127] * 5),
        (QatParams(weights="int4"), [127, 7, 7, 7, 127]),
        (QatParams(weights="int2", first_and_last="same"), [1] * 5),
        (QatParams(weights="int4", overrides=(QatOverride(match="left*", weights="int8"),)), [127, 127, 7, 7, 127]),
    ],
    ids=["8 bits", "4 bits, ends in 8", "2 bits everywhere", "an exception"],
)
def test_widths_are_what_was_asked_for(model: Model, start: Calibrated, params: QatParams, limits: list[int]) -> None:
    layers = find_layers(copy.deepcopy(model.body), start.sites, start.plan, params, TARGET)
    assert [layers.by_path[name].rounder.limit for name in ("stem", "left", "right", "last", "head")] == limits


def test_processors_without_vnni_get_weights_that_cannot_overflow(model: Model, start: Calibrated) -> None:
    layers = find_layers(
        copy.deepcopy(model.body), start.sites, start.plan, QatParams(), Target("onnxruntime", profile="x86-avx2")
    )
    assert [layer.rounder.limit for layer in layers.by_path.values()] == [64] * 5


def test_scales_are_parameters_only_when_they_are_learned(model: Model, start: Calibrated) -> None:
    for params, count in (
        (QatParams(weights="int4"), 3 + 4),
        (QatParams(weights="int8"), 4),
        (QatParams(weights="int4", learn_scales=False), 0),
    ):
        network = copy.deepcopy(model.body)
        before = len(list(network.parameters()))
        install(network, find_layers(network, start.sites, start.plan, params, TARGET).roundings)
        assert len(list(network.parameters())) == before + count


class Doubled(nn.Linear):
    def forward(self, input: "torch.Tensor") -> "torch.Tensor":
        return super().forward(2 * input)


def test_layers_that_another_reads_or_that_compute_otherwise_are_left_alone() -> None:
    network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4), Doubled(4, 4))
    network[1].weight = network[0].weight
    assert list(layers_of(network)) == ["2"]


def test_frozen_norms_keep_their_statistics() -> None:
    network = nn.Sequential(nn.BatchNorm2d(2), nn.Dropout())
    hook = FreezeNorms(1.2)
    for epoch, is_moved in ((0, True), (1, True), (2, False)):
        before = network[0].running_mean.clone()
        network.train()
        hook.before_epoch(network, StepInfo(0, 3, epoch))
        network(torch.randn(4, 2, 3, 3) + 1)
        assert bool((network[0].running_mean != before).all()) is is_moved
        assert network[1].training


def test_zeros_of_an_earlier_stage_stay(model: Model, tmp_path: Path) -> None:
    network = copy.deepcopy(model.body)
    with torch.no_grad():
        network.left.weight[:, ::2] = 0
    run, _ = context(tmp_path, model, target=TARGET)
    pruned = replace(model, body=network, sparse=("left.weight",))
    found = apply(pruned, QatParams(weights="int4", **{**BRISK, "epochs": 1}), run)
    exported = index(found.model.body.graph).array("left.weight")
    assert exported is not None
    assert not exported[:, ::2].any()
    assert exported[:, 1::2].any()


def test_a_network_without_layers_to_round_is_refused(model: Model, tmp_path: Path) -> None:
    """Its product is quantized in the graph, and what the class computes with its weight is not known."""
    run, _ = context(tmp_path, model, target=TARGET)
    network = nn.Sequential(nn.Flatten(), Doubled(64, 10)).eval()
    with pytest.raises(NothingToCompressError, match="nothing to train"):
        apply(replace(model, body=network), QatParams(), run)


def recipe(
    folder: Path, stages: str, model: str = "builtin, name: digits-resnet", data: str = "data: {source: digits}"
) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(f"recipe: compressctl/v1\nmodel: {{source: {model}}}\n{data}\nstages: [{stages}]\n")
    return path


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ("{use: quantize.qat, epochs: 0}", "this technique is its training"),
        ("{use: quantize.binary, epochs: 0}", "this technique is its training"),
        ("{use: quantize.qat, label_weight: 0.5}", "name one, or leave label_weight out"),
        ("{use: quantize.static}, {use: quantize.qat}", "trains or edits a torch model"),
        ("{use: quantize.qat}, {use: quantize.static}", "already quantized by an earlier stage"),
        ("{use: quantize.binary, threshold: learned}", "threshold belongs to levels: ternary"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused_in_words(tmp_path: Path, stages: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        make_plan(load(recipe(tmp_path, stages)), None)


@pytest.mark.parametrize("use", ["quantize.qat", "quantize.binary"])
def test_without_data_there_is_nothing_to_fall_back_to(tmp_path: Path, use: str) -> None:
    with pytest.raises(RecipeError, match="training data"):
        make_plan(load(recipe(tmp_path, f"{{use: {use}, teacher: original}}", data="")), None)


STAGES = """
  - id: w4a8
    use: quantize.qat
    weights: int4
    teacher: original
    epochs: 1
    batch_size: 64
    augment: {crop_padding: 1}
    precision: bfloat16
    if_slower: keep
"""


@pytest.mark.slow
def test_the_exported_file_scores_what_the_report_says(shell: Shell) -> None:
    shell.recipe("recipe.yaml", STAGES)
    done = shell.run("apply", "recipe.yaml", "--output", "out")
    assert done.code == 0, done.err
    report = shell.report("out")
    part = report["backends"][0]["compressed"]
    path = shell.folder / "out" / part["path"]
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    batch = next(digits_data().split("test").batches(359))
    outputs = session.run(None, {session.get_inputs()[0].name: batch.inputs["input"]})[0]
    assert part["score"]["value"] == pytest.approx((outputs.argmax(1) == batch.labels).mean() * 100)
    assert part["score"]["value"] > 95
    facts = next(stage for stage in report["stages"] if stage["id"] == "w4a8")["facts"]
    assert abs(facts["runtime_minus_simulation"]) < 1
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}
    codes = [value for value in stored.values() if value.dtype == np.int8 and value.ndim == 4]
    assert sum(np.abs(value).max() <= 7 for value in codes) == len(codes) - 1 == 10
