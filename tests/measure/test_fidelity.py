"""How near outputs are: sums over calls that equal the figures of all values at once."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from compressctl.core.data import Batch
from compressctl.core.model import OnnxModel, Signature, TensorSpec
from compressctl.core.quant import QuantPlan
from compressctl.core.target import Target
from compressctl.measure.class_scores import class_axis
from compressctl.measure.fidelity import Comparison, is_far, nearness, verdict
from compressctl.measure.fidelity_limits import fidelity_checks, strict_checks
from compressctl.measure.results import Fidelity, OutputFidelity
from compressctl.measure.score import predict_all
from compressctl.numerics.next_token import counted_positions
from compressctl.recipe.schema import BudgetSection
from compressctl.sources.requests import Recorded, RequestSplit

SIGNATURE = Signature((), (TensorSpec("y", "float32", ("N", 4)), TensorSpec("z", "float32", ("N",))))
FINITE = st.floats(-1e3, 1e3, width=32)


def _compared(*calls: tuple[dict[str, Any], dict[str, Any], int]) -> dict[str, OutputFidelity]:
    comparison = Comparison(SIGNATURE)
    for before, after, count in calls:
        comparison.add(before, after, count)
    return {output.name: output for output in comparison.result()}


def _output(name: str, sqnr_db: float | None, cosine: float, largest: float, **others: Any) -> OutputFidelity:
    return OutputFidelity(
        name=name,
        samples=10,
        identical=largest == 0,
        sqnr_db=sqnr_db,
        cosine=cosine,
        largest_difference=largest,
        **others,
    )


def _fidelity(*outputs: OutputFidelity, reason: str | None = None) -> Fidelity:
    return Fidelity(outputs=outputs, split="test", samples=8, reason=reason)


@given(
    before=arrays(np.float32, (6, 4), elements=FINITE),
    after=arrays(np.float32, (6, 4), elements=FINITE),
    cut=st.integers(1, 5),
)
def test_calls_add_up_to_the_figures_of_all_values(before: np.ndarray, after: np.ndarray, cut: int) -> None:
    found = _compared(
        ({"y": before[:cut]}, {"y": after[:cut]}, cut), ({"y": before[cut:]}, {"y": after[cut:]}, 6 - cut)
    )["y"]
    was, now = before.astype(np.float64).ravel(), after.astype(np.float64).ravel()
    noise, signal = np.sum((now - was) ** 2), np.sum(was**2)
    assert found.samples == 6
    assert found.identical == (noise == 0)
    assert found.largest_difference == pytest.approx(np.abs(now - was).max())
    if noise > 0 and signal > 0:
        assert found.sqnr_db == pytest.approx(10 * math.log10(signal / noise), abs=1e-6)
    if signal > 0 and np.any(now):
        assert found.cosine == pytest.approx(was @ now / np.linalg.norm(was) / np.linalg.norm(now), abs=1e-9)


def test_copies_that_fill_up_a_batch_do_not_count() -> None:
    before, after = np.ones((4, 4), np.float32), np.ones((4, 4), np.float32)
    after[2:] = 9
    assert _compared(({"y": before}, {"y": after}, 2))["y"].identical


def test_every_output_is_compared_and_a_dead_one_is_far() -> None:
    rng = np.random.default_rng(0)
    before = {"y": rng.normal(size=(8, 4)), "z": rng.normal(size=8)}
    found = _compared((before, {"y": before["y"], "z": np.zeros(8)}, 8))
    assert found["y"].identical
    assert (found["z"].sqnr_db, found["z"].cosine) == (pytest.approx(0), 0.0)
    assert is_far(found["z"])
    said = verdict(_fidelity(*found.values()))
    assert said is not None
    assert said.startswith("differs from the original: z 0.0 dB, cosine 0.000")


def test_noise_of_a_tenth_is_far_only_where_the_direction_changed_too() -> None:
    rng = np.random.default_rng(1)
    before = rng.normal(size=(64, 4)) + 10
    scaled = _compared(({"y": before}, {"y": before * 0.8}, 64))["y"]
    assert scaled.sqnr_db == pytest.approx(14, abs=0.1)
    assert not is_far(scaled)
    assert is_far(_compared(({"y": before - 10}, {"y": rng.normal(size=(64, 4))}, 64))["y"])


def test_what_is_no_number_on_one_side_alone_is_far_and_counted() -> None:
    before = np.array([[1.0, -np.inf, np.nan, 2.0]])
    assert _compared(({"y": before}, {"y": before.copy()}, 1))["y"].identical
    after = np.array([[np.nan, -np.inf, np.nan, 2.0]])
    found = _compared(({"y": before}, {"y": after}, 1))["y"]
    assert found.broken == 1
    assert is_far(found)


def test_outputs_of_other_shapes_are_said_to_be_not_compared() -> None:
    boxes = [np.ones((3, 4)), np.ones((2, 4))]
    found = _compared(({"boxes": boxes[0]}, {"boxes": boxes[1]}, 1))["boxes"]
    assert (found.samples, found.other_shapes) == (0, 1)
    assert verdict(_fidelity(found)) == "not compared with the original: other shapes in all outputs"


def test_without_anything_to_compare_the_verdict_says_why() -> None:
    assert (
        verdict(_fidelity(reason="the recipe has no data")) == "not compared with the original: the recipe has no data"
    )


def test_decisions_are_counted_along_the_axis_of_the_scores() -> None:
    scores = np.full((2, 3, 5, 5), 0.1)
    scores[:, 1] = 0.8
    changed = scores.copy()
    changed[0, :, 0, 0] = (0.8, 0.1, 0.1)
    found = _compared(({"map": scores}, {"map": changed}, 2))["map"]
    assert found.decided_by == "highest along axis 1"
    assert found.agreement == pytest.approx(49 / 50)
    assert found.churn == pytest.approx(1 / 50)


@pytest.mark.parametrize(
    ("name", "values", "axis"),
    [
        ("out", np.full((2, 4), 0.25), 1),
        ("out", np.log(np.full((2, 4), 0.25)), 1),
        ("out", np.full((2, 7, 4), 0.25), 2),
        ("out", np.random.default_rng(0).normal(size=(2, 4)), None),
        ("logits", np.random.default_rng(0).normal(size=(2, 4)), 1),
        ("cls_scores", np.random.default_rng(0).normal(size=(2, 4, 8, 8)), 1),
        ("embedding", np.random.default_rng(0).normal(size=(2, 4)), None),
        ("out", np.full((2, 1), 1.0), None),
    ],
)
def test_scores_of_classes_are_recognised_by_value_or_name(name: str, values: np.ndarray, axis: int | None) -> None:
    assert class_axis(name, values) == axis


def test_integers_and_strings_are_compared_for_equality() -> None:
    labels = _compared(({"label": np.array([1, 2, 3, 4])}, {"label": np.array([1, 2, 3, 5])}, 4))["label"]
    assert labels.agreement == 0.75
    words = _compared(({"w": np.array(["a", "b"], object)}, {"w": np.array(["a", "c"], object)}, 2))["w"]
    assert (words.agreement, words.identical) == (0.5, False)


@pytest.mark.parametrize(
    ("budget", "holds"),
    [
        ({"cosine": 0.9}, [True]),
        ({"cosine": 0.995}, [False]),
        ({"sqnr_db": {"y": 20}}, [True]),
        ({"sqnr_db": {"y": 31}}, [False]),
        ({"agreement": 98}, [True]),
        ({"agreement": 99.5}, [False]),
        ({"cosine": {"nowhere": 0.5}}, [False]),
        ({"cosine": 0.9, "sqnr_db": 10}, [True, True]),
    ],
)
def test_limits_bound_the_worst_output_or_the_one_that_is_named(budget: dict[str, Any], holds: list[bool]) -> None:
    outputs = [
        _output("y", 30.0, 0.99, 0.1, agreement=0.99, decided_by="highest along axis 1"),
        _output("z", None, 1.0, 0.0),
    ]
    lines = fidelity_checks(BudgetSection.model_validate(budget), outputs, {})
    assert [line.holds for line in lines] == holds
    assert all(line.explanation for line in lines)


def test_a_limit_on_what_was_not_compared_does_not_hold() -> None:
    (line,) = fidelity_checks(BudgetSection(cosine=0.1), (), {})
    assert not line.holds
    assert line.explanation == "not measured"


class _Session:
    """y = x, but for the rows after the first, which are off by `error`."""

    def __init__(self, error: float) -> None:
        self.error = error

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        found = inputs["x"].copy()
        found[1:] += self.error
        return {"y": found}


def test_every_row_of_a_recorded_call_is_compared() -> None:
    # A call that was recorded with five rows is one sample: nothing fills it up, and all rows are its output.
    signature = Signature((TensorSpec("x", "float32", ("N", 4)),), (TensorSpec("y", "float32", ("N", 4)),))
    recorded = RequestSplit(np.arange(3), lambda at: Recorded({"x": np.full((5, 4), at + 1, np.float32)}))
    models = [OnnxModel(onnx.ModelProto(), signature)] * 2
    seen = predict_all([_Session(0), _Session(0.5)], models, recorded, Target("onnxruntime"))  # type: ignore[arg-type]
    (output,) = seen.fidelity[1]
    signal, noise = 5 * 4 * (1 + 4 + 9), 3 * 4 * 4 * 0.25
    assert output.sqnr_db == pytest.approx(10 * math.log10(signal / noise))
    assert output.largest_difference == 0.5


class _Rows:
    """Seven samples: x (n, 4)."""

    def __len__(self) -> int:
        return 7

    def batches(self, size: int, *, shuffle_seed: int | None = None) -> Iterator[Batch]:
        for start in range(0, len(self), size):
            at = np.arange(start, min(start + size, len(self)))
            yield Batch({"x": np.ones((len(at), 4), np.float32)}, None, at)


@pytest.mark.parametrize("axis", ["N", "time"])
def test_both_models_get_the_same_calls(axis: str) -> None:
    """Of two samples, which the dynamic model is served in, whether or not the output's name says that it counts samples."""
    signature = Signature((TensorSpec("x", "float32", ("N", 4), 0),), (TensorSpec("y", "float32", (axis, 4), None),))
    dynamic = OnnxModel(onnx.ModelProto(), signature, QuantPlan(dynamic=frozenset({"product"})))
    models = [OnnxModel(onnx.ModelProto(), signature), dynamic]
    seen = predict_all([_Session(1), _Session(1)], models, _Rows(), Target("onnxruntime", batch_size=2))  # type: ignore[arg-type]
    (output,) = seen.fidelity[1]
    assert (output.samples, output.other_shapes, output.identical) == (7, 0, True)


