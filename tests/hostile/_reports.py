"""A report in which one name stands wherever a user, a file or an exporter can put one."""

from typing import Any

from support.reports import file_measurement

from compressctl.core.backend import ExecutedNode
from compressctl.measure.results import (
    BackendResult,
    Behaviour,
    BudgetCheck,
    ClassChange,
    Example,
    GroupChange,
    Groups,
    Noise,
    Score,
)
from compressctl.report.document import Report, Stage


def named(name: str, **changes: Any) -> Report:
    before, after = file_measurement(4000), file_measurement(1000, ratio=2.0, drop=0.5)
    score = Score(metric="accuracy", value=90.0, samples=500, split="test", per_class={name: 90.0})
    nodes = (ExecutedNode(name, name, "float32", 5000, f"{name} was left in float"),)
    filled = after.model_copy(
        update={"score": score, "nodes": nodes, "behaviour": _behaviour(name), "integer_mac_share": 0.5}
    )
    backend = BackendResult(
        backend="onnxruntime",
        version="1.0",
        baseline=before.model_copy(update={"score": score, "nodes": nodes}),
        compressed=filled,
        smaller=4.0,
        noise=Noise(spread=0.02, other_load=0.01, noisy=False),
    )
    whole: dict[str, Any] = {
        "name": "model",
        "status": "failed",
        "exit_code": 4,
        "error": f"stage {name} failed",
        "summary": [f"onnxruntime: classes that lose accuracy beyond chance: {name}."],
        "started": 1.7e9,
        "seconds": 1.0,
        "metric": "accuracy",
        "metric_unit": "%",
        "backends": (backend,),
        "budget": (BudgetCheck(name="size", limit=1, actual=2, holds=False, explanation=name),),
        "stages": (Stage(id=name, use=name, seconds=1.0, cached=False, params={}, facts={"left": {name: name}}),),
        "parity": (),
        "warnings": (name, f"see {name}"),
        "environment": {"cpu": name},
        "recipe": {"name": "model", "model": {"path": name}},
        "recipe_file": name,
    }
    return Report(**{**whole, **changes})


def _behaviour(name: str) -> Behaviour:
    lost = ClassChange(
        name=name, samples=20, before=90.0, after=10.0, right_to_wrong=16, wrong_to_right=0, p_value=1e-6
    )
    group = GroupChange(name=name, samples=20, before=90.0, after=80.0, right_to_wrong=2, wrong_to_right=0)
    return Behaviour(
        churn=0.1,
        negative_flip_rate=0.02,
        p_value=0.5,
        calibration_error_before=0.01,
        calibration_error_after=0.02,
        divergence=0.1,
        classes=(lost,),
        changed=(7,),
        groups=Groups(groups=(group,), gap_before=1.0, gap_after=2.0, amplification=1.0, low=0.5, high=1.5),
        examples=(Example(index=7, label=name, before=name, after=name, png=None),),
    )
