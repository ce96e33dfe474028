"""Images with boxes, from COCO's JSON and from YOLO's text files: both prepared alike, classes as the model numbers them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from compressctl.core.data import Batch, Dataset
from compressctl.core.errors import UsageError
from compressctl.core.source import SplitSizes
from compressctl.sources import coco, yolo
from compressctl.sources.images import Placement, Preparation, decode_placed
from compressctl.sources.params import CocoDataParams, YoloDataParams

ALL = SplitSizes(validation=0, calibration=0, test=0)
SIZES = {"a.png": (40, 80), "b/c.jpg": (60, 20)}


def picture(path: Path, height: int, width: int, box: tuple[int, int, int, int] | None = None) -> None:
    """Black, with a white box."""
    pixels = np.zeros((height, width, 3), np.uint8)
    if box is not None:
        pixels[box[1] : box[3], box[0] : box[2]] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The same boxes in both forms: a dog in a.png, in b/c.jpg a cat and a crowd of dogs."""
    for name, (height, width) in SIZES.items():
        picture(tmp_path / "images" / name, height, width)
    content = {
        "images": [
            {"id": 11, "file_name": "a.png", "height": 40, "width": 80},
            {"id": 5, "file_name": "b/c.jpg", "height": 60, "width": 20},
        ],
        "annotations": [
            {"id": 1, "image_id": 11, "category_id": 18, "bbox": [8, 4, 16, 20], "iscrowd": 0},
            {"id": 2, "image_id": 5, "category_id": 3, "bbox": [0, 30, 10, 15]},
            {"id": 3, "image_id": 5, "category_id": 18, "bbox": [0, 0, 20, 60], "iscrowd": 1},
            {"id": 4, "image_id": 5, "category_id": 18, "bbox": [3, 3, 0, 9]},
        ],
        "categories": [{"id": 18, "name": "dog"}, {"id": 3, "name": "cat"}],
    }
    (tmp_path / "instances.json").write_text(json.dumps(content))
    (tmp_path / "labels" / "b").mkdir(parents=True)
    (tmp_path / "labels" / "a.txt").write_text("1 0.2 0.35 0.2 0.5\n\n")
    (tmp_path / "labels" / "b" / "c.txt").write_text("0 0.25 0.625 0.5 0.25\n1 0.5 0.5 1 1\n1 0.5 0.5 1 1\n")
    (tmp_path / "data.yaml").write_text("path: ../elsewhere\ntrain: images\nval:\nnames: {0: cat, 1: dog}\n")
    return tmp_path


def read(dataset: Dataset, split: Any = "train") -> list[Batch]:
    return sorted(dataset.split(split).batches(1), key=lambda batch: int(batch.indices[0]))


def from_coco(folder: Path, sizes: SplitSizes = ALL, **fields: Any) -> Dataset:
    return coco.load(CocoDataParams(path="images", annotations="instances.json", **fields), sizes, folder, 0)


def from_yolo(folder: Path, sizes: SplitSizes = ALL, path: str = "data.yaml", **fields: Any) -> Dataset:
    return yolo.load(YoloDataParams(path=path, **fields), sizes, folder, 0)


def boxes(dataset: Dataset, split: Any = "train") -> list[list[list[float]]]:
    labels = [batch.labels for batch in read(dataset, split)]
    return [array[0].round(3).tolist() for array in labels if array is not None]


def test_boxes_are_corners_in_pixels_with_classes_from_0_and_crowds_marked(folder: Path) -> None:
    dataset = from_coco(folder)
    assert dataset.classes == ("cat", "dog")
    assert boxes(dataset) == [[[8, 4, 24, 24, 1, 0]], [[0, 30, 10, 45, 0, 0], [0, 0, 20, 60, 1, 1]]]


def test_shares_of_the_image_become_pixels_and_a_box_written_twice_is_one(folder: Path) -> None:
    dataset = from_yolo(folder)
    assert dataset.classes == ("cat", "dog")
    assert boxes(dataset) == [[[8, 4, 24, 24, 1]], [[0, 30, 10, 45, 0], [0, 0, 20, 60, 1]]]


@pytest.mark.parametrize("form", [from_coco, from_yolo])
@pytest.mark.parametrize(
    ("resize", "wanted"),
    [
        ({"resize": (80, 80)}, [8, 8, 24, 48]),
        ({"resize": (80, 80), "letterbox": "corner"}, [8, 4, 24, 24]),
        ({"resize": (80, 80), "letterbox": "center"}, [8, 24, 24, 44]),
        ({"resize": (160, 80), "letterbox": "center"}, [8, 64, 24, 84]),
        ({"resize": 20}, [4, 2, 12, 12]),
        ({"resize": 20, "center_crop": 20}, [0, 2, 2, 12]),
    ],
    ids=str,
)
def test_boxes_move_with_the_image(folder: Path, form: Any, resize: dict[str, Any], wanted: list[float]) -> None:
    assert boxes(form(folder, **resize))[0][0][:4] == wanted


