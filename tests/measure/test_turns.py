"""Inputs that take turns: what one costs where the input decides how much is computed."""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.digit_runs import digits_data

from compressctl.core.backend import Artifact
from compressctl.core.model import Signature, TensorSpec
from compressctl.core.target import Target
from compressctl.measure.budget import check
from compressctl.measure.latency import BenchmarkSettings, compare, operating_point
from compressctl.measure.results import Latency
from compressctl.measure.samples import Samples
from compressctl.measure.turns import by_input, packed, typical, unpacked
from compressctl.recipe.schema import BudgetSection

IMAGE = Signature(
    (TensorSpec("input", "float32", ("batch", 1, 8, 8)),), (TensorSpec("output", "float32", ("batch", 10)),)
)


def test_one_input_counts_its_median_and_several_the_mean_of_theirs() -> None:
    assert typical([3, 1, 2]) == 2
    rounds = [[1.0, 10.0], [1.2, 10.2], [9.0, 10.1]]  # one run was disturbed
    assert typical(np.ravel(rounds), 2) == pytest.approx((1.2 + 10.1) / 2)
    np.testing.assert_allclose(by_input([np.ravel(rounds[:2]), rounds[2]], 2), [1.2, 10.1])


def test_calls_survive_their_way_in_one_message() -> None:
    calls = [{"a/b": np.arange(3), "c": np.ones((2, 2))}, {"a/b": np.zeros(1)}]
    found = unpacked(packed(calls))
    assert [list(call) for call in found] == [["a/b", "c"], ["a/b"]]
    assert all(np.array_equal(found[0][name], value) for name, value in calls[0].items())
    assert unpacked({}) == [{}]


def test_calls_are_real_samples_of_the_split_in_their_order() -> None:
    data = digits_data()
    samples = Samples(IMAGE, data)
    found = samples.calls(1, 5)
    batches = np.concatenate([np.asarray(batch.inputs["input"]) for batch in data.split("test").batches(64)])
    places = [
        next(n for n, image in enumerate(batches) if np.array_equal(image, call.inputs["input"][0])) for call in found
    ]
    assert places == sorted(set(places))
    assert places[0] == 0
    assert places[-1] == len(batches) - 1
    assert samples.calls(4, 3)[0].samples == 4
    assert len(samples.calls(1, 10**6)) == len(batches)
    learned = np.concatenate([np.asarray(batch.inputs["input"]) for batch in data.split("validation").batches(64)])
    assert any(np.array_equal(image, samples.calls(1, 2, "validation")[0].inputs["input"][0]) for image in learned)


def slow_where_negative(path: Path) -> Artifact:
    """A product of large matrices for inputs below 0, nothing for others."""
    weight = numpy_helper.from_array(np.random.default_rng(0).standard_normal((512, 512)).astype(np.float32), "w")
    zero = numpy_helper.from_array(np.zeros((), np.float32), "zero")
    value = helper.make_tensor_value_info
    nothing = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["a"])], "t", [], [value("a", TensorProto.FLOAT, None)]
    )
    names = ["x", *(f"p{n}" for n in range(20))]
    products = [helper.make_node("MatMul", [one, "w"], [two]) for one, two in itertools.pairwise(names)]
    much = helper.make_graph(products, "e", [], [value(names[-1], TensorProto.FLOAT, None)])
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], keepdims=0),
        helper.make_node("Greater", ["mean", "zero"], ["is_easy"]),
        helper.make_node("If", ["is_easy"], ["y"], then_branch=nothing, else_branch=much),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", TensorProto.FLOAT, ["n", 512])],
        [value("y", TensorProto.FLOAT, ["n", 512])],
        [weight, zero],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return Artifact("onnxruntime", path, (path,))


def test_latency_is_the_mean_over_inputs_and_its_ends_are_told(tmp_path: Path) -> None:
    artifact = slow_where_negative(tmp_path / "m.onnx")
    signature = Signature((TensorSpec("x", "float32", ("n", 512)),), (TensorSpec("y", "float32", ("n", 512)),))
    point = operating_point(Target("onnxruntime", threads=1), Samples(signature))
    easy, hard = (replace(point.call, inputs={"x": np.full((1, 512), sign, np.float32)}) for sign in (1, -1))
    effort = BenchmarkSettings(launches=1, most_launches=1, rounds=2, warm_up_seconds=0.01, seconds=0.05, runs=8)
    found = (
        compare([artifact], [replace(point, turns=(easy, easy, easy, hard))], signature, None, effort)
        .points[0][0]
        .latency
    )
    assert found.inputs == 4
    assert found.runs % 4 == 0
    assert found.fastest_ms is not None
    assert found.slowest_ms is not None
    assert found.slowest_ms > 5 * found.fastest_ms
    assert found.typical_ms == found.mean_ms
    assert found.mean_ms == pytest.approx((3 * found.fastest_ms + found.slowest_ms) / 4, rel=0.3)
    assert found.p50_ms < 0.5 * found.mean_ms


def test_budgets_bound_the_slowest_input_and_the_99th_percentile() -> None:
    latency = Latency(
        runs=2000,
        batch=1,
        threads=1,
        p50_ms=1,
        p90_ms=2,
        p99_ms=4,
        mean_ms=1.5,
        samples_per_second=600,
        inputs=9,
        slowest_ms=3,
        fastest_ms=0.5,
    )

    class Found:
        change = packed = speed = fidelity = score = None
        heads = ()
        decoded = None
        total_bytes = 1

    Found.latency = latency  # type: ignore[attr-defined]
    rows = check(BudgetSection(p99_ms=3.5, slowest_ms=3.5), Found(), "accuracy")  # type: ignore[arg-type, call-arg]
    assert {row.name: row.holds for row in rows} == {"p99_ms": False, "slowest_ms": True}
    Found.latency = latency.model_copy(update={"p99_ms": None})  # type: ignore[attr-defined]
    (row,) = check(BudgetSection(p99_ms=3.5), Found(), "accuracy")  # type: ignore[arg-type, call-arg]
    assert not row.holds
    assert row.actual is None
