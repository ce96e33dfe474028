"""Scores that are no numbers: `evaluate` gives none of them out."""

import numpy as np
import onnx
import pytest
from hostile._case import Case
from hostile._models import network, written
from onnx import numpy_helper

METRICS = """
def infinite(outputs, labels): return float("inf")
def less_than_all(outputs, labels): return float("-inf")
def no_number(outputs, labels): return float("nan")
def large(outputs, labels): return 1e300 * 1e300
"""


def with_weights(value: float) -> onnx.ModelProto:
    weight = np.full((8, 4), value, np.float32)
    return network(numpy_helper.from_array(weight, "W"))


def evaluated(case: Case, model: onnx.ModelProto, says: str, *settings: str) -> None:
    written(case, model)
    np.savez(case.folder / "data.npz", x=np.ones((20, 8), np.float32), labels=np.arange(20) % 4)
    (case.folder / "metrics.py").write_text(METRICS)
    sets = [part for setting in settings for part in ("--set", setting)]
    made = ["model.onnx", "good.onnx", "w.bin", "recipe.yaml", "data.npz", "data.yaml", "metrics.py", "__pycache__"]
    case.refuses("evaluate", "model.onnx", "--data", "data.yaml", *sets, code=2, says=says, leaves=made)


def test_outputs_that_are_no_numbers(case: Case) -> None:
    evaluated(case, with_weights(float("nan")), "outputs are NaN, which no metric can score")


def test_outputs_that_become_none(case: Case) -> None:
    """Infinity less infinity, somewhere in the middle."""
    model = with_weights(float("inf"))
    model.graph.node.insert(1, onnx.helper.make_node("Sub", ["m", "m"], ["d"], "sub"))
    model.graph.node[2].input[0] = "d"
    evaluated(case, model, "outputs are NaN, which no metric can score")


def test_outputs_of_another_shape_than_the_labels(case: Case) -> None:
    evaluated(
        case, network(), "the metric rmse cannot score its outputs on the labels", "task=regression", "metric=rmse"
    )


@pytest.mark.parametrize(
    ("metric", "value"), [("infinite", "inf"), ("less_than_all", "-inf"), ("no_number", "nan"), ("large", "inf")]
)
def test_a_metric_of_an_authors_own(metric: str, value: str, case: Case) -> None:
    evaluated(case, network(), value, f"metric=metrics.py:{metric}")
