"""Boxes that detectors' outputs were made of are read off them again, whatever the layout."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compressctl.core.errors import UsageError
from compressctl.tasks.box_decoders import detr, finished, ssd, yolo
from compressctl.tasks.params import DetrParams, FinishedParams, SsdParams, YoloParams

HERE = Path()
CLASSES = 5
ROOM = 30


@st.composite
def scenes(draw: st.DrawFn) -> list[np.ndarray]:
    """Two samples' boxes (k, 6), best first, that do not overlap."""
    found = []
    for _ in range(2):
        cells = draw(st.lists(st.integers(0, 8), unique=True, max_size=6))
        rows = [
            [cell % 3 * 40 + 4, cell // 3 * 40 + 6, cell % 3 * 40 + 30, cell // 3 * 40 + 38, 0.9 - 0.05 * place, draw(st.integers(0, CLASSES - 1))]
            for place, cell in enumerate(cells)
        ]  # fmt: skip
        found.append(np.array(rows, np.float64).reshape(-1, 6))
    return found


def _scores(scene: np.ndarray, rows: np.ndarray, below: float = 0.01) -> np.ndarray:
    scores = np.full((ROOM, CLASSES), below)
    scores[rows, scene[:, 5].astype(int)] = scene[:, 4]
    return scores


def _centred(boxes: np.ndarray) -> np.ndarray:
    return np.concatenate([(boxes[:, :2] + boxes[:, 2:4]) / 2, boxes[:, 2:4] - boxes[:, :2]], axis=1)


def _written(scene: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (ROOM, 4) as centre and size, and scores (ROOM, CLASSES)."""
    rows = np.random.default_rng(len(scene)).permutation(ROOM)[: len(scene)]
    boxes = np.tile([5.0, 5.0, 2.0, 2.0], (ROOM, 1))
    boxes[rows] = _centred(scene)
    return boxes, _scores(scene, rows)


def _same(found: Any, scenes: list[np.ndarray]) -> bool:
    return all(np.allclose(rows, scene, atol=1e-5) for rows, scene in zip(found, scenes, strict=True))


@given(scenes())
def test_yolo_with_numbers_before_boxes(scenes: list[np.ndarray]) -> None:
    output = np.stack([np.concatenate(_written(scene), axis=1).T for scene in scenes])
    assert output.shape == (2, 4 + CLASSES, ROOM)
    assert _same(yolo(YoloParams(), HERE)({"output0": output.astype(np.float32)}), scenes)


@given(scenes())
def test_yolo_with_objectness(scenes: list[np.ndarray]) -> None:
    rows = []
    for boxes, scores in map(_written, scenes):
        objectness = np.full((ROOM, 1), 0.95)
        rows.append(np.concatenate([boxes, objectness, scores / 0.95], axis=1))
    assert _same(yolo(YoloParams(objectness=True), HERE)({"output": np.stack(rows)}), scenes)


@given(scenes())
def test_yolo_of_shares_of_the_input_and_logits(scenes: list[np.ndarray]) -> None:
    rows = []
    for boxes, scores in map(_written, scenes):
        rows.append(np.concatenate([boxes / [200, 100, 200, 100], np.log(scores / (1 - scores))], axis=1))
    params = YoloParams(input_size=(100, 200), activation="sigmoid", boxes_axis=1)
    assert _same(yolo(params, HERE)({"o": np.stack(rows)}), scenes)


def test_few_boxes_of_many_classes_need_their_axis_named() -> None:
    output = np.zeros((1, 6, 4 + 80))
    output[0, 2, [0, 1, 2, 3, 4 + 70]] = [50, 50, 20, 20, 0.8]
    found = yolo(YoloParams(boxes_axis=1), HERE)({"o": output})
    assert found[0].tolist() == [[40, 40, 60, 60, 0.8, 70]]


def test_a_box_may_count_for_every_class() -> None:
    output = np.zeros((1, 20, 6))
    output[0, 3] = [50, 50, 20, 20, 0.8, 0.5]
    assert yolo(YoloParams(), HERE)({"o": output})[0][:, 5].tolist() == [0]
    assert yolo(YoloParams(every_class=True), HERE)({"o": output})[0][:, 5].tolist() == [0, 1]


@given(scenes())
def test_ssd_of_finished_corners_with_a_background(scenes: list[np.ndarray]) -> None:
    boxes, scores = zip(*map(_written, scenes), strict=True)
    edges = [np.concatenate([b[:, :2] - b[:, 2:] / 2, b[:, :2] + b[:, 2:] / 2], axis=1) for b in boxes]
    shares = [np.concatenate([1 - s.sum(1, keepdims=True), s], axis=1) for s in scores]
    outputs = {"scores": np.stack(shares), "boxes": np.stack(edges)}
    assert _same(ssd(SsdParams(), HERE)(outputs), scenes)
    logits = {**outputs, "scores": np.log(np.maximum(outputs["scores"], 1e-9))}
    assert _same(ssd(SsdParams(activation="softmax"), HERE)(logits), scenes)


@pytest.fixture(scope="module")
def priors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("priors")
    np.savez(
        folder / "p.npz", priors=np.concatenate([rng.uniform(20, 80, (ROOM, 2)), rng.uniform(10, 30, (ROOM, 2))], 1)
    )
    return folder


@given(scenes())
def test_ssd_of_offsets_from_priors(priors: Path, scenes: list[np.ndarray]) -> None:
    boxes, scores = zip(*map(_written, scenes), strict=True)
    with np.load(priors / "p.npz") as file:
        own = file["priors"]
    offsets = [
        np.concatenate([(b[:, :2] - own[:, :2]) / own[:, 2:] / 0.1, np.log(b[:, 2:] / own[:, 2:]) / 0.2], axis=1)
        for b in boxes
    ]
    outputs = {"loc": np.stack(offsets), "conf": np.stack(scores)}
    assert _same(ssd(SsdParams(priors="p.npz", background=None), priors)(outputs), scenes)
    with_output = SsdParams(priors_output="anchors", boxes_output="loc", scores_output="conf", background=None)
    assert _same(ssd(with_output, HERE)({**outputs, "anchors": np.stack([own, own])}), scenes)


@given(scenes())
def test_ssd_as_tensorflow_writes_it(scenes: list[np.ndarray]) -> None:
    boxes, scores, classes = np.zeros((2, 9, 4)), np.full((2, 9), 0.99), np.ones((2, 9))
    for number, scene in enumerate(scenes):
        boxes[number, : len(scene)] = scene[:, [1, 0, 3, 2]] / 200
        scores[number, : len(scene)], classes[number, : len(scene)] = scene[:, 4], scene[:, 5] + 1
    counts = np.array([len(scene) for scene in scenes], np.float32)
    outputs = {"detection_boxes": boxes, "detection_classes": classes, "detection_scores": scores, "num": counts}
    params = SsdParams(
        boxes="yxyx", input_size=(200, 200), first_class=1, scores_output="detection_scores", classes_output="detection_classes",
        count_output="num",
    )  # fmt: skip
    assert _same(ssd(params, HERE)(outputs), scenes)


@given(scenes())
def test_detr_with_a_class_of_no_object(scenes: list[np.ndarray]) -> None:
    boxes, scores = zip(*map(_written, scenes), strict=True)
    shares = np.stack([np.concatenate([s, 1 - s.sum(1, keepdims=True)], axis=1) for s in scores])
    outputs = {"logits": np.log(np.maximum(shares, 1e-9)), "pred_boxes": np.stack(boxes) / 128}
    assert _same(detr(DetrParams(input_size=(128, 128)), HERE)(outputs), scenes)


@given(scenes())
def test_detr_whose_classes_count_each_for_itself(scenes: list[np.ndarray]) -> None:
    boxes, scores = (np.stack(part) for part in zip(*map(_written, scenes), strict=True))
    outputs = {"boxes": boxes, "logits": np.log(scores / (1 - scores))}
    assert _same(detr(DetrParams(activation="sigmoid"), HERE)(outputs), scenes)


@given(scenes())
def test_finished_boxes(scenes: list[np.ndarray]) -> None:
    output = np.zeros((2, 9, 6))
    for number, scene in enumerate(scenes):
        output[number, : len(scene)] = scene
    assert _same(finished(FinishedParams(), HERE)({"output": output}), scenes)


def test_boxes_and_scores_that_are_no_numbers_are_no_boxes() -> None:
    output = np.full((1, 20, 6), np.nan)
    output[0, 1] = [np.inf, 50, 20, 20, 0.8, 0.5]
    output[0, 2] = [50, 50, 20, 20, 0.8, np.nan]
    assert yolo(YoloParams(), HERE)({"o": output})[0].tolist() == [[40, 40, 60, 60, 0.8, 0]]


@pytest.mark.parametrize(
    ("decode", "outputs", "words"),
    [
        (yolo(YoloParams(), HERE), {"o": np.zeros((1, 10))}, r"\(n, boxes, 4 \+ classes\).*\[1, 10\]"),
        (yolo(YoloParams(objectness=True), HERE), {"o": np.zeros((1, 99, 5))}, r"5 \+ classes"),
        (yolo(YoloParams(output="x"), HERE), {"o": np.zeros((1, 99, 6))}, "no output 'x'"),
        (ssd(SsdParams(), HERE), {"a": np.zeros((1, 9, 4)), "b": np.zeros((1, 8, 3))}, r"scores are one output"),
        (ssd(SsdParams(), HERE), {"a": np.zeros((1, 9, 4)), "b": np.zeros((1, 9, 4))}, "boxes are one output"),
        (ssd(SsdParams(priors_output="p"), HERE), {"a": np.zeros((1, 9, 4)), "b": np.zeros((1, 9, 3)), "p": np.zeros((8, 4))}, "priors are"),
        (ssd(SsdParams(background=3), HERE), {"a": np.zeros((1, 9, 4)), "b": np.zeros((1, 9, 3))}, "background"),
        (detr(DetrParams(), HERE), {"logits": np.zeros((1, 9, 3))}, "boxes are one output"),
        (finished(FinishedParams(), HERE), {"o": np.zeros((1, 9, 7))}, r"\(n, boxes, 6\)"),
        (ssd(SsdParams(), HERE), {"a": np.zeros((1, 9, 4)), "b": np.zeros((1, 9, 1))}, "background: null"),
        (detr(DetrParams(), HERE), {"a": np.zeros((1, 9, 4)), "b": np.zeros((1, 9, 1))}, "activation: sigmoid"),
        (yolo(YoloParams(), HERE), {"o": np.full((1, 9, 6), "x", object)}, "holds no numbers"),
    ],
)  # fmt: skip
def test_outputs_of_another_shape_are_refused_in_words(decode: Any, outputs: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        decode(outputs)


def test_priors_that_are_none_are_refused(tmp_path: Path) -> None:
    (tmp_path / "p.npz").write_bytes(b"nothing")
    with pytest.raises(UsageError, match=r"is not an \.npz file"):
        ssd(SsdParams(priors="p.npz"), tmp_path)
