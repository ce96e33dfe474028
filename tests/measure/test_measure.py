"""Measuring: numbers against independent computations, latency on a real file, budgets as a table."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper
from support.reports import file_measurement

from compressctl.backends.onnxruntime import BACKEND
from compressctl.core.backend import Artifact, ExecutedNode
from compressctl.core.errors import StageError
from compressctl.core.model import OnnxModel, Signature, TensorSpec
from compressctl.core.source import metrics
from compressctl.core.target import Target
from compressctl.measure.budget import beside, check
from compressctl.measure.latency import BenchmarkSettings, TimingPoint, compare, speedup
from compressctl.measure.results import Measurement, Speedup
from compressctl.measure.samples import Samples
from compressctl.measure.score import Predictions, change, predict, score
from compressctl.measure.size import size
from compressctl.measure.speed_words import speedup_of
from compressctl.recipe.schema import BudgetSection
from compressctl.sources.dataset import PositionSplit

ACCURACY = metrics.get("accuracy")
QUICK = BenchmarkSettings(launches=2, most_launches=2, rounds=3, warm_up_seconds=0.01, seconds=0.05, runs=20)


def _predictions(outputs: list[int], labels: list[int], classes: int = 3) -> Predictions:
    return Predictions(np.eye(classes, dtype=np.float32)[outputs], np.array(labels), np.arange(len(labels)))


def test_flips_and_classes_are_counted_sample_by_sample() -> None:
    labels = [0] * 10 + [1] * 10 + [2] * 3
    before = _predictions([0] * 9 + [1] + [1] * 10 + [2] * 3, labels)
    after = _predictions([0] * 8 + [1, 0] + [1] * 7 + [0] * 3 + [0] * 3, labels)
    found = change(before, after, ACCURACY, ["a", "b", "c"], "test", "classification")
    assert found.right_to_wrong == 1 + 3 + 3
    assert found.wrong_to_right == 1
    assert found.disagreements == 8
    assert found.drop == pytest.approx((22 - 16) / 23 * 100)
    # Class c loses everything, on three samples: too few to say anything.
    assert found.worst_class == ("b", pytest.approx(30.0))


def test_flips_and_classes_do_not_depend_on_the_metric(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = [0] * 10 + [1] * 10 + [2] * 3
    before, after = _predictions(labels, labels), _predictions([0] * 8 + [1] * 12 + [2] * 3, labels)
    monkeypatch.setattr("compressctl.tasks.metrics.rmse", lambda outputs, labels: 0.25)
    own = replace(metrics.get("rmse"), name="own", tasks=("classification",))
    found, by_accuracy = (
        change(before, after, metric, ["a", "b", "c"], "test", "classification") for metric in (own, ACCURACY)
    )
    assert found == by_accuracy.model_copy(update={"drop": 0.0})
    assert found.worst_class == ("a", pytest.approx(20.0))
    assert change(before, after, own, ["a", "b", "c"], "test", "custom").disagreements is None


@pytest.mark.parametrize("shape", [(23, 3), (23, 1)])
def test_labels_of_several_classes_per_sample_have_no_flips(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int]
) -> None:
    monkeypatch.setattr("compressctl.tasks.metrics.rmse", lambda outputs, labels: 0.25)
    given = Predictions(np.eye(23, 3, dtype=np.float32), np.zeros(shape, np.int64), np.arange(23))
    found = change(given, given, metrics.get("rmse"), ["a", "b", "c"], "test", "classification")
    assert found.disagreements == (None if shape[1] > 1 else 0)


def test_a_metric_cannot_change_what_other_figures_are_computed_from(monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(outputs: np.ndarray, labels: np.ndarray) -> float:
        for array in (outputs, labels):
            with pytest.raises(ValueError, match="read-only"):
                array[:] = 0
        return 1.0

    monkeypatch.setattr("compressctl.tasks.metrics.accuracy", careless)
    given = _predictions([0, 1, 2], [0, 2, 2])
    assert score(given, ACCURACY, None, "test").value == 1.0
    np.testing.assert_array_equal(given.outputs, np.eye(3))
    given.outputs[0] = 5  # ours stay writable


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=60))
def test_classes_weighted_by_size_give_the_whole(pairs: list[tuple[int, int]]) -> None:
    outputs, labels = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    found = score(_predictions(outputs, labels), ACCURACY, ["a", "b", "c"], "test")
    assert found.per_class is not None
    weighted = sum(
        found.per_class[name] * labels.count(index) for index, name in enumerate("abc") if name in found.per_class
    )
    assert found.value == pytest.approx(weighted / len(labels))


def test_r2_and_rmse_agree_with_their_definitions() -> None:
    rng = np.random.default_rng(0)
    labels, outputs = rng.normal(size=50), rng.normal(size=(50, 1)).astype(np.float32)
    found = Predictions(outputs, labels, np.arange(50))
    residual = np.sum((labels - outputs[:, 0].astype(np.float64)) ** 2)
    expected = 1 - residual / np.sum((labels - labels.mean()) ** 2)
    assert score(found, metrics.get("r2"), None, "test").value == pytest.approx(expected)
    assert score(found, metrics.get("rmse"), None, "test").value == pytest.approx(np.sqrt(residual / 50))


@settings(max_examples=20)
@given(st.floats(0.5, 3.0), st.integers(0, 10_000))
def test_the_interval_holds_the_true_ratio_when_launches_differ(ratio: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    before, after = [], []
    for _ in range(5):
        level, shift = rng.uniform(0.8, 1.2, size=8), rng.lognormal(0, 0.03, size=2)
        before.append(ratio * level * shift[0] * rng.lognormal(0, 0.02, size=8))
        after.append(level * shift[1] * rng.lognormal(0, 0.02, size=8))
    found = speedup(before, after)
    assert found.low <= found.ratio <= found.high
    # A 95 % interval may miss; three times its width never does here.
    width = found.high - found.low
    assert found.low - width <= ratio <= found.high + width


def test_a_repeated_measurement_falls_into_the_interval_nine_times_of_ten() -> None:
    rng = np.random.default_rng(0)

    def session() -> Speedup:
        shifts = rng.lognormal(0, 0.02, size=(2, 5, 1))
        blocks = shifts * rng.lognormal(0, 0.01, size=(2, 5, 6))
        return speedup(1.5 * blocks[0], blocks[1])

    inside = 0
    for _ in range(200):
        first, second = session(), session()
        inside += first.low <= second.ratio <= first.high
    assert inside >= 0.85 * 200


def test_no_difference_is_called_no_measurable_change() -> None:
    rng = np.random.default_rng(1)
    blocks = [[rng.lognormal(0, 0.1, size=6) for _ in range(5)] for _ in range(2)]
    assert speedup(*blocks).verdict == "no measurable change"


def _file(path: Path, width: int) -> Artifact:
    weight = np.random.default_rng(0).normal(size=(width, width)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], "product")],
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", width])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["batch", width])],
        [numpy_helper.from_array(weight, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return Artifact("onnxruntime", path, (path,))


def _signature(width: int) -> Signature:
    return Signature((TensorSpec("x", "float32", ("batch", width)),), (TensorSpec("y", "float32", ("batch", width)),))


def _at(width: int, **target: int) -> TimingPoint:
    there = Target("onnxruntime", **target)  # type: ignore[arg-type]
    return TimingPoint(there, Samples(_signature(width)).call(there.batch_size))


def test_latency_is_measured_in_processes_of_their_own(tmp_path: Path) -> None:
    artifacts = [_file(tmp_path / name, 64) for name in ("a.onnx", "b.onnx")]
    points = [_at(64, batch_size=2), _at(64, batch_size=5, threads=2)]
    timing = compare(artifacts, points, _signature(64), None, QUICK)
    first, second = timing.points[0]
    assert first.speed is None
    assert second.speed is not None
    assert first.latency.runs >= 20
    assert first.latency.p50_ms <= first.latency.p90_ms
    assert (first.latency.p99_ms is None) == (first.latency.runs < 1000)
    assert first.latency.samples_per_second == pytest.approx(2 / (first.latency.p50_ms / 1e3))
    assert first.latency.percentiles_ms[50] == pytest.approx(first.latency.p50_ms)
    assert [(run.latency.batch, run.latency.threads) for run in timing.points[1]] == [(5, 2), (5, 2)]
    assert timing.points[1][1].speed is not None
    ratio = second.speed
    assert ratio.alternating is not None
    assert ratio.low < min(ratio.ratio, ratio.alternating)
    assert max(ratio.ratio, ratio.alternating) < ratio.high
    assert 0 <= timing.noise.other_load <= 1
    assert 0 < first.memory.before_bytes <= first.memory.load_peak_bytes <= first.memory.run_peak_bytes
    assert first.load_ms > 0


def test_memory_is_the_workers_own_and_shows_the_weights(tmp_path: Path) -> None:
    ballast = np.ones(60_000_000)
    timing = compare([_file(tmp_path / "large.onnx", 2048)], [_at(2048)], _signature(2048), None, QUICK)
    large = timing.points[0][0]
    assert large.memory.load_peak_bytes < ballast.nbytes
    assert large.memory.load_peak_bytes - large.memory.before_bytes > 2048 * 2048 * 4


def test_a_file_that_cannot_be_opened_is_one_readable_error(tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a graph")
    with pytest.raises(StageError, match=r"broken\.onnx"):
        compare([Artifact("onnxruntime", broken, (broken,))], [_at(64)], _signature(64), None, QUICK)


def test_the_size_ledger_counts_every_byte(tmp_path: Path) -> None:
    artifact = _file(tmp_path / "a.onnx", 64)
    found = size(artifact, OnnxModel(onnx.load(artifact.path), _signature(64)), BACKEND)
    assert found.total_bytes == (tmp_path / "a.onnx").stat().st_size
    whole = zstandard.ZstdCompressor(level=9).compress((tmp_path / "a.onnx").read_bytes())
    assert found.transport_bytes == len(whole) < found.total_bytes
    assert (found.parameters, found.macs) == (64 * 64, 64 * 64)


def _measured(
    drop: float | None = None, ratio: float = 1.0, interval: tuple[float, float] | None = None
) -> Measurement:
    low, high = interval or (ratio - 0.1, ratio + 0.1)
    measured = file_measurement(1000, drop=drop)
    return measured.model_copy(update={"speed": speedup_of(ratio, low, high)})


@pytest.mark.parametrize(
    ("budget", "measured", "holds"),
    [
        ({"size": 1000}, _measured(), True),
        ({"size": 999}, _measured(), False),
        ({"accuracy_drop": 0.1}, _measured(drop=0.1 + 1e-12), True),
        ({"accuracy_drop": 0.1}, _measured(drop=0.11), False),
        ({"accuracy_drop": 0.0}, _measured(drop=-1.0), True),
        ({"accuracy_drop": 0.1}, _measured(drop=None), False),
        ({"worst_class_drop": 1.0}, _measured(drop=0.5), True),
        ({"worst_class_drop": 0.9}, _measured(drop=0.5), False),
        ({"speedup": 1.5}, _measured(ratio=1.6), True),
        ({"speedup": 1.5}, _measured(ratio=1.4), False),
        ({"speedup": 1.02}, _measured(ratio=1.05), False),
        ({"speedup": 0.9}, _measured(ratio=0.95), True),
        ({"speedup": 2}, _measured(ratio=35.35, interval=(1.79, 696.0)), False),
        ({"speedup": 1.5}, _measured(ratio=35.35, interval=(1.79, 696.0)), True),
        ({"speedup": 0.9}, _measured(ratio=1.4, interval=(0.8, 3.0)), False),
        ({"speedup": 0.7}, _measured(ratio=1.4, interval=(0.8, 3.0)), True),
    ],
)
def test_the_budget_table(budget: dict[str, float], measured: Measurement, holds: bool) -> None:
    (line,) = check(BudgetSection.model_validate(budget), measured, "accuracy")
    assert line.holds is holds
    assert line.explanation


def test_no_budget_no_lines() -> None:
    assert check(BudgetSection(), _measured(), "accuracy") == ()


class _Doubling:
    """A session of a fixed batch of 4, which refuses any other."""

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        assert len(inputs["x"]) == 4
        return {"y": 2 * inputs["x"]}


def test_a_fixed_batch_size_leaves_no_sample_out() -> None:
    split = PositionSplit(np.arange(10), lambda at: ({"x": at[:, None].astype(np.float32)}, at % 2))
    signature = Signature((TensorSpec("x", "float32", (4, 1)),), (TensorSpec("y", "float32", (4, 1)),))
    found = predict(_Doubling(), split, signature, 64)  # type: ignore[arg-type]
    assert found.outputs[:, 0].tolist() == [2 * position for position in range(10)]
    assert found.indices.tolist() == list(range(10))
    assert found.labels is not None
    assert len(found.labels) == 10


@pytest.mark.parametrize(("precision", "bits"), [("int8", 8 * 8), ("int4 weights", 4 * 32), ("float32", 32 * 32)])
def test_bit_operations_count_the_weight_and_the_activation(precision: str, bits: int, tmp_path: Path) -> None:
    artifact = _file(tmp_path / "m.onnx", 8)
    model = OnnxModel(onnx.load(artifact.path), _signature(8))
    nodes = [ExecutedNode("product", "MatMul", precision, 100, None)]
    assert size(artifact, model, BACKEND, nodes).bit_operations == 100 * bits


@given(st.floats(-200, 200), st.floats(-0.01, 0.01), st.integers(1, 4), st.sampled_from(["f", "g"]))
def test_a_printed_figure_is_on_the_side_of_its_limit_that_it_was_measured_on(
    limit: float, distance: float, digits: int, style: Literal["f", "g"]
) -> None:
    limit, value = round(limit, 4), round(limit, 4) + round(distance, 6)
    shown = float(beside(limit, value, digits, style))
    assert np.sign(round(shown - limit, 8)) == np.sign(round(value - limit, 8))
