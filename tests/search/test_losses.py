"""What a file lost, as one number."""

from typing import Any

import pytest

from compressctl.measure.results import Change, Fidelity, Measurement, OutputFidelity, Score
from compressctl.search.facts import Facts
from compressctl.search.losses import loss_of

SPLITS = {"train": 0, "validation": 20, "calibration": 20, "test": 20}


def facts(**more: Any) -> Facts:
    return Facts(is_torch=False, parameters=1, shares={}, original_bytes=1, **{"samples": SPLITS, **more})


def measured(*outputs: OutputFidelity, **more: Any) -> Measurement:
    fidelity = Fidelity(outputs=outputs, split="validation", samples=20)
    empty: dict[str, Any] = dict.fromkeys(
        ("macs", "score", "latency", "memory", "integer_mac_share", "speed", "change", "bit_operations")
    )
    sizes: dict[str, Any] = {
        "path": "model.onnx",
        "files": {},
        "total_bytes": 1,
        "transport_bytes": 1,
        "parameters": 1,
        "nodes": (),
    }
    return Measurement(**{**empty, **sizes, "fidelity": fidelity, **more})


def output(name: str = "y", **more: Any) -> OutputFidelity:
    said: dict[str, Any] = {
        "samples": 20,
        "identical": False,
        "sqnr_db": 30.0,
        "cosine": 0.999,
        "largest_difference": 0.1,
    }
    return OutputFidelity(name=name, **{**said, **more})


def test_labels_decide_where_a_metric_scores() -> None:
    score = Score(metric="accuracy", value=97.0, samples=20, split="validation", per_class=None)
    change = Change(drop=1.5, worst_class=None, right_to_wrong=None, wrong_to_right=None, disagreements=None)
    found, _ = loss_of(
        measured(output(cosine=0.5), score=score, change=change), facts(has_labels=True, metric="accuracy", unit="%")
    )
    assert found is not None
    assert (found.value, found.kind, found.unit, found.split) == (1.5, "metric", "points", "validation")


@pytest.mark.parametrize(
    ("outputs", "value", "what"),
    [
        ([output(cosine=0.98)], 2.0, "100 x (1 - cosine) of y"),
        ([output(cosine=0.999, churn=0.05, agreement=0.95)], 5.0, "changed decisions of y"),
        ([output("a", cosine=0.999), output("b", cosine=0.9)], 10.0, "100 x (1 - cosine) of b"),
        ([output(identical=True, sqnr_db=None, cosine=1.0)], 0.0, "y, identical"),
    ],
)
def test_without_labels_the_worst_output_decides(outputs: list[OutputFidelity], value: float, what: str) -> None:
    found, _ = loss_of(measured(*outputs), facts())
    assert found is not None
    assert found.value == pytest.approx(value)
    assert found.what == what


def test_of_few_decisions_those_count_that_are_expected_to_change() -> None:
    few = output(
        cosine=0.9999,
        churn=0.0,
        agreement=1.0,
        decisions=9,
        score_change=1.3,
        score_change_decisions=9,
        expected_churn=0.0,
    )
    found, _ = loss_of(measured(few), facts(margins={"y": (0.2, 0.5, 8.0, 9.0)}))
    assert found is not None
    assert 15 < found.value < 25
    assert found.what == "changed decisions of y that are expected of more samples"
    assert found.is_expected
    alone, _ = loss_of(measured(few.model_copy(update={"expected_churn": 0.02})), facts())
    assert alone is not None
    assert alone.value == pytest.approx(2.0)


def test_seen_changes_count_even_where_fewer_are_expected() -> None:
    few = output(
        cosine=0.9999,
        churn=1 / 9,
        agreement=8 / 9,
        decisions=9,
        score_change=0.1,
        score_change_decisions=9,
        expected_churn=0.001,
    )
    found, _ = loss_of(measured(few), facts())
    assert found is not None
    assert found.value == pytest.approx(100 / 9)
    assert not found.is_expected


@pytest.mark.parametrize(
    ("outputs", "why"),
    [
        ([output(broken=3, sqnr_db=None, cosine=None)], "NaN or infinity"),
        ([output("good"), output("bad", other_shapes=2)], "bad could not be compared"),
        ([output(samples=0, sqnr_db=None, cosine=None)], "could not be compared"),
        ([output(cosine=None, sqnr_db=None)], "no output has a figure"),
        ([], "not compared"),
    ],
)
def test_what_cannot_be_compared_is_unknown_and_never_nothing(outputs: list[OutputFidelity], why: str) -> None:
    found, reason = loss_of(measured(*outputs), facts())
    assert found is None
    assert why in reason


def test_random_values_judge_nothing() -> None:
    assert loss_of(measured(output()), facts(is_random=True)) == (None, "there are no samples, only random values")
