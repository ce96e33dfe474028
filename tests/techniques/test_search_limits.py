"""Limits beside arithmetic and size: memory, several runtimes at once, energy. Each holds by what was measured."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.digit_runs import context, digits_data
from torch import Tensor, nn

from compressctl.core.errors import MachineError, MissingDeviceError, StageError
from compressctl.core.machine import nvidia_gpu
from compressctl.core.model import Model, Signature, TensorSpec, TorchModel
from compressctl.core.target import Target
from compressctl.core.technique import ModelFacts, RunContext, StageResult
from compressctl.layers.channels.dependency_groups import example_inputs
from compressctl.layers.live_values import live_values
from compressctl.pipeline.run import check_installed
from compressctl.recipe.loader import load
from compressctl.sources.networks import digits_resnet
from compressctl.techniques.search import architecture, replacements
from compressctl.techniques.search.params import ArchitectureParams, ReplacementsParams

IMAGE = Signature(
    (TensorSpec("input", "float32", ("batch", 1, 8, 8)),), (TensorSpec("output", "float32", ("batch", 10)),)
)


def resnet() -> TorchModel:
    torch.manual_seed(0)
    return TorchModel(digits_resnet().eval(), IMAGE)


def on_digits(folder: Path, **others: Any) -> RunContext:
    return replace(context(folder, digits_data()), task="classification", **others)


def parameters_of(models: Sequence[Model], power: float) -> tuple[float, ...]:
    """A clock that goes by sizes; a power below 1 makes tables of single cuts too hopeful."""
    return tuple(
        sum(value.numel() for value in each.body.parameters()) ** power
        for each in models
        if isinstance(each, TorchModel)
    )


def searched(use: str, at_most: dict[str, Any], run: RunContext) -> StageResult:
    if use == "architecture":
        few = {"evaluations": 6, "population": 2, "samples": 64, "bn_samples": 0}
        return architecture.apply(resnet(), ArchitectureParams.model_validate({"at_most": at_most, **few}), run)
    few = {"steps": 2, "fit_samples": 64, "samples": 64, "bn_samples": 0}
    return replacements.apply(resnet(), ReplacementsParams.model_validate({"at_most": at_most, **few}), run)


def share_of(result: StageResult, power: float) -> float:
    before, after = parameters_of([resnet(), result.model], power)
    return after / before


@pytest.mark.parametrize("use", ["architecture", "replacements"])
def test_a_network_keeps_its_limit_on_every_runtime_that_is_named(use: str, tmp_path: Path) -> None:
    powers = {"onnxruntime": 0.5, "openvino": 0.9}
    asked: set[str] = set()

    def clock_in(name: str) -> Callable[[Sequence[Model]], tuple[float, ...]]:
        asked.add(name)
        return lambda models: parameters_of(models, powers[name])

    run = on_digits(tmp_path, latency_in=clock_in)
    result = searched(use, {"latency": {"onnxruntime": 0.8, "openvino": 0.7}}, run)
    assert asked == set(powers)
    for name, power in powers.items():
        assert result.facts["reached"][f"latency.{name}"] == pytest.approx(share_of(result, power), abs=1e-4)
    assert share_of(result, 0.5) <= 0.8
    assert share_of(result, 0.9) <= 0.7
    assert set(result.facts["predicted"]) == {f"latency.{name}" for name in powers}


@pytest.mark.parametrize("use", ["architecture", "replacements"])
def test_milliseconds_are_a_limit_too_on_one_runtime_beside_a_share_on_another(use: str, tmp_path: Path) -> None:
    whole = parameters_of([resnet()], 0.7)[0]
    run = on_digits(tmp_path, latency_in=lambda name: lambda models: parameters_of(models, 0.7))
    at_most = {"latency": {"openvino": 0.9}, "latency_ms": {"onnxruntime": 0.8 * whole, "openvino": whole}}
    result = searched(use, at_most, run)
    assert result.facts["goal"] == {
        "latency.openvino": pytest.approx(0.9), "latency.onnxruntime": pytest.approx(0.8)
    }  # fmt: skip
    assert share_of(result, 0.7) <= 0.8


@pytest.mark.parametrize("use", ["architecture", "replacements"])
def test_energy_is_held_as_the_counters_tell_it(use: str, tmp_path: Path) -> None:
    run = on_digits(tmp_path, joules=lambda models: parameters_of(models, 0.6))
    result = searched(use, {"energy": 0.75}, run)
    assert result.facts["reached"]["energy"] == pytest.approx(share_of(result, 0.6), abs=1e-4)
    assert share_of(result, 0.6) <= 0.75


@pytest.mark.parametrize("use", ["architecture", "replacements"])
def test_where_nothing_counts_energy_the_limit_says_so(use: str, tmp_path: Path) -> None:
    def joules(models: Sequence[Model]) -> tuple[float, ...]:
        raise MachineError("energy cannot be measured: this machine shows no RAPL counters")

    with pytest.raises(MachineError, match="RAPL"):
        searched(use, {"energy": 0.75}, on_digits(tmp_path, joules=joules))
    with pytest.raises(StageError, match="no runtime to measure energy"):
        searched(use, {"energy": 0.75}, on_digits(tmp_path))


@pytest.mark.parametrize("batch", [1, 16])
@pytest.mark.parametrize("share", [0.5, 0.8])
def test_a_limit_on_memory_is_what_the_network_needs(share: float, batch: int, tmp_path: Path) -> None:
    def needs(model: Model) -> float:
        assert isinstance(model, TorchModel)
        inputs = example_inputs(model.signature)
        weights = sum(
            value.numel() for name, value in model.body.named_parameters() if value.ndim > 1 and "weight" in name
        )
        return 4 * weights + batch * live_values(model.body.eval(), inputs).peak() / len(inputs[0])

    run = on_digits(tmp_path, target=Target("onnxruntime", batch_size=batch))
    result = searched("architecture", {"memory": share}, run)
    reached = needs(result.model) / needs(resnet())
    assert reached <= share
    assert result.facts["reached"]["memory"] == pytest.approx(reached)


def test_unknown_runtimes_and_limits_that_a_technique_has_not_are_refused_before_anything_runs() -> None:
    from compressctl.core.model import Form

    params = ArchitectureParams.model_validate({"at_most": {"latency": {"onnxrt": 0.5}}})
    found = list(params.problems(ModelFacts(Form.TORCH, Target("onnxruntime"))))
    assert [(each.path, each.message) for each in found] == [
        ("at_most.latency", "there is no backend onnxrt to time in")
    ]
    with pytest.raises(ValueError, match="limit parameters"):
        ReplacementsParams.model_validate({"at_most": {"memory": 0.5}})
    for wrong in ({"latency": {}}, {"latency": 0}, {"latency": {"openvino": 2}}, {"memory": 0}, {}):
        with pytest.raises(ValueError, match="at_most"):
            ArchitectureParams.model_validate({"at_most": wrong})


@pytest.mark.skipif(nvidia_gpu() is not None, reason="there is a GPU to measure on")
@pytest.mark.parametrize("where", ["{latency: {tensorrt: 0.5}}", "{latency: 0.5}"])
def test_a_runtime_that_only_stands_in_holds_no_latency(where: str, tmp_path: Path) -> None:
    """TensorRT's file runs in another runtime here: its results mean something, its speed does not."""
    recipe = tmp_path / "r.yaml"
    target = "tensorrt" if "tensorrt" not in where else "onnxruntime"
    recipe.write_text(
        "recipe: compressctl/v1\nname: r\nmodel: {source: builtin, name: digits-resnet}\ndata: {source: digits}\n"
        f"target: {{backend: {target}}}\nstages: [{{use: search.architecture, at_most: {where}}}]\nexport: [{target}]\n"
    )
    with pytest.raises(MissingDeviceError, match="cannot be measured here"):
        check_installed(load(recipe))