def test_samples_whose_shape_differs_are_told_beside_what_is_identical() -> None:
    same, longer = np.ones((2, 3)), np.ones((2, 4))
    found = _compared(({"rows": same}, {"rows": same}, 1), ({"rows": same}, {"rows": longer}, 1))["rows"]
    assert (found.samples, found.other_shapes, found.identical) == (1, 1, True)
    assert nearness(found) == "identical, another shape for 1 samples"


def test_an_output_of_no_numbers_in_both_files_is_not_compared() -> None:
    nan = np.full((4, 3), np.nan)
    found = _compared(({"y": nan}, {"y": nan}, 4))["y"]
    assert (found.samples, found.identical, found.cosine, found.undefined) == (0, False, None, 12)
    assert verdict(_fidelity(found)) == "not compared with the original: NaN or infinity in all outputs"
    limits = BudgetSection(cosine=0.5, sqnr_db=1)
    assert [check.holds for check in fidelity_checks(limits, (found,), {})] == [False, False]
    assert not strict_checks([("onnxruntime", _fidelity(found))])[0].holds


def test_no_figure_stands_for_the_numbers_beside_nan() -> None:
    wanted, found = np.ones((4, 3)), np.ones((4, 3))
    found[0, 0] = np.nan
    output = _compared(({"y": wanted}, {"y": found}, 4))["y"]
    assert (output.sqnr_db, output.cosine, output.largest_difference, output.broken) == (None, None, None, 1)
    assert is_far(output)
    assert nearness(output) == "NaN or infinity in 1 values"


