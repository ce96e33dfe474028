"""Fine-tuning inside other techniques: a teacher named there is followed, whatever the labels say."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.lessons import context, digits_data, digits_teacher
from support.shell import Shell

from compressctl.core.data import Batch, Split
from compressctl.core.model import Model
from compressctl.core.needs import Need, declared_files, declared_needs
from compressctl.core.registry import load
from compressctl.core.technique import TechniqueSpec
from compressctl.techniques.factorize.params import SVD
from compressctl.techniques.prune.params import CHANNELS, UNSTRUCTURED
from compressctl.techniques.share.params import KMEANS
from compressctl.training.supervision.params import SupervisedParams

BRISK = {"epochs": 2, "batch_size": 64, "learning_rate": 0.02, "checkpoint": "last"}
TAUGHT = {**BRISK, "teacher": "original", "label_weight": 0}
STAGES: list[tuple[TechniqueSpec, dict[str, Any]]] = [
    (UNSTRUCTURED, {"sparsity": 0.7}),
    (UNSTRUCTURED, {"sparsity": 0.7, "schedule": "gradual"}),
    (CHANNELS, {"keep": 0.6}),
    (SVD, {"rank": {"energy": 0.98}, "skip_slower": False}),
    (KMEANS, {"clusters": 8}),
]


@dataclass(frozen=True)
class WrongLabels:
    """Digits whose training samples are all labelled one too high."""

    classes = digits_data().classes

    def split(self, name: str) -> Split:
        split = digits_data().split(name)
        return OneTooHigh(split) if name == "train" else split


@dataclass(frozen=True)
class OneTooHigh:
    kept: Split

    def __len__(self) -> int:
        return len(self.kept)

    def batches(self, size: int, *, shuffle_seed: int | None = None) -> Iterator[Batch]:
        for batch in self.kept.batches(size, shuffle_seed=shuffle_seed):
            assert batch.labels is not None
            yield replace(batch, labels=(batch.labels + 1) % 10)


def _right(model: Model) -> float:
    batch = next(digits_data().split("test").batches(1000))
    with torch.no_grad():
        outputs = model.body(torch.as_tensor(batch.inputs["input"]))
    return float((outputs.argmax(1).numpy() == batch.labels).mean() * 100)


@pytest.mark.parametrize(("spec", "params"), STAGES, ids=["pruned", "gradually", "narrower", "in-pieces", "shared"])
def test_a_teacher_is_followed_where_labels_are_wrong(
    spec: TechniqueSpec, params: dict[str, Any], tmp_path: Path
) -> None:
    run, _ = context(tmp_path, digits_teacher(), data=WrongLabels())
    found = load(spec.implementation)(digits_teacher(), spec.params(**params, finetune=TAUGHT), run)
    misled = load(spec.implementation)(digits_teacher(), spec.params(**params, finetune=BRISK), run)
    assert _right(found.model) > 90 > _right(misled.model) + 30


@pytest.mark.parametrize("spec", [UNSTRUCTURED, CHANNELS, SVD, KMEANS], ids=lambda spec: spec.name)
def test_a_teacher_alone_needs_no_labels(spec: TechniqueSpec) -> None:
    weights = (0.0, None, 0.5)
    asked = [declared_needs(spec.params(finetune={**TAUGHT, "label_weight": weight})) for weight in weights]
    assert [Need.TRAINING_DATA in needs.requires for needs in asked] == [True, True, True]
    assert [Need.LABELS in needs.requires for needs in asked] == [False, False, True]
    assert [Need.LABELS in needs for needs in asked] == [True, True, True]
    assert [Need.TASK_LOSS in needs for needs in asked] == [False, False, True]


def test_a_weight_for_labels_without_a_teacher_is_refused() -> None:
    with pytest.raises(ValueError, match="name one, or leave label_weight out"):
        SupervisedParams(label_weight=0.5)


def test_the_files_of_a_teacher_decide_whether_a_stage_is_run_again(tmp_path: Path) -> None:
    (tmp_path / "teacher.onnx").write_bytes(b"weights")
    found = SupervisedParams(teacher="teacher.onnx").files(tmp_path)
    assert found == {"teacher": tmp_path / "teacher.onnx"}
    assert SupervisedParams(teacher="original").files(tmp_path) == {}
    pruned = UNSTRUCTURED.params(finetune={"teacher": "teacher.onnx"})
    assert declared_files(pruned, tmp_path) == {"finetune/teacher": tmp_path / "teacher.onnx"}
    assert declared_files(UNSTRUCTURED.params(), tmp_path) == {}


def test_a_teacher_that_is_not_there_is_named_before_anything_is_trained(shell: Shell) -> None:
    shell.recipe("recipe.yaml", "  - {use: prune.unstructured, finetune: {epochs: 1, teacher: missing.onnx}}\n")
    done = shell.run("apply", "recipe.yaml", "--output", "out")
    assert done.code == 2
    assert "missing.onnx" in done.err
