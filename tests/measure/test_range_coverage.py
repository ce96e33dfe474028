"""Test activations against calibrated ranges, and whether calibration saw enough."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.graphs import residual_model

from compressctl.core.data import Batch
from compressctl.core.events import Events
from compressctl.core.model import Model
from compressctl.core.target import Target
from compressctl.core.technique import RunContext
from compressctl.measure.range_coverage import range_coverage
from compressctl.techniques.quantize.params import StaticParams
from compressctl.techniques.quantize.static import apply


@dataclass(frozen=True)
class Maps:
    x: np.ndarray

    def __len__(self) -> int:
        return len(self.x)

    def batches(self, size: int, *, shuffle_seed: int | None = None) -> Iterator[Batch]:
        for start in range(0, len(self.x), size):
            part = np.arange(start, min(start + size, len(self.x)))
            yield Batch({"x": self.x[part]}, None, part)


@dataclass(frozen=True)
class Data:
    calibration: np.ndarray
    test: np.ndarray
    classes: tuple[str, ...] | None = None

    def split(self, name: str) -> Maps:
        return Maps(self.test if name == "test" else self.calibration)


def _maps(count: int, seed: int, size: float = 1.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal((count, 8, 6, 6)) * size).astype(np.float32)


def _calibrated(x: np.ndarray, folder: Path, **params: object) -> tuple[Model, dict[str, object], list[str]]:
    said: list[str] = []
    events = Events(lambda event: said.append(str(event.fields.get("message", ""))))
    run = RunContext(0, events, folder, Target("onnxruntime", profile="x86-vnni"), Data(x, x))  # type: ignore[arg-type]
    result = apply(replace(residual_model(), quant=None), StaticParams.model_validate(params), run)
    return result.model, dict(result.facts), said


@pytest.mark.parametrize("ranges", ["minmax", "percentile", "entropy", "mse"])
def test_data_like_the_calibrations_stay_inside(tmp_path: Path, ranges: str) -> None:
    model, _, _ = _calibrated(_maps(64, 0), tmp_path, ranges=ranges)
    found = range_coverage(model, Data(_maps(64, 0), _maps(64, 1)))  # type: ignore[arg-type]
    assert found is not None
    assert found.samples == 16
    assert not found.is_notable
    assert found.share < 0.01


@pytest.mark.parametrize("ranges", ["minmax", "percentile", "entropy", "mse"])
def test_larger_inputs_than_calibration_saw_are_named(tmp_path: Path, ranges: str) -> None:
    x = _maps(64, 0)
    model, _, _ = _calibrated(x, tmp_path, ranges=ranges)
    found = range_coverage(model, Data(x, _maps(64, 1, size=4.0)))  # type: ignore[arg-type]
    assert found is not None
    assert found.is_notable
    assert "x" in found.outside
    assert "leave their range on 16 test samples" in str(found)


@settings(max_examples=25)
@given(share=st.sampled_from([0.0, 0.02, 0.2, 1.0]), seed=st.integers(0, 99))
def test_the_share_is_that_of_a_count_by_hand(
    share: float, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    model = residual_model()
    x = _maps(16, seed, size=0.1)
    far = np.random.default_rng(seed).random(x.shape) < share
    x[far] = 100.0
    found = range_coverage(model, Data(_maps(16, 7, size=0.1), x))  # type: ignore[arg-type]
    assert found is not None
    assert found.tensors == 4
    if share:
        assert found.outside["x"] == pytest.approx(far.mean())
    else:
        assert "x" not in found.outside


def test_nothing_is_said_without_fixed_ranges_or_test_data() -> None:
    x = _maps(8, 0)
    assert range_coverage(replace(residual_model(), quant=None), Data(x, x)) is None  # type: ignore[arg-type]
    assert range_coverage(residual_model(), Data(x, x[:0])) is None  # type: ignore[arg-type]


def test_samples_that_grow_to_the_end_are_too_few(tmp_path: Path) -> None:
    growing = _maps(40, 0) * np.geomspace(0.1, 10, 40, dtype=np.float32)[:, None, None, None]
    _, facts, said = _calibrated(growing, tmp_path)
    assert str(facts["calibration_enough"]).startswith("no: the last quarter of 40 calibration samples widened 3 of 3")
    assert any(text.startswith("too few calibration samples") for text in said)
    assert set(facts["ranges_widened"]) <= {"x", "r1", "c2"}  # type: ignore[call-overload]
    _, facts, said = _calibrated(growing[::-1].copy(), tmp_path)
    assert str(facts["calibration_enough"]).startswith("yes")
    assert not any("calibration samples" in text for text in said)


def test_one_sample_cannot_be_judged(tmp_path: Path) -> None:
    _, facts, _ = _calibrated(_maps(1, 0), tmp_path)
    assert str(facts["calibration_enough"]).startswith("not judged")
