"""Timings that stages decide by are taken once for equal layers, and only quiet ones are kept."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from compressctl.core.cache import Cache
from compressctl.core.model import OnnxModel, Signature
from compressctl.core.target import Target
from compressctl.measure import quick_latency
from compressctl.measure.quick_latency import Timing
from compressctl.pipeline.timings import key_of, timed

TARGET = Target("onnxruntime")
X = {"x": np.zeros((1, 8), np.float32)}


def product(width: int, seed: int = 0) -> OnnxModel:
    weight = np.random.default_rng(seed).standard_normal((8, width)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", width])],
        [numpy_helper.from_array(weight, "w")],
    )
    return OnnxModel(helper.make_model(graph), Signature((), ()))


class Clock:
    """Gives a new timing at each call, and counts."""

    def __init__(self, spread: float = 0.01) -> None:
        self.calls, self.spread = 0, spread

    def __call__(self) -> Timing:
        self.calls += 1
        return Timing((1.0 * self.calls, 2.0 * self.calls), self.spread)


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def ask(
    cache: Cache | None, clock: Callable[[], Timing], widths: tuple[int, int] = (4, 6), seed: int = 0
) -> tuple[float, ...]:
    return timed([product(width, seed) for width in widths], [X, X], TARGET, cache, clock)


def test_equal_layers_are_timed_once_whatever_they_have_learned(cache: Cache) -> None:
    clock = Clock()
    assert ask(cache, clock) == ask(cache, clock, seed=7) == (1.0, 2.0)
    assert clock.calls == 1
    ask(cache, clock, widths=(4, 5))
    ask(cache, clock, widths=(6, 4))
    assert clock.calls == 3, "other layers, and others in turn with them"


def test_what_a_busy_machine_measured_is_not_kept(cache: Cache) -> None:
    clock = Clock(spread=0.2)
    assert ask(cache, clock) == (1.0, 2.0)
    assert ask(cache, clock) == (2.0, 4.0)


def test_without_a_cache_everything_is_timed() -> None:
    clock = Clock()
    ask(None, clock)
    ask(None, clock)
    assert clock.calls == 2


@pytest.mark.parametrize(
    "content", ["", "[]", '{"ms": [1.0]}', '{"ms": [1.0, -2.0]}', '{"ms": [1.0, "a"]}', '{"ms": 3}']
)
def test_an_entry_that_is_no_timing_of_these_models_is_not_used(cache: Cache, content: str) -> None:
    key = key_of([product(4), product(6)], [X, X], TARGET)
    cache.write(key, lambda folder: (folder / "timing.json").write_text(content) and None)
    assert ask(cache, Clock()) == (1.0, 2.0)


def test_the_target_and_the_shapes_count() -> None:
    models = [product(4)]
    keys = [
        key_of(models, [X], TARGET),
        key_of(models, [X], replace(TARGET, threads=2)),
        key_of(models, [X], replace(TARGET, backend="openvino")),
        key_of(models, [X], replace(TARGET, options={"precision": "float16"})),
        key_of(models, [{"x": np.zeros((2, 8), np.float32)}], TARGET),
    ]
    assert len(set(keys)) == len(keys)


def test_rounds_that_differ_show_in_the_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {"steady": itertools.repeat(1e-3), "restless": itertools.cycle([1e-3] * 12 + [2e-3] * 12)}
    monkeypatch.setattr(quick_latency, "_seconds", lambda call: next(seconds[call()]))
    calls: dict[str, Callable[[], object]] = {"steady": lambda: "steady", "restless": lambda: "restless"}
    assert quick_latency.time_in_turn([calls["steady"]], 0.0).spread == 0
    assert quick_latency.time_in_turn([calls["steady"], calls["restless"]], 0.0).spread > 0.2


def test_joules_are_of_one_call_however_many_were_run() -> None:
    counted = 0.0

    def call(takes: float) -> Callable[[], object]:
        def run() -> None:
            nonlocal counted
            counted += takes

        return run

    found = quick_latency.joules_in_turn([call(0.25), call(2.0)], lambda: counted, 0.01)
    assert found == pytest.approx((0.25, 2.0))
