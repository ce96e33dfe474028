"""How many classes a model tells apart, from its outputs' shapes and what decodes them."""

from pathlib import Path

import pytest

from compressctl.core.model import TensorSpec
from compressctl.recipe.loader import load
from compressctl.tasks.told_apart import class_count


def counted(folder: Path, task: str, *shape: int | str, more: str = "") -> int | None:
    recipe = f"recipe: compressctl/v1\ntask: {task}\nmodel: {{source: onnx, path: m.onnx}}\n{more}\n"
    (folder / "r.yaml").write_text(f"{recipe}stages: [{{use: quantize.weights}}]\n")
    return class_count(load(folder / "r.yaml"), (TensorSpec("y", "float32", shape),))


@pytest.mark.parametrize(
    ("shape", "count"),
    [(("batch", 10), 10), (("batch", 1), 2), (("batch",), None), (("batch", "n"), None), (("batch", 21, 8, 8), 21)],
)
def test_a_classifier(shape: tuple[int | str, ...], count: int | None, tmp_path: Path) -> None:
    assert counted(tmp_path, "classification", *shape) == count


@pytest.mark.parametrize(
    ("task", "shape", "decode", "count"),
    [
        ("segmentation", ("n", 3, "h", "w"), "", 3),
        ("segmentation", ("n", 1, 8, 8), "", 2),
        ("segmentation", ("n", 8, 8, 5), "decode: {use: argmax, axis: -1}", 5),
        ("segmentation", ("n", "c", 8, 8), "", None),
        ("segmentation", ("n", 3, 8, 8), "decode: d.py:f", None),
        ("segmentation", ("n", 3, 8, 8), "decode: {use: argmax, output: other}", None),
        ("token-classification", ("n", "t", 9), "", 9),
        ("frame-classification", ("n", "t"), "", None),
        ("regression", ("n", 3), "", None),
    ],
)
def test_what_decodes_says_which_axis_counts(
    task: str, shape: tuple[int | str, ...], decode: str, count: int | None, tmp_path: Path
) -> None:
    assert counted(tmp_path, task, *shape, more=decode) == count


@pytest.mark.parametrize(
    ("decode", "shape", "count"),
    [
        ("{use: yolo}", ("n", 84, 8400), 80),
        ("{use: yolo}", ("n", 8400, 84), 80),
        ("{use: yolo, objectness: true}", ("n", 8400, 85), 80),
        ("{use: yolo, boxes_axis: 2}", ("n", 84, "boxes"), 80),
        ("{use: yolo, boxes_axis: 1}", ("n", 10, 84), 80),
        ("{use: yolo}", ("n", 84, "boxes"), None),
        ("{use: yolo, output: other}", ("n", 84, 8400), None),
        ("{use: ssd}", ("n", 100, 21), 20),
        ("{use: ssd, background: null}", ("n", "boxes", 21), 21),
        ("{use: ssd, classes_output: c}", ("n", 100, 21), None),
        ("{use: detr}", ("n", 100, 92), 91),
        ("{use: detr, activation: sigmoid}", ("n", 100, 91), 91),
        ("{use: finished}", ("n", 100, 6), None),
        ("d.py:f", ("n", 84, 8400), None),
    ],
)
def test_a_detector_s_classes(decode: str, shape: tuple[int | str, ...], count: int | None, tmp_path: Path) -> None:
    assert counted(tmp_path, "detection", *shape, more=f"decode: {decode}") == count
