"""prune.layers: blocks that do nothing go first, what has no way past it stays."""

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from support.digit_runs import Heard, context, digits_data, digits_model
from support.shell import Shell
from torch import nn

from compressctl.core.data import Batch, Split, SplitName, WrappedDataset
from compressctl.core.errors import StageError, UsageError
from compressctl.graph.lower import lower
from compressctl.sources.structure import read_network, write_network
from compressctl.techniques.prune.layers import apply, residual_blocks, without
from compressctl.techniques.prune.params import LayersParams


@pytest.mark.parametrize(
    ("name", "removable", "fixed"),
    [
        ("digits-resnet", ["block1", "block2"], ["block3", "block4"]),
        ("digits-depthwise", ["block1", "block3", "block5"], ["block2", "block4"]),
    ],
)
def test_blocks_with_a_way_past_their_weights_are_found(name: str, removable: list[str], fixed: list[str]) -> None:
    found, others = residual_blocks(digits_model(name).body, (torch.randn(2, 1, 8, 8),))
    assert found == removable
    assert list(others) == fixed
    assert all("another shape" in reason for reason in others.values())


@pytest.mark.parametrize("norm_first", [True, False])
def test_transformer_layers_are_blocks_also_with_the_norm_behind(norm_first: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, norm_first=norm_first)
    network = nn.Sequential(nn.Linear(8, 32), nn.TransformerEncoder(layer, 3, enable_nested_tensor=False))
    found, fixed = residual_blocks(network.eval(), (torch.randn(2, 5, 8),))
    # torch's encoder reads settings from its first layer, which therefore has to stay.
    assert found == ["1.layers.1", "1.layers.2"]
    assert "looks into it" in fixed["1.layers.0"]
    shorter, x = without(network, found[:1]), torch.randn(2, 5, 8)
    write_network(shorter, network, tmp_path)
    again = read_network(copy.deepcopy(network), tmp_path / "model.safetensors", tmp_path / "structure.json")
    with torch.no_grad():
        assert torch.equal(again.eval()(x), shorter(x))


def test_a_plain_chain_has_no_removable_block(tmp_path: Path) -> None:
    chain = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()))
    assert residual_blocks(chain, (torch.randn(2, 1, 8, 8),))[0] == []


def test_the_block_that_does_nothing_goes_first_and_changes_nothing(tmp_path: Path) -> None:
    model = digits_model("digits-resnet")
    with torch.no_grad():
        norm = model.body.get_submodule("block2.body.1.norm")
        norm.weight.zero_()
        norm.bias.zero_()
    heard = Heard()
    result = apply(model, LayersParams(bn_samples=0), context(tmp_path, digits_data(), heard))
    assert result.facts["removed"] == ["block2"]
    assert result.facts["steps"][0]["loss_rise"]["block2"] == pytest.approx(0, abs=1e-6)
    assert any("block3" in note for note in heard.notes)
    x = torch.randn(3, 1, 8, 8)
    with torch.no_grad():
        assert torch.allclose(result.model.body(x), model.body(x), atol=1e-6)
    assert isinstance(result.model.body.get_submodule("block2"), nn.Identity)
    session = onnxruntime.InferenceSession(
        lower(result.model).body.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    assert np.allclose(session.run(None, {"input": x.numpy()})[0], model.body(x).detach().numpy(), atol=1e-4)


def test_a_block_that_takes_longer_goes_first_when_ranked_by_latency(tmp_path: Path) -> None:
    def clock(models):
        # Only the second model, the one without block1, is much faster.
        return tuple(0.01 if isinstance(model.body.get_submodule("block1"), nn.Identity) else 1.0 for model in models)

    result = apply(
        digits_model("digits-resnet"), LayersParams(criterion="latency"), context(tmp_path, digits_data(), clock=clock)
    )
    assert result.facts["removed"] == ["block1"]


def test_blocks_are_ranked_by_the_outputs_that_move_least_without_labels(tmp_path: Path) -> None:
    model = digits_model("digits-resnet")
    with torch.no_grad():
        norm = model.body.get_submodule("block1.body.1.norm")
        norm.weight.mul_(0.01)
        norm.bias.mul_(0.01)
    run = context(tmp_path, digits_data())
    unlabelled = replace(run, data=WithoutLabels(run.data))
    result = apply(model, LayersParams(criterion="outputs", bn_samples=0), unlabelled)

    assert result.facts["removed"] == ["block1"]
    rises = result.facts["steps"][0]["loss_rise"]
    assert 0 < rises["block1"] < rises["block2"]
    assert result.facts["loss_before"] == 0


@dataclass(frozen=True)
class WithoutLabels(WrappedDataset):
    def split(self, name: SplitName) -> Split:
        return Unlabelled(self.own.split(name))


@dataclass(frozen=True)
class Unlabelled:
    own: Split

    def __len__(self) -> int:
        return len(self.own)

    def batches(self, size: int, *, shuffle_seed: int | None = None) -> Iterator[Batch]:
        for batch in self.own.batches(size, shuffle_seed=shuffle_seed):
            yield replace(batch, labels=None)


def test_too_many_blocks_and_wrong_patterns_are_refused(tmp_path: Path) -> None:
    run = context(tmp_path, digits_data())
    with pytest.raises(StageError, match="only 2 can"):
        apply(digits_model("digits-resnet"), LayersParams(remove=3), run)
    with pytest.raises(UsageError, match="matches no residual block"):
        apply(digits_model("digits-resnet"), LayersParams(match="stage*"), run)


@pytest.mark.slow
def test_the_exported_file_scores_what_the_report_says(shell: Shell) -> None:
    (shell.folder / "recipe.yaml").write_text("""recipe: compressctl/v1
model: {source: builtin, name: digits-resnet}
data: {source: digits, calibration: 100}
stages:
  - {id: shorter, use: prune.layers}
  - {id: slim, use: prune.channels, keep: 0.7}
""")
    done = shell.run("apply", "recipe.yaml", "--output", "out", "--measure", "quick")
    assert done.code == 0, done.err
    part = json.loads((shell.folder / "out" / "report.json").read_text())["backends"][0]
    batch = next(digits_data().split("test").batches(1000))
    path = shell.folder / "out" / part["compressed"]["path"]
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    right = session.run(None, {session.get_inputs()[0].name: batch.inputs["input"]})[0].argmax(1) == batch.labels
    assert right.mean() * 100 == pytest.approx(part["compressed"]["score"]["value"])
    assert part["compressed"]["macs"] < 0.7 * part["baseline"]["macs"]