def test_strict_wants_every_output_compared_on_every_sample() -> None:
    same, longer = np.ones((2, 3)), np.ones((2, 4))
    for other, holds in ((same, True), (longer, False)):
        output = _compared(({"y": same}, {"y": same}, 2), ({"y": same}, {"y": other}, 2))["y"]
        assert strict_checks([("onnxruntime", _fidelity(output))])[0].holds is holds


def test_padding_decides_nothing() -> None:
    """Labels (2, 4), the last two of the second padded: positions 0, 1, 2 of the first and 0 of the second predict a token."""
    labels = np.array([[5, 6, 7, 8], [5, 6, -100, -100]])
    logits = np.zeros((2, 4, 9))
    logits[..., 1] = 1
    other = logits.copy()
    other[0, 0, 2] = 2  # a decision that counts
    other[1, 2, 2] = 2  # and one that does not
    comparison = Comparison(Signature((), ()), {"logits": 2})
    comparison.add({"logits": logits}, {"logits": other}, 2, counted=counted_positions(labels))
    assert comparison.result()[0].agreement == 3 / 4


def test_one_number_a_call_is_a_probability_once_calls_say_so() -> None:
    """As of a network that is called for one sample at a time."""
    before, after = np.array([0.4, 0.4, 0.9, 0.2, 0.51]), np.array([0.4, 0.6, 0.9, 0.2, 0.49])
    signature = Signature((), (TensorSpec("p", "float32", ("N", 1)),))
    comparison = Comparison(signature)
    for was, now in zip(before, after, strict=True):
        comparison.add({"p": np.full((1, 1), was)}, {"p": np.full((1, 1), now)}, 1)
    [found] = comparison.result()
    assert (found.decided_by, found.decisions, found.agreement) == ("above 0.5", 5, pytest.approx(0.6))
    assert found.expected_churn is not None


@pytest.mark.parametrize("values", [[0.5, 0.3, 7.0], [1.0] * 150, [-0.5, 0.5, 0.7], [0.3, 0.45, 0.48, -3.0]])
def test_one_number_a_call_that_is_no_probability_decides_nothing(values: list[float]) -> None:
    comparison = Comparison(Signature((), (TensorSpec("y", "float32", ("N", 1)),)))
    for value in values:
        comparison.add({"y": np.full((1, 1), value)}, {"y": np.full((1, 1), value + 0.1)}, 1)
    [found] = comparison.result()
    assert found.decisions == 0
    assert found.samples == len(values)
