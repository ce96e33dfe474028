"""A technique that holds its gate itself is not scored a second time."""

from pathlib import Path
from typing import Any

import onnx
import pytest
from support.lessons import lowered_teacher

import compressctl
from compressctl.pipeline import evaluator


@pytest.mark.parametrize(("limit", "passes"), [(100.0, 1), (0.0, None)])
def test_what_a_technique_held_its_gate_with_is_scored_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: float, passes: int | None
) -> None:
    """With a limit that some layers miss, each step of the search is one pass, and nothing follows the last."""
    counted = []
    original = evaluator.predict_all

    def counting(*arguments: Any, **options: Any) -> Any:
        counted.append(arguments[2])
        return original(*arguments, **options)

    monkeypatch.setattr(evaluator, "predict_all", counting)
    onnx.save(lowered_teacher().body, tmp_path / "digits.onnx")
    recipe = {
        "recipe": "compressctl/v1",
        "model": {"source": "onnx", "path": tmp_path / "digits.onnx"},
        "data": {"source": "digits", "calibration": 64},
        "stages": [
            {"id": "w2", "use": "quantize.weights", "bits": 2, "gate": {"accuracy_drop": limit}, "if_slower": "keep"}
        ],
    }
    notes = []
    run = compressctl.apply(
        recipe,
        output=tmp_path / "run",
        measure="quick",
        cache=False,
        progress=lambda event: notes.append(event) if event.kind == "note" else None,
    )
    steps = [event for event in notes if "layers in float" in event.fields["message"]]
    assert len(counted) == (passes or 1 + len(steps))
    facts = next(stage.facts for stage in run.report.stages if stage.id == "w2")
    assert facts["validation_drop"] <= limit
