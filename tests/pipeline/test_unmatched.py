"""Patterns of a recipe that fit nothing in a model: a slip of a recipe for it, and nothing to speak of in a recipe for many."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import compressctl
from compressctl.core.errors import UsageError
from compressctl.recipe.loader import load

RECIPE = """recipe: compressctl/v1
task: custom
model: {{source: onnx, path: m.onnx}}
{extra}
stages:
  - use: quantize.weights
    id: eight
    bits: 8
    if_slower: keep
    overrides: [{{match: Conv, bits: 4}}, {{match: MatMul, bits: 8}}]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COMPRESSCTL_CACHE", str(tmp_path / "cache"))
    weight = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    sides = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 64]) for name in ("x", "y")]
    node = helper.make_node("MatMul", ["x", "w"], ["y"], "mm")
    graph = helper.make_graph([node], "g", sides[:1], sides[1:], [numpy_helper.from_array(weight, "w")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    for name, extra in (("strict", ""), ("many", "unmatched: note")):
        (tmp_path / f"{name}.yaml").write_text(RECIPE.format(extra=extra))
    return tmp_path


def stages(run: compressctl.Run) -> list[dict[str, Any]]:
    return [stage.model_dump() for stage in run.report.stages]


@pytest.mark.slow
def test_a_recipe_for_many_models_leaves_out_what_one_has_not_and_says_so(folder: Path) -> None:
    run = compressctl.apply(folder / "many.yaml", output=folder / "out", measure="untimed")
    (stage,) = stages(run)
    assert stage["facts"]["unmatched"] == ["Conv"]
    assert len(stage["params"]["overrides"]) == 2
    assert any("'Conv' matches no node, and is left out" in warning for warning in run.report.warnings)
    assert run.report.backends[0].compressed.total_bytes < 0.4 * run.report.backends[0].baseline.total_bytes

    (again,) = stages(compressctl.apply(folder / "many.yaml", output=folder / "again", measure="untimed"))
    assert (again["cached"], again["facts"]["unmatched"]) == (True, ["Conv"])
    with pytest.raises(UsageError, match="'Conv' matches no node"):
        compressctl.apply(folder / "strict.yaml", output=folder / "strict", measure="untimed")


def test_the_lock_keeps_what_was_said(folder: Path) -> None:
    assert load(folder / "many.yaml").resolved["unmatched"] == "note"
    assert "unmatched" not in load(folder / "strict.yaml").resolved
    with pytest.raises(UsageError, match="unknown unmatched"):
        load(folder / "strict.yaml", ["unmatched=ignore"])
