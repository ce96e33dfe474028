"""Integers placed by the clock in whole runs: what is handed over, reported and written out, on a clock that reads a table."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import pytest
import yaml
from support.digit_network import digits, fitted_network

import compressctl
from compressctl.backends.dialects.cpu import active_sites
from compressctl.core.model import Model, OnnxModel
from compressctl.core.target import Target
from compressctl.graph.sites import Kind
from compressctl.pipeline import workspace


def by_a_table(backend: object, target: Target, models: Sequence[Model], *_: Any) -> tuple[float, ...]:
    """The first layer takes 2 ms longer in integers, every other one 1 ms longer in float; all in integers takes 40."""

    def takes(model: Model) -> float:
        assert isinstance(model, OnnxModel)
        if model.quant is None:
            return 100.0
        integers = [site.node for site in active_sites(model, target) if site.kind is Kind.MULTIPLY]
        first = next(node.name for node in model.body.graph.node if node.op_type == "Conv")
        return 60.0 - len(integers) + (3.0 if first in integers else 0.0)

    return tuple(takes(model) for model in models)


def recipe(folder: Path, backend: str, stage: Mapping[str, Any]) -> dict[str, Any]:
    onnx.save(fitted_network(digits()).body, folder / "digits.onnx")
    return {
        "recipe": "compressctl/v1",
        "model": {"source": "onnx", "path": str(folder / "digits.onnx")},
        "data": {"source": "digits", "calibration": 100},
        "target": {"backend": backend},
        "stages": [{"use": "quantize.static", "id": "int8", **stage}],
    }


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_the_clock_of_the_targets_runtime_decides_which_layer_stays_float(
    backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if backend == "openvino":
        pytest.importorskip("openvino")
    monkeypatch.setattr(workspace, "latency_ms", by_a_table)
    run = compressctl.apply(
        recipe(tmp_path, backend, {"placement": "measured"}), output=tmp_path / "out", measure="untimed", cache=False
    )
    facts = run.report.stages[-1].facts
    (part,) = facts["placement"]["float_by_the_clock"]
    assert len(part["layers"]) == 1
    assert part["brings_ms"] == pytest.approx(2.0, abs=0.01)
    assert facts["placement"]["timed_on"]["backend"] == backend
    assert part["layers"][0] in facts["left_in_float"]
    words = (tmp_path / "out" / "report.md").read_text()
    assert f"put 1 of {facts['placement']['could_be_integers']} layers in float by the clock" in words
    if backend == "onnxruntime":
        onnx.checker.check_model(str(tmp_path / "out" / "artifacts" / backend / "model.onnx"), full_check=True)
    pinned = yaml.safe_load((tmp_path / "out" / "recipe.pinned.yaml").read_text())["stages"][0]
    assert pinned["placement"] == "all"
    assert {"match": part["layers"][0], "weights": "float", "ranges": None} in pinned["overrides"]


def test_the_pinned_recipe_hands_over_the_same_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workspace, "latency_ms", by_a_table)
    compressctl.apply(
        recipe(tmp_path, "onnxruntime", {"placement": "measured"}),
        output=tmp_path / "out",
        measure="untimed",
        cache=False,
    )
    pinned = yaml.safe_load((tmp_path / "out" / "recipe.pinned.yaml").read_text())
    compressctl.apply(pinned, output=tmp_path / "again", measure="untimed", cache=False)
    files = [tmp_path / folder / "artifacts" / "onnxruntime" / "model.onnx" for folder in ("out", "again")]
    assert files[0].read_bytes() == files[1].read_bytes()
