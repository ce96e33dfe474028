"""Cache keys of a plan: what decides a stage's result, and nothing else."""

from dataclasses import replace
from pathlib import Path

import pytest

from compressctl.core.source import metrics
from compressctl.pipeline.plan import make_plan
from compressctl.recipe.loader import load

_HEAD = "recipe: compressctl/v1\nmodel: {source: builtin, name: digits-resnet}\ndata: {source: digits}\nstages:\n"


@pytest.mark.parametrize(
    ("stage", "is_judged"),
    [
        ("{use: quantize.static}", False),
        ("{use: quantize.static, gate: {accuracy_drop: 0.5}}", True),
        ("{use: distill.logits}", True),
    ],
)
def test_what_a_metric_judged_has_its_version_in_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, is_judged: bool
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(f"{_HEAD}  - {stage}\n")
    recipe = load(path)
    before = {step.id: step.key for step in make_plan(recipe, None).steps if step.kind == "stage"}
    changed = replace(metrics.get("accuracy"), version=2)
    monkeypatch.setattr("compressctl.tasks.metric_specs.ACCURACY", changed)
    after = {step.id: step.key for step in make_plan(recipe, None).steps if step.kind == "stage"}
    assert (before != after) is is_judged


def test_how_a_file_is_stored_decides_nothing_of_what_a_stage_measures(tmp_path: Path) -> None:
    """A search tries a network in 8 bits and, packed, in 4: its widths are timed once."""
    path, keys = tmp_path / "recipe.yaml", set()
    for export in ("", "storage: compressed", "names: short"):
        path.write_text(
            f"{_HEAD}  - {{use: prune.channels, keep: 0.5, of: macs, scope: measured}}\nexport: [{{backend: onnxruntime, {export}}}]\n"
        )
        keys.add(tuple(step.key for step in make_plan(load(path), None).steps if step.kind == "stage"))
    assert len(keys) == 1
    path.write_text(path.read_text().replace("names: short", "integer_activations: false"))
    keys.add(tuple(step.key for step in make_plan(load(path), None).steps if step.kind == "stage"))
    assert len(keys) == 2
