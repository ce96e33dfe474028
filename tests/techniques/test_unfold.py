"""A norm that comes back changes nothing, and folds away again."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.digit_runs import context, digits_data
from torch import Tensor, nn

from compressctl.core.errors import NothingToCompressError, UsageError
from compressctl.core.model import Signature, TensorSpec, TorchModel
from compressctl.graph.execute import ActivationRecorder
from compressctl.graph.lower import lower
from compressctl.layers.channels.dependency_groups import example_inputs
from compressctl.sources.networks import digits_resnet
from compressctl.techniques.unfold.params import UnfoldParams
from compressctl.techniques.unfold.unfold import apply, bare_convolutions

IMAGE = Signature(
    (TensorSpec("input", "float32", ("batch", 1, 8, 8)),), (TensorSpec("output", "float32", ("batch", 10)),)
)


class Mixed(nn.Module):
    """One convolution with a norm, one depthwise without, one whose every output is 0, one that runs twice, one that is the output."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.dead = nn.Conv2d(8, 8, 1, bias=False)
        self.twice = nn.Conv2d(8, 8, 1)
        self.last = nn.Conv2d(8, 10, 8)
        nn.init.zeros_(self.dead.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.first(x)))
        x = torch.relu(self.depthwise(x)) + self.dead(x)
        return self.last(self.twice(self.twice(x)))


def made(network: nn.Module) -> TorchModel:
    return TorchModel(network.eval(), IMAGE)


def test_norms_come_back_without_a_change_and_fold_away_again(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = made(Mixed())
    assert bare_convolutions(model.body, example_inputs(IMAGE)) == ["depthwise", "dead"]
    result = apply(model, UnfoldParams(samples=256), context(tmp_path, digits_data()))
    assert isinstance(result.model, TorchModel)
    assert result.facts == {"norms": ["depthwise", "dead"], "with_a_norm_already": 1}
    inputs = example_inputs(IMAGE, 7)
    with torch.no_grad():
        assert torch.allclose(result.model.body(*inputs), model.body(*inputs), atol=1e-5)
    files = [lower(replace(each, signature=_map(each))) for each in (model, result.model)]
    assert sorted(node.op_type for node in files[0].body.graph.node) == sorted(
        node.op_type for node in files[1].body.graph.node
    )
    first, second = (
        ActivationRecorder(one.body, ["output"]).run({"input": inputs[0].numpy()})["output"] for one in files
    )
    assert np.allclose(first, second, atol=1e-5)


def _map(model: TorchModel) -> Signature:
    return replace(model.signature, outputs=(TensorSpec("output", "float32", ("batch", 10, 1, 1)),))


def test_in_training_mode_each_channel_is_normalized(tmp_path: Path) -> None:
    torch.manual_seed(0)
    data = digits_data()
    result = apply(made(Mixed()), UnfoldParams(match="depthwise", samples=1024), context(tmp_path, data))
    assert isinstance(result.model, TorchModel)
    norm = result.model.body.get_submodule("depthwise.norm")
    assert isinstance(norm, nn.BatchNorm2d)
    seen: list[Tensor] = []
    norm.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    batch = torch.from_numpy(next(iter(data.split("train").batches(1024))).inputs["input"])
    with torch.no_grad():
        result.model.body(batch)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert torch.allclose(norm.running_mean, seen[0].mean((0, 2, 3)), atol=0.02)
    assert torch.allclose(norm.running_var, seen[0].var((0, 2, 3)), rtol=0.1, atol=1e-4)
    assert torch.allclose(norm.weight, (norm.running_var + norm.eps).sqrt())


def test_what_cannot_be_unfolded_is_said(tmp_path: Path) -> None:
    with pytest.raises(NothingToCompressError, match="no convolution lacks a norm"):
        apply(made(digits_resnet()), UnfoldParams(), context(tmp_path, digits_data()))
    with pytest.raises(UsageError, match="on samples, and there are none"):
        apply(made(Mixed()), UnfoldParams(), context(tmp_path))
