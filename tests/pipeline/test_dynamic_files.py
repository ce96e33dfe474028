"""Files that decide by their input: what the report says of ways, scores and times is what an independent loop over the file sees."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from support.digit_runs import context

from compressctl import api
from compressctl.core.events import Events
from compressctl.core.model import Signature, TensorSpec, TorchModel
from compressctl.graph.branches import decisions
from compressctl.graph.execute import ActivationRecorder
from compressctl.graph.index import all_graphs
from compressctl.graph.lower import lower
from compressctl.measure.results import Measurement, Paths
from compressctl.recipe.loader import load
from compressctl.sources.load import load_dataset
from compressctl.sources.modules.early_exits import EarlyExits
from compressctl.sources.networks import digits_resnet
from compressctl.techniques.dynamic import exits
from compressctl.techniques.dynamic.params import ExitsParams
from compressctl.techniques.quantize._calibrate import calibrate

MODEL = "{source: builtin, name: digits-resnet}"
HEAD = """recipe: compressctl/v1
data: {source: digits, calibration: 96, validation: 0.2}
target: {threads: 1}
"""
EXITS = "{id: exits, use: dynamic.exits, epochs: 4, learning_rate: 0.02, cost: macs, drop: 1}"
GATED = """import torch
from compressctl.sources.modules.gated_block import GatedBlock
from compressctl.sources.networks import digits_resnet
from sklearn.datasets import load_digits


def gated():
    torch.manual_seed(0)
    network = digits_resnet().eval()
    images = torch.tensor(load_digits().images, dtype=torch.float32)[:, None] / 16
    for name, features in (("block2", 32), ("block1", 32)):
        block = GatedBlock.around(getattr(network, name), features=features).eval()
        setattr(network, name, block)
        seen = []
        handle = block.gate.register_forward_hook(lambda module, args, output: seen.append(output))
        with torch.no_grad():
            network(images)
            block.threshold.fill_(torch.cat(seen).median())
        handle.remove()
    return network
