"""Recipes whose recovery trains low-rank adapters."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from support.lessons import context, digits_teacher
from support.shell import Shell

from compressctl.core.registry import load
from compressctl.core.technique import TechniqueSpec
from compressctl.techniques.distill.params import FEATURES, LOGITS
from compressctl.techniques.factorize.params import SVD
from compressctl.techniques.finetune.params import FINETUNE
from compressctl.techniques.prune.params import CHANNELS, UNSTRUCTURED

BRISK = {"epochs": 2, "batch_size": 64, "optimizer": "adamw", "learning_rate": 0.005, "checkpoint": "last"}
LORA = {**BRISK, "epochs": 1, "lora": {"rank": 4}}


def _weights(path: Path) -> dict[str, np.ndarray]:
    return {one.name: numpy_helper.to_array(one) for one in onnx.load(path).graph.initializer}


def _exported(shell: Shell, output: str, **training: Any) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The file's constants, and the report's facts of the training."""
    stages = f"""  - {{use: prune.unstructured, sparsity: 0.8}}
  - {{use: finetune, {json.dumps({**BRISK, **training})[1:-1]}}}"""
    shell.recipe(f"{output}.yaml", stages)
    done = shell.run("apply", f"{output}.yaml", "--output", output)
    assert done.code == 0, done.err
    report = shell.report(output)
    return _weights(shell.folder / output / report["backends"][0]["compressed"]["path"]), report["stages"][1]["facts"]


def test_a_pruned_network_recovers_and_its_file_is_as_without_adapters(shell: Shell) -> None:
    file, facts = _exported(shell, "adapted", lora={"rank": 4})
    plain, _ = _exported(shell, "plain")
    assert facts["loss"][-1] < facts["loss"][0]
    assert facts["validation_by_epoch"][-1] > facts["validation_before"]
    assert 0 < facts["lora"]["trained_parameters"] < facts["lora"]["parameters"]
    assert any("are trained, in adapters" in str(event) for event in shell.events("adapted"))
    assert {name: weight.shape for name, weight in file.items()} == {
        name: weight.shape for name, weight in plain.items()
    }
    zeros = {name: int((weight == 0).sum()) for name, weight in file.items() if weight.ndim > 1}
    assert zeros == {name: int((weight == 0).sum()) for name, weight in plain.items() if weight.ndim > 1}


STAGES: list[tuple[TechniqueSpec, dict[str, Any]]] = [
    (FINETUNE, LORA),
    (LOGITS, LORA),
    (FEATURES, {**LORA, "layers": [{"teacher": "block3", "student": "block3"}], "method": "hints"}),
    (UNSTRUCTURED, {"sparsity": 0.8, "schedule": "iterative", "iterations": 2, "finetune": LORA}),
    (CHANNELS, {"keep": 0.6, "finetune": LORA}),
    (SVD, {"rank": {"energy": 0.9}, "skip_slower": False, "finetune": LORA}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("spec", "params"), STAGES, ids=lambda value: getattr(value, "name", ""))
def test_every_training_that_recovers_takes_adapters(
    spec: TechniqueSpec, params: dict[str, Any], tmp_path: Path
) -> None:
    run, _ = context(tmp_path, digits_teacher())
    done = load(spec.implementation)(digits_teacher(), spec.params(**params), run)
    assert '"trained_parameters"' in json.dumps(done.facts, default=str)
    assert not [name for name in done.model.body.state_dict() if "lora" in name]
    assert {type(module).__module__.split(".")[0] for module in done.model.body.modules()} <= {"torch", "compressctl"}
    assert not [type(module) for module in done.model.body.modules() if "LowRank" in type(module).__name__]
    for name in done.model.sparse:
        assert float((done.model.body.get_parameter(name) == 0).float().mean()) > 0.3
    with torch.no_grad():
        assert torch.isfinite(done.model.body(torch.randn(2, 1, 8, 8))).all()


def test_a_pattern_that_matches_nothing_is_named_with_the_layers(shell: Shell) -> None:
    shell.recipe("recipe.yaml", "  - {use: finetune, epochs: 1, lora: {match: attention*}}")
    done = shell.run("apply", "recipe.yaml", "--output", "out")
    assert done.code == 2
    assert "lora.match: 'attention*' matches no layer" in done.err
    assert "stem.conv" in done.err


def test_adapters_beside_codebooks_are_refused(shell: Shell) -> None:
    shell.recipe("recipe.yaml", "  - {use: share.kmeans, clusters: 8}\n  - {use: finetune, epochs: 1, lora: {}}")
    done = shell.run("apply", "recipe.yaml", "--output", "out")
    assert done.code == 2
    assert "share.kmeans gave its weights few values" in done.err