def test_what_a_crop_cuts_off_is_no_box(folder: Path) -> None:
    assert boxes(from_yolo(folder, center_crop=(8, 8)))[0] == []


@given(
    stored=st.tuples(st.integers(20, 90), st.integers(20, 90)),
    size=st.tuples(st.integers(32, 96), st.integers(32, 96)),
    letterbox=st.sampled_from(["center", "corner", None]),
    data=st.data(),
)
def test_what_stands_in_a_box_stands_in_it_after_any_preparation(
    stored: tuple[int, int], size: tuple[int, int], letterbox: Any, data: st.DataObject
) -> None:
    """A white box on black is found again where its corners are moved to, within a pixel of resampling."""
    x1, y1 = data.draw(st.integers(0, stored[1] - 8)), data.draw(st.integers(0, stored[0] - 8))
    x2, y2 = data.draw(st.integers(x1 + 8, stored[1])), data.draw(st.integers(y1 + 8, stored[0]))
    pixels = np.zeros((*stored, 3), np.uint8)
    pixels[y1:y2, x1:x2] = 255
    [image], [placement] = decoded(pixels, Preparation(resize=size, letterbox=letterbox))
    moved, remains = placement.boxes(np.array([[x1, y1, x2, y2]], np.float64))
    rows, columns = (np.flatnonzero((image[..., 0] > 127).any(axis=axis)) for axis in (1, 0))
    assert remains.all()
    # A box so narrow that resizing leaves less than half of its white has no edges to look for.
    if len(rows) and len(columns):
        found = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        assert np.abs(moved[0] - found).max() <= 1.0


def decoded(pixels: np.ndarray, preparation: Preparation) -> tuple[np.ndarray, list[Placement]]:
    import io

    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return decode_placed([stream.getvalue()], ["it"], preparation)


def test_an_image_lies_where_yolo_s_own_letterbox_puts_it() -> None:
    """Ultralytics: the ratio is that of the tighter side, and an odd pixel of padding goes right and below."""
    [image], [placement] = decoded(
        np.full((333, 500, 3), 7, np.uint8), Preparation(resize=(320, 320), letterbox="center", fill=114)
    )
    assert placement == Placement((333, 500), (213, 320), (320, 320), 53, 0)
    assert (image[:53] == 114).all()
    assert (image[53:266] == 7).all()
    assert (image[266:] == 114).all()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("color", ["rgb", "gray"])
def test_colours_of_a_palette_that_are_transparent_are_read_without_a_word(color: Any) -> None:
    import io

    stream = io.BytesIO()
    image = Image.new("P", (4, 3), 1)
    image.putpalette([0, 0, 0, 200, 200, 200])
    image.save(stream, "PNG", transparency=bytes([0, 128]))
    pixels, _ = decode_placed([stream.getvalue()], ["it"], Preparation(color=color))
    assert (pixels == 200).all()


def test_classes_are_those_that_are_named_in_the_models_order(folder: Path) -> None:
    dataset = from_coco(folder, classes=("dog",))
    assert dataset.classes == ("dog",)
    assert [[box[4] for box in image] for image in boxes(dataset)] == [[0], [0]]
    numbered = from_yolo(folder, classes={"cat": 2, "dog": 0})
    assert numbered.classes == ("dog", "class 1", "cat")
    assert [[box[4] for box in image] for image in boxes(numbered)] == [[0], [2, 0]]


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        (("dgo",), "no class 'dgo'"),
        (("dog", "dog"), "names a class twice"),
        ({"dog": 0, "cat": 0}, "names a class twice"),
    ],
)
def test_classes_that_cannot_be_meant_are_refused(folder: Path, choice: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        from_coco(folder, classes=choice)


def test_channels_in_another_order_and_layout(folder: Path) -> None:
    path = folder / "images" / "a.png"
    Image.fromarray(np.tile(np.array([10, 20, 30], np.uint8), (40, 80, 1))).save(path)
    prepared = {
        "resize": (40, 40),
        "color": "bgr",
        "layout": "NHWC",
        "scale": 1.0,
        "mean": (1.0, 2.0, 3.0),
        "std": (2.0,),
    }
    image = read(from_coco(folder, **prepared))[0].inputs["input"]
    assert image.shape == (1, 40, 40, 3)
    assert image[0, 0, 0].tolist() == [(30 - 1) / 2, (20 - 2) / 2, (10 - 3) / 2]


def test_images_of_one_size_share_a_batch_and_others_come_alone(folder: Path) -> None:
    together = list(from_yolo(folder, resize=(32, 32)).split("train").batches(8))
    alone = list(from_yolo(folder).split("train").batches(8))
    assert [len(batch.indices) for batch in together] == [2]
    assert [len(batch.indices) for batch in alone] == [1, 1]


def test_an_own_test_split_and_a_limit_on_each(folder: Path) -> None:
    for number in range(6):
        picture(folder / "t" / "images" / "val" / f"{number}.png", 9, 9)
        picture(folder / "t" / "images" / "train" / f"{number}.png", 9, 9)
    (folder / "t" / "labels" / "val").mkdir(parents=True)
    (folder / "t" / "labels" / "val" / "0.txt").write_text("0 0.5 0.5 1 1\n")
    dataset = from_yolo(folder, SplitSizes(validation=1, calibration=2, train=1, test=4), path="t")
    splits = ("train", "validation", "calibration", "test")
    assert [len(dataset.split(name)) for name in splits] == [1, 1, 2, 4]  # type: ignore[arg-type]
    picture(folder / "other" / "a.png", 40, 80)
    picture(folder / "other" / "b/c.jpg", 60, 20)
    more = from_coco(
        folder, SplitSizes(validation=0, calibration=0, test=1), test_annotations="instances.json", test_path="other"
    )
    assert len(more.split("train")) == 2
    assert len(more.split("test")) == 1


@pytest.mark.parametrize(
    ("train", "label"),
    [
        ("images/x", "labels/x/1.txt"),
        ("../images/x", "labels/x/1.txt"),
        ("[images/x]", "labels/x/1.txt"),
        ("list.txt", "labels/x/1.txt"),
        ("x/images", "x/labels/1.txt"),
        ("plain", "plain/1.txt"),
    ],
)
def test_where_a_data_yaml_finds_images_and_boxes(tmp_path: Path, train: str, label: str) -> None:
    image = Path(label.replace("labels", "images")).with_suffix(".png")
    picture(tmp_path / image, 10, 10)
    (tmp_path / "list.txt").write_text(f"./{image}\n")
    (tmp_path / label).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / label).write_text("0 0.5 0.5 0.2 0.2\n")
    (tmp_path / "data.yaml").write_text(f"train: {train}\nnames: [thing]\n")
    assert boxes(from_yolo(tmp_path)) == [[[4, 4, 6, 6, 0]]]