class Chain(nn.Module):
    """Layers one after the other, with a shortcut around some of them."""

    def __init__(self, widths: Sequence[int], joins: int) -> None:
        super().__init__()
        pairs = zip((3, *widths), (*widths, 5), strict=True)
        self.layers = nn.ModuleList(nn.Conv2d(before, after, 3, padding=1) for before, after in pairs)
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in widths)
        self.back = nn.Conv2d(widths[joins], widths[joins], 1)
        self.joins = joins

    def forward(self, x: Tensor) -> Tensor:
        for place, (layer, norm) in enumerate(zip(self.layers, self.norms, strict=False)):
            x = torch.relu(norm(layer(x)))
            if place == self.joins:
                x = torch.relu(x + self.back(x))
        found: Tensor = self.layers[-1](x)
        return found


@settings(max_examples=30, deadline=None)
@given(widths=st.lists(st.integers(1, 20), min_size=1, max_size=5), data=st.data())
def test_what_is_alive_at_once_is_what_the_widest_neighbours_take(widths: list[int], data: st.DataObject) -> None:
    """A convolution reads one value and gives another; norms and activations take no more. The input stays."""
    joins = data.draw(st.integers(0, len(widths) - 1))
    values = live_values(Chain(widths, joins).eval(), (torch.zeros(1, 3, 6, 6),))
    pixel = 4 * 36
    sizes = [3, *widths, 5]
    most = max(sizes[place] + sizes[place + 1] + (3 if place else 0) for place in range(len(sizes) - 1))
    # The shortcut's own convolution reads what the join reads as well.
    most = max(most, 2 * widths[joins] + 3)
    assert values.peak() == most * pixel
    assert values.peak(np.zeros_like(values.sizes)) == 0
