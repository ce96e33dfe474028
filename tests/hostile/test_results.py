"""What models give, where reading or comparing it costs more than it says."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from hostile._in_process import bounded, refuses
from onnx import TensorProto, helper, numpy_helper

from compressctl.core.errors import TimeIsUpError
from compressctl.core.events import Events
from compressctl.core.objects import as_objects
from compressctl.core.tasks import Judge
from compressctl.measure import score
from compressctl.measure.score import Predictions, decoded_change
from compressctl.pipeline.event_listeners import TimeLimit
from compressctl.tasks.class_metrics import recall_by_class
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
LONG = "ab" * 500_000


def predictions(*results: object) -> Predictions:
    return Predictions(as_objects(results), None, np.arange(len(results)))


def test_texts_of_a_million_letters() -> None:
    """That they differ is known, and by how much is not; where they do not, it is 0."""
    found = STRINGS.tally(as_objects([LONG, LONG]), as_objects([LONG[::-1], LONG]))
    assert (found.reference, found.kept, found.edits) == (2, 1, None)
    assert STRINGS.tally(as_objects([LONG, LONG]), as_objects([LONG, LONG + "c"])).edits == 1


def test_texts_of_thousands_of_different_letters() -> None:
    """A mask of each letter would take gigabytes."""
    letters = "".join(map(chr, range(0x4E00, 0x4E00 + 20_000)))
    assert STRINGS.tally(as_objects([letters]), as_objects([letters[::-1]])).edits is None


def test_texts_too_long_for_their_metric() -> None:
    with pytest.raises(ValueError, match="sample 1 has 1,000,000 characters, and 1,000,000 in its label: too many"):
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
