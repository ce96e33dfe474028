"""What models give, where reading or comparing it costs more than it says."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from hostile._in_process import bounded, refuses
from onnx import TensorProto, helper, numpy_helper

from compressctl.core.errors import TimeIsUpError, UsageError
from compressctl.core.events import Events
from compressctl.core.objects import as_objects
from compressctl.core.tasks import Judge
from compressctl.measure import score
from compressctl.measure.groups import group_changes, group_errors
from compressctl.measure.score import Predictions, decoded_change
from compressctl.pipeline.event_listeners import TimeLimit
from compressctl.tasks import box_decoders, boxes
from compressctl.tasks.class_metrics import recall_by_class
from compressctl.tasks.detection import BOXES, average_precision
from compressctl.tasks.params import FinishedParams
from compressctl.tasks.positions import Positions
from compressctl.tasks.segmentation import iou_by_class
from compressctl.tasks.sequences import f1_by_class
from compressctl.tasks.text import STRINGS, cer

SEGMENTATION = """recipe: compressctl/v1
task: segmentation
model: {source: onnx, path: m.onnx}
data: {source: npz, path: d.npz, inputs: x, calibration: 2, validation: 2, test: 4}
stages: [{use: quantize.weights}]
"""
LONG = "ab" * 100_000


def predictions(*results: object) -> Predictions:
    return Predictions(as_objects(results), None, np.arange(len(results)))


def test_texts_of_many_thousand_letters() -> None:
    """That they differ is known, and by how much is not; where they do not, it is 0."""
    found = STRINGS.tally(as_objects([LONG, LONG]), as_objects([LONG[::-1], LONG]))
    assert (found.reference, found.kept, found.edits) == (2, 1, None)
    assert STRINGS.tally(as_objects([LONG, LONG]), as_objects([LONG, LONG + "c"])).edits == 1


def test_texts_of_thousands_of_different_letters() -> None:
    """A mask of each letter would take gigabytes."""
    letters = "".join(map(chr, range(0x4E00, 0x4E00 + 20_000)))
    assert STRINGS.tally(as_objects([letters]), as_objects([letters[::-1]])).edits is None


def test_texts_too_long_for_their_metric() -> None:
    with pytest.raises(ValueError, match="sample 1 has 200,000 characters, and 200,000 in its label: too many"):
        cer(as_objects(["a", LONG]), as_objects(["a", LONG[::-1]]))


def test_a_time_limit_ends_the_comparison_of_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score, "_SECONDS_WITHOUT_EVENT", 0)
    texts = predictions(*["ab"] * 20)
    with pytest.raises(TimeIsUpError):
        decoded_change(texts, texts, Judge("recognition", decode=lambda outputs: []), None, Events(TimeLimit(-1)))


HUGE = np.array([[0, 400_000_000], [1 << 62, 1]])


def test_labels_of_any_size_take_no_memory() -> None:
    """Where nobody knows how many classes there are."""
    masks, labels = as_objects([HUGE % 2, HUGE]), as_objects([HUGE, HUGE])
    with bounded():
        assert iou_by_class(masks, labels) == {0: 50, 1: 100, 400_000_000: 50, 1 << 62: 50}
        assert f1_by_class(masks, labels)[1 << 62] == pytest.approx(200 / 3)
        assert recall_by_class(np.eye(4), HUGE.reshape(-1)) == {0: 100, 1: 0, 400_000_000: 0, 1 << 62: 0}
        assert Positions("pixels").tally(masks, labels).by_class[1 << 62] == (1, 1, 1)


@pytest.mark.parametrize("label", [3, 400_000_000, 1 << 33, (1 << 63) - 1])
@pytest.mark.parametrize("command", [("plan", "r.yaml", "--check"), ("evaluate", "m.onnx", "--data", "r.yaml")])
def test_a_pixel_of_no_class(
    label: int, command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = helper.make_node("Conv", ["x", "w"], ["y"])
    shapes = {"x": ["n", 1, 4, 4], "y": ["n", 3, 4, 4]}
    [x, y] = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    weight = numpy_helper.from_array(np.ones((3, 1, 1, 1), np.float32), "w")
    opset = [helper.make_opsetid("", 17)]
    onnx.save(
        helper.make_model(helper.make_graph([scores], "g", [x], [y], [weight]), opset_imports=opset),
        tmp_path / "m.onnx",
    )
    labels = np.full((8, 4, 4), label)
    np.savez(tmp_path / "d.npz", x=np.ones((8, 1, 4, 4), np.float32), labels=labels)
    (tmp_path / "r.yaml").write_text(SEGMENTATION)
    monkeypatch.chdir(tmp_path)
    refuses(tmp_path, *command, says=f"label {label} in sample")


def crowd(count: int, classes: int) -> np.ndarray:
    """Boxes of 2 x 2 in a row, none of which overlaps another."""
    left = 3.0 * np.arange(count)[:, None]
    sides = np.concatenate([left, 0 * left, left + 2, 0 * left + 2], axis=1)
    return np.concatenate([sides, np.linspace(1, 0.1, count)[:, None], np.arange(count)[:, None] % classes], axis=1)


def test_boxes_by_the_ten_thousand_against_as_many() -> None:
    rows = as_objects([crowd(20_000, 80)])
    with bounded():
        assert BOXES.tally(rows, rows).kept == 20_000


def test_boxes_that_overlap_none_are_suppressed_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    tables: list[int] = []
    usual = boxes.iou
    monkeypatch.setattr(boxes, "iou", lambda left, right: tables.append(left.size) or usual(left, right))
    assert len(boxes.non_maximum_suppression(crowd(3_000, 1), 0.5, 2_500)) == 2_500
    assert len(tables) < 100
    tables.clear()
    assert len(boxes.non_maximum_suppression(crowd(3_000, 1), 1.0, 2_500)) == 2_500
    assert not tables


def test_boxes_of_more_classes_than_are_scored() -> None:
    every = crowd(20_001, 20_001)
    with pytest.raises(ValueError, match="labels are of 20,001 classes; 20,000 are scored"):
        average_precision(as_objects([every]), as_objects([every[:, [0, 1, 2, 3, 5]]]))


@pytest.mark.parametrize("number", [1e30, -1e300])
def test_boxes_of_no_class(number: float) -> None:
    """A file's own are none; labels are refused."""
    row = np.array([[0, 0, 2, 2, 1, number]])
    decode = box_decoders.finished(FinishedParams(), Path())
    assert [len(found) for found in decode({"y": row[None]})] == [0]
    with pytest.raises(ValueError, match="holds a class beyond"):
        average_precision(as_objects([row]), as_objects([row[:, [0, 1, 2, 3, 5]]]))


def test_results_of_no_form() -> None:
    """Of an author's function."""
    judge = Judge("detection", decode=lambda outputs: [])
    with pytest.raises(
        UsageError, match="the result of sample 1 cannot be compared with the original's: a result of a"
    ):
        decoded_change(
            predictions(np.zeros((1, 6)), np.zeros(6)), predictions(*[np.zeros((1, 6))] * 2), judge, None, Events()
        )


@pytest.mark.parametrize(("count", "are_compared"), [(1_000, True), (1_001, False)])
def test_a_column_of_groups_that_are_nearly_all_different(count: int, are_compared: bool) -> None:
    groups = np.concatenate([np.repeat(["a", "b"], 20), np.arange(count - 2).astype(str)])
    errors = np.linspace(0, 1, len(groups))
    found = group_errors(errors, errors, groups)
    assert (found is not None) is are_compared
    assert (group_changes(errors > 0.5, errors > 0.5, groups) is not None) is are_compared
