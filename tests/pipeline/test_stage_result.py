"""What a technique may hand back."""

import json
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from support.shell import Shell

from compressctl.core.errors import StageError
from compressctl.core.model import OnnxModel, Signature
from compressctl.core.technique import StageResult
from compressctl.pipeline.stage_result import checked

MODEL = OnnxModel(onnx.ModelProto(), Signature((), ()))


@pytest.mark.parametrize(
    ("fact", "held"),
    [
        (np.float32(1.5), 1.5),
        (np.bool_(True), True),
        (ml_dtypes.bfloat16(0.5), 0.5),
        (np.array([[1, 2]]), [[1, 2]]),
        (np.array([0.5], ml_dtypes.bfloat16), [0.5]),
        ({3: "three", np.int64(4): (5, 6)}, {"3": "three", "4": [5, 6]}),
        ([{"deep": np.int8(1)}], [{"deep": 1}]),
    ],
)
def test_facts_become_what_json_holds(fact: Any, held: Any) -> None:
    facts = checked(StageResult(MODEL, {"fact": fact})).facts
    assert facts == {"fact": held}
    assert json.loads(json.dumps(facts)) == facts


def test_keys_of_facts_become_words_and_so_does_what_is_pinned() -> None:
    result = checked(StageResult(MODEL, {np.int64(7): 1}, {"use": "cast", "ratio": np.float32(0.5)}))
    assert result.facts == {"7": 1}
    assert result.pinned == {"use": "cast", "ratio": 0.5}


@pytest.mark.parametrize("fact", [object(), [object()], {"a": int}, b"\xff"])
def test_a_fact_that_json_cannot_hold_is_named(fact: Any) -> None:
    with pytest.raises(StageError, match=r"JSON cannot hold the technique's facts\['mine'\]"):
        checked(StageResult(MODEL, {"good": 1, "mine": fact}))


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (None, "the technique returned None, not a StageResult"),
        (MODEL, "returned an object of type OnnxModel, not a StageResult"),
        (StageResult(None), "a StageResult of None, not of a model"),  # type: ignore[arg-type]
        (StageResult(MODEL.body), "a StageResult of an object of type ModelProto"),
        (StageResult(MODEL, None), "facts are None, not a mapping"),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_result_is_said(result: Any, words: str) -> None:
    with pytest.raises(StageError, match=words):
        checked(result)


def test_a_technique_that_returns_nothing_is_named(shell: Shell) -> None:
    done = shell.run("apply", shell.recipe("none.yaml", "  - {use: example.nothing, id: empty}"), "--output", "out")
    assert done.code == 4, done.err
    assert "stage empty (example.nothing): the technique returned None, not a StageResult" in done.err
    assert shell.report("out")["exit_code"] == 4


def test_facts_of_numpy_reach_the_report_and_the_cache(shell: Shell) -> None:
    recipe = shell.recipe("numpy.yaml", "  - {use: example.numpy}")
    for output in ("first", "from the cache"):
        done = shell.run("apply", recipe, "--output", output)
        assert done.code == 0, done.err
        stage = next(stage for stage in shell.report(output)["stages"] if stage["use"] == "example.numpy")
        assert stage["facts"].items() >= {"share": 0.5, "counts": {"3": [1, 2]}}.items()