"""
"""Half of the samples skip each of two blocks, whatever a training would make of its gates."""
INT8 = "{id: int8, use: quantize.static, if_slower: keep}"


def run(folder: Path, *stages: str, export: str = "onnxruntime", more: str = "", model: str = MODEL) -> Any:
    lines = "".join(f"  - {stage}\n" for stage in stages)
    (folder / "recipe.yaml").write_text(f"{HEAD}model: {model}\nexport: [{export}]\n{more}stages:\n{lines}")
    return api.apply(folder / "recipe.yaml", output=folder / "out", measure="quick").report


def test_images(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    recipe = load(folder / "recipe.yaml")
    assert recipe.data is not None
    batches = list(load_dataset(recipe.data, recipe.base, recipe.seed).split("test").batches(64))
    return (
        np.concatenate([np.asarray(batch.inputs["input"]) for batch in batches]),
        np.concatenate([np.asarray(batch.labels) for batch in batches]),
    )


test_images.__test__ = False  # type: ignore[attr-defined]


def watched(file: Path) -> tuple[ort.InferenceSession, list[str]]:
    """The file with the conditions of all its branches as outputs of the nodes around them, where those are in the main graph."""
    model = onnx.load(file)
    conditions = [node.input[0] for node in model.graph.node if node.op_type == "If"]
    for name in conditions:
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.BOOL, []))
    return ort.InferenceSession(model.SerializeToString()), conditions


@pytest.mark.slow
@pytest.mark.parametrize("stages", [(EXITS,), (EXITS, INT8), (INT8,)], ids=["exits", "exits-int8", "blocks-int8"])
def test_ways_and_scores_are_those_of_the_file_itself(stages: tuple[str, ...], tmp_path: Path) -> None:
    if EXITS in stages:
        report = run(tmp_path, *stages)
    else:
        (tmp_path / "networks.py").write_text(GATED)
        factory = "{source: python, factory: networks.py:gated, input_shape: [1, 8, 8]}"
        report = run(tmp_path, *stages, model=factory)
    found: Measurement = report.backends[0].compressed
    paths = found.paths
    assert isinstance(paths, Paths)
    assert found.latency is not None
    assert found.latency.inputs > 1
    assert found.latency.fastest_ms < found.latency.slowest_ms
    assert found.latency.worst_ms > found.latency.fastest_ms
    assert sum(path.share for path in paths.paths) == pytest.approx(1)
    assert paths.least_macs <= paths.average_macs <= paths.worst_macs
    weighted = sum(path.share * path.macs for path in paths.paths)
    assert paths.average_macs == pytest.approx(weighted, rel=0.01)
    assert paths.shifts[0].samples > 0
    file = tmp_path / "out" / "artifacts" / "onnxruntime" / "model.onnx"
    images, labels = test_images(tmp_path)
    session, conditions = watched(file)
    rows = [session.run(None, {"input": images[place : place + 1]}) for place in range(len(images))]
    right = np.mean([row[0].argmax() == label for row, label in zip(rows, labels, strict=True)])
    assert found.score is not None
    assert found.score.value == pytest.approx(100 * right, abs=100 / len(images) * 2)  # a tie may fall otherwise
    if stages[0] is EXITS:
        first = np.mean([bool(row[1 + conditions.index(conditions[0])]) for row in rows])
        mine = sum(path.share for path in paths.paths if path.name == "exit 1")
        assert mine == pytest.approx(first, abs=0.02)
    branches = [node for graph in all_graphs(onnx.load(file).graph) for node in graph.node if node.op_type == "If"]
    assert len(branches) in (1, 2)  # an exit that no sample may leave at is left out
    if INT8 in stages:
        inside = {node.op_type for graph in list(all_graphs(onnx.load(file).graph))[1:] for node in graph.node}
        assert {"QuantizeLinear", "DequantizeLinear", "Conv"} <= inside


@pytest.mark.slow
def test_openvino_takes_the_same_ways(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    report = run(tmp_path, EXITS, INT8, export="onnxruntime, openvino")
    first, second = (part.compressed.paths for part in report.backends)
    assert first is not None
    assert second is not None
    ours, theirs = ({path.name: path.share for path in found.paths} for found in (first, second))
    assert theirs == pytest.approx(ours, abs=0.05)


@pytest.mark.slow
def test_ranges_behind_an_exit_are_those_of_samples_that_reach_them(tmp_path: Path) -> None:
    recipe_path = tmp_path / "recipe.yaml"
    recipe_path.write_text(f"{HEAD}model: {MODEL}\nstages:\n  - {EXITS}\n")
    recipe = load(recipe_path)
    assert recipe.data is not None
    data = load_dataset(recipe.data, recipe.base, recipe.seed)
    signature = Signature(
        (TensorSpec("input", "float32", ("batch", 1, 8, 8)),), (TensorSpec("output", "float32", ("batch", 10)),)
    )
    made = exits.apply(
        TorchModel(digits_resnet().eval(), signature),
        ExitsParams(epochs=4, learning_rate=0.02, exits=1, thresholds=(0.9,)),
        context(tmp_path, data),
    )
    split = data.split("calibration")
    network = next(module for module in made.model.body.modules() if isinstance(module, EarlyExits))
    images = torch.from_numpy(np.concatenate([np.asarray(batch.inputs["input"]) for batch in split.batches(32)]))
    with torch.no_grad():  # half of the samples leave: how sure a trained head is differs from machine to machine
        network.thresholds.fill_(float(network.sureness(network.every(images)[1][0]).median()))
    graph = lower(made.model)
    (decision,) = decisions(graph.body.graph)
    late = next(name for node in decision.late if node.op_type == "Relu" for name in node.output)
    found = calibrate(graph.body, signature, split, [late], [], [late], Events())
    recorder = ActivationRecorder(graph.body, [late, decision.decided])
    values, reach = [], []
    for batch in split.batches(32):
        seen = recorder.run(batch.inputs)
        values.append(seen[late].copy())
        reach.append(~seen[decision.decided].reshape(-1).copy())
    kept = np.concatenate(values)[np.concatenate(reach)]
    assert 16 <= len(kept) < len(np.concatenate(values))
    assert found.histograms[late].high == pytest.approx(float(kept.max()))
    np.testing.assert_allclose(found.means[late], kept.mean(0), rtol=1e-4, atol=1e-5)