def test_a_polygon_is_the_box_around_it(folder: Path) -> None:
    (folder / "labels" / "a.txt").write_text("0 0.1 0.1 0.3 0.2 0.2 0.6\n")
    assert boxes(from_yolo(folder))[0] == [[8, 4, 24, 24, 0]]


def test_images_that_were_annotated_at_another_size_are_refused(folder: Path) -> None:
    picture(folder / "images" / "a.png", 80, 40)
    with pytest.raises(UsageError, match=r"images\[0\]: .*a.png is 80x40, and the annotations say 40x80"):
        read(from_coco(folder))


@pytest.mark.parametrize(
    ("form", "file"), [("coco", "instances.json"), ("yolo", "labels/a.txt"), ("yolo", "data.yaml")]
)
def test_the_fingerprint_covers_boxes(folder: Path, form: str, file: str) -> None:
    def now() -> str:
        if form == "coco":
            return coco.fingerprint(CocoDataParams(path="images", annotations="instances.json"), folder)
        return yolo.fingerprint(YoloDataParams(path="data.yaml"), folder)

    before = now()
    (folder / file).write_text(
        (folder / file).read_text().replace("0.2", "0.3").replace("[8, ", "[9, ").replace("dog", "fox")
    )
    assert now() != before


def test_average_precision_of_boxes_on_their_labels_is_whole(folder: Path) -> None:
    pytest.importorskip("faster_coco_eval")
    from compressctl.core.objects import as_objects
    from compressctl.tasks.detection import average_precision

    labels = [
        batch.labels[0]
        for batch in read(from_coco(folder, resize=(64, 64), letterbox="center"))
        if batch.labels is not None
    ]
    found = as_objects([np.insert(label[label[:, 5] == 0][:, :5], 4, 0.9, axis=1) for label in labels])
    assert average_precision(found, as_objects(labels)) == pytest.approx(100)


@pytest.mark.parametrize("mark", ["1", 2, None, [1]])
def test_a_mark_of_a_crowd_that_is_neither_0_nor_1_is_refused(folder: Path, mark: Any) -> None:
    content = json.loads((folder / "instances.json").read_text())
    content["annotations"][0]["iscrowd"] = mark
    (folder / "instances.json").write_text(json.dumps(content))
    with pytest.raises(UsageError, match=r"annotations\[0\]: its iscrowd is neither 0 nor 1"):
        from_coco(folder)


def test_images_that_are_tested_and_trained_on_are_refused(folder: Path) -> None:
    """As coco128.yaml has it: one folder under train and val."""
    (folder / "data.yaml").write_text("train: images\nval: images\nnames: [cat, dog]\n")
    with pytest.raises(UsageError, match=r"is in two of the data's own splits"):
        yolo.load(YoloDataParams(path="data.yaml"), ALL, folder, 0)


def test_annotations_that_are_tested_and_trained_on_are_refused(folder: Path) -> None:
    params = CocoDataParams(path="images", annotations="instances.json", test_annotations="instances.json")
    with pytest.raises(UsageError, match=r"is in two of the data's own splits"):
        coco.load(params, ALL, folder, 0)
