"""Training in 16 bits, on a device that has such products and on one that has not, as the same loop finds them."""

from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")

from compressctl.core.events import Event, Events  # noqa: E402
from compressctl.core.model import Model  # noqa: E402
from compressctl.core.source import SplitSizes, metrics  # noqa: E402
from compressctl.core.target import Target  # noqa: E402
from compressctl.core.technique import RunContext  # noqa: E402
from compressctl.recipe.schema import DataSection  # noqa: E402
from compressctl.sources.builtin import load, untrained  # noqa: E402
from compressctl.sources.load import load_dataset  # noqa: E402
from compressctl.sources.params import BuiltinParams, DigitsParams  # noqa: E402
from compressctl.training import mixed_precision  # noqa: E402
from compressctl.training.loop import Trained, train  # noqa: E402
from compressctl.training.objective import task_objective  # noqa: E402
from compressctl.training.params import TrainingParams  # noqa: E402


def trained(precision: str, heard: list[Event]) -> Trained:
    data = load_dataset(DataSection("digits", DigitsParams(), SplitSizes(validation=100, test=1500)), Path(), 0)
    run = RunContext(7, Events(heard.append), Path(), Target("onnxruntime"), data=data, metric=metrics.get("accuracy"))
    torch.manual_seed(1)
    model: Model = replace(load(BuiltinParams(name="digits-resnet"), Path(), 0), body=untrained("digits-resnet"))
    params = TrainingParams.model_validate({"epochs": 1, "precision": precision})
    return train(model, task_objective("classification"), params, run)


def warnings(heard: list[Event]) -> list[str]:
    return [event.fields["message"] for event in heard if event.kind == "warning"]


def test_a_processor_without_16_bit_products_trains_in_float32_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mixed_precision, "has_16_bit_products", lambda device: False)
    heard: list[Event] = []
    found, plain = trained("bfloat16", heard), trained("float32", [])
    assert found.facts["loss"] == plain.facts["loss"]
    assert found.facts["precision"] == "float32"
    (warning,) = [text for text in warnings(heard) if "bfloat16" in text]
    assert "trained in float32" in warning


def test_a_device_with_16_bit_products_uses_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mixed_precision, "has_16_bit_products", lambda device: True)
    heard: list[Event] = []
    found, plain = trained("bfloat16", heard), trained("float32", [])
    assert found.facts["loss"] != plain.facts["loss"]
    assert found.facts["precision"] == "bfloat16"
    assert not [text for text in warnings(heard) if "bfloat16" in text]
    assert "precision" not in plain.facts


def test_graphics_cards_have_them_and_a_torch_without_onednn_does_not_fail() -> None:
    assert mixed_precision.has_16_bit_products(torch.device("cuda"))
    assert mixed_precision.has_16_bit_products(torch.device("cpu")) in (True, False)


def test_where_16_bits_are_the_slower_ones_a_warning_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    network, x = torch.nn.Linear(4, 4), torch.ones(2, 4)
    monkeypatch.setattr(mixed_precision, "times_as_long", lambda network, inputs: 1.34)
    for steps, said in ((1000, 1), (10, 0)):
        heard: list[Event] = []
        mixed_precision.warn_where_slower(network, (x,), steps, Events(heard.append))
        assert ["1.3 times as long in bfloat16" in text for text in warnings(heard)] == [True] * said


def test_timing_a_step_changes_nothing() -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.Dropout(0.5)).eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    torch.manual_seed(3)
    wanted = torch.rand(2)
    torch.manual_seed(3)
    assert mixed_precision.times_as_long(network, (torch.ones(4, 3, 8, 8),)) > 0
    assert torch.equal(torch.rand(2), wanted)
    assert not network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(weight.grad is None for weight in network.parameters())
