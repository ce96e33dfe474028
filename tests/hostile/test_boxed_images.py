"""Images with boxes whose annotations hold something else than they say."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hostile._in_process import refused
from PIL import Image

from compressctl.core.source import SplitSizes
from compressctl.sources import coco, yolo
from compressctl.sources.params import CocoDataParams, YoloDataParams

SIZES = SplitSizes(calibration=0, validation=0, test=0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """data/ holds the dataset; beside it stands an image that is none of its own."""
    for name in ("data/images/a.png", "outside.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 7)).save(tmp_path / name)
    (tmp_path / "data" / "labels").mkdir()
    (tmp_path / "data" / "labels" / "a.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    os.mkfifo(tmp_path / "data" / "pipe")
    return tmp_path


def read_coco(folder: Path) -> None:
    dataset = coco.load(CocoDataParams(path="data", annotations="data/a.json"), SIZES, folder, 0)
    list(dataset.split("train").batches(4))


def read_yolo(folder: Path, path: str = "data") -> None:
    list(yolo.load(YoloDataParams(path=path), SIZES, folder, 0).split("train").batches(4))


def annotations(**changes: Any) -> bytes:
    """One image, one box, one category, with some fields changed."""
    image = {"id": 1, "file_name": "images/a.png", **changes.pop("image", {})}
    box = {"image_id": 1, "category_id": 1, "bbox": [1, 1, 2, 2], **changes.pop("box", {})}
    category = {"id": 1, "name": "a", **changes.pop("category", {})}
    return json.dumps({"images": [image], "annotations": [box], "categories": [category], **changes}).encode()


TWICE = [{"id": 1, "file_name": "images/a.png"}] * 2
COCO: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "it is no JSON"),
    "a list": (b"[]", "it is no JSON object"),
    "brackets in brackets": (b"[" * 200_000, "it is no JSON"),
    "not UTF-8": (b'{"images": "\xff"}', "it is no JSON"),
    "half of a surrogate pair": (annotations(category={"name": "\ud800"}), "it is no JSON"),
    "nothing in it": (b"{}", "there is no list 'categories'"),
    "no list of images": (annotations(images={}), "there is no list 'images'"),
    "no images": (annotations(images=[], annotations=[]), "names no images"),
    "a number for an image": (annotations(images=[3]), "images[0] is no object"),
    "an image without an id": (annotations(image={"id": None}), "images[0] has no id"),
    "an image twice": (annotations(images=TWICE), "images[1]: its id is another one's"),
    "a file twice": (annotations(images=[TWICE[0], {**TWICE[0], "id": 2}]), "images[1]: images/a.png is named above"),
    "no file": (annotations(image={"file_name": " "}), "images[0] has no file_name"),
    "a number for a file": (annotations(image={"file_name": 3}), "images[0] has no file_name"),
    "a null byte": (annotations(image={"file_name": "a\0.png"}), "images[0]: it names no file"),
    "a name too long": (annotations(image={"file_name": "a" * 5000}), "cannot be read"),
    "no such file": (annotations(image={"file_name": "b.png"}), "b.png does not exist"),
    "a folder": (annotations(image={"file_name": "images"}), "is not a file"),
    "a pipe": (annotations(image={"file_name": "pipe"}), "is a pipe"),
    "a device": (annotations(image={"file_name": "/dev/zero"}), "leads out of"),
    "a file above": (annotations(image={"file_name": "../outside.png"}), "leads out of"),
    "a file above by a detour": (annotations(image={"file_name": "images/../../outside.png"}), "leads out of"),
    "no image": (annotations(image={"file_name": "labels/a.txt"}), "is not an image"),
    "another size": (annotations(image={"height": 9, "width": 7}), "is 7x9, and the annotations say 9x7"),
    "a size of nothing": (annotations(image={"height": 0, "width": 7}), "are no numbers of pixels"),
    "a text for a size": (annotations(image={"height": "x" * 5000, "width": 7}), "are no numbers of pixels"),
    "a box of no image": (annotations(box={"image_id": 7}), "annotations[0]: its image_id is that of no image"),
    "a list for an id": (annotations(box={"image_id": [1]}), "annotations[0]: its image_id"),
    "a box of no category": (annotations(box={"category_id": "b"}), "annotations[0]: its category_id"),
    "no box": (annotations(box={"bbox": None}), "annotations[0]: its bbox is not"),
    "three numbers": (annotations(box={"bbox": [1, 2, 3]}), "its bbox is not"),
    "a text for a number": (annotations(box={"bbox": [1, 2, 3, "4"]}), "its bbox is not"),
    "a negative width": (annotations(box={"bbox": [1, 2, -3, 4]}), "its bbox is not"),
    "infinity": (annotations().replace(b"[1, 1, 2, 2]", b"[1, 1, 2, 1e999]"), "its bbox is not"),
    "not a number": (annotations(box={"bbox": [1, 2, 3, float("nan")]}), "it is no JSON"),
    "a number beyond floats": (annotations(box={"bbox": [1, 2, 3, 10**400]}), "its bbox is not"),
    "a category without a name": (annotations(category={"name": ""}), "categories[0] has no name"),
    "a category twice": (annotations(categories=[{"id": 1, "name": "a"}] * 2), "its id is another one's"),
    "a name twice": (annotations(categories=[{"id": 1, "name": "a"}, {"id": 2, "name": "a"}]), "one name"),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("content", "words"), COCO.values(), ids=COCO)
def test_annotations(content: bytes, words: str, folder: Path) -> None:
    (folder / "data" / "a.json").write_bytes(content)
    refused(lambda: read_coco(folder), words)


def test_a_pipe_for_annotations(folder: Path) -> None:
    os.mkfifo(folder / "data" / "a.json")
    refused(lambda: read_coco(folder), "is a pipe")


LABELS: dict[str, tuple[bytes, str]] = {
    "a word": (b"0 0.5 0.5 0.5 x\n", "a.txt:1: it is not `class cx cy w h`"),
    "four numbers": (b"\n0 0.5 0.5 0.5\n", "a.txt:2: it is not `class cx cy w h`"),
    "half a corner": (b"0 0.5 0.5 0.5 0.5 0.5 0.5 0.5\n", "a.txt:1: it is not"),
    "one number": (b"0\n", "a.txt:1: it is not"),
    "half a class": (b"0.5 0.5 0.5 0.5 0.5\n", "its class is no whole number"),
    "a class below 0": (b"-1 0.5 0.5 0.5 0.5\n", "its class is no whole number"),
    "an infinite class": (b"inf 0.5 0.5 0.5 0.5\n", "its class is no whole number"),
    "a class of a billion": (b"1000000000 0.5 0.5 0.5 0.5\n", "its class is no whole number"),
    "pixels": (b"0 320 240 20 20\n", "are no shares of the image"),
    "a negative size": (b"0 0.5 0.5 -0.5 0.5\n", "are no shares of the image"),
    "not a number": (b"0 0.5 nan 0.5 0.5\n", "are no shares of the image"),
    "not UTF-8": (b"\xff\xfe 0.5\n", "cannot be read"),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("content", "words"), LABELS.values(), ids=LABELS)
def test_a_file_of_boxes(content: bytes, words: str, folder: Path) -> None:
    (folder / "data" / "labels" / "a.txt").write_bytes(content)
    refused(lambda: read_yolo(folder), words)


def test_a_pipe_and_a_folder_for_boxes(folder: Path) -> None:
    (folder / "data" / "labels" / "a.txt").unlink()
    refused(lambda: read_yolo(folder), "no image has a file of boxes")
    (folder / "data" / "labels" / "a.txt").mkdir()
    refused(lambda: read_yolo(folder), "a.txt cannot be read")
    (folder / "data" / "labels" / "a.txt").rmdir()
    os.mkfifo(folder / "data" / "labels" / "a.txt")
    refused(lambda: read_yolo(folder), "is a pipe")


DESCRIPTIONS: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "is not a description"),
    "a list": (b"- train\n", "is not a description"),
    "no YAML": (b"train: [\n", "is not a description in YAML"),
    "not UTF-8": (b"train: \xff\n", "is not a description in YAML"),
    "brackets in brackets": (b"train: " + b"[" * 100_000 + b"\n", "is not a description in YAML"),
    "a list of itself": (b"train: &a [*a]\n", "is not a description in YAML"),
    "an object of Python's": (b"train: !!python/object/apply:os.system [id]\n", "id does not exist"),
    "no folder to train on": (b"names: [a]\n", "names no images to train on"),
    "a mapping for a folder": (b"train: {a: b}\n", "train: it names no folder"),
    "lists in lists": (b"train: [[images]]\n", "train: it names no folder"),
    "no such folder": (b"train: pictures\n", "pictures does not exist"),
    "the folder above": (b"train: ../../other/images\n", "leads out of"),
    "another folder": (b"train: /etc\n", "leads out of"),
    "another folder by a list": (b"train: list.txt\n", "list.txt:1: '/dev/zero' leads out of"),
    "a pipe for a list": (b"train: pipe.txt\n", "is a pipe"),
    "a null byte": (b'train: "a\\0"\n', "it names no file"),
    "a name too long": (b"train: " + b"a" * 5000 + b"\n", "cannot be read"),
    "a text for names": (b"train: images\nnames: a\n", "names is no list of class names"),
    "lists for names": (b"train: images\nnames: [[a]]\n", "names is no list of class names"),
    "a number of no class": (b"train: images\nnames: {x: a}\n", "classes are numbered from 0"),
    "a class of a billion": (b"train: images\nnames: {1000000000: a}\n", "classes are numbered from 0"),
    "a number of a thousand digits": (b"train: images\nnames: {" + b"9" * 1000 + b": a}\n", "classes are numbered"),
    "a class without a name": (b"train: images\nnames: [a, '']\n", "names is no list of class names"),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("content", "words"), DESCRIPTIONS.values(), ids=DESCRIPTIONS)
def test_a_description(content: bytes, words: str, folder: Path) -> None:
    (folder / "data" / "data.yaml").write_bytes(content)
    (folder / "data" / "list.txt").write_text("/dev/zero\n")
    os.mkfifo(folder / "data" / "pipe.txt")
    refused(lambda: read_yolo(folder, "data/data.yaml"), words)


def test_more_classes_in_the_files_than_names(folder: Path) -> None:
    (folder / "data" / "data.yaml").write_text("train: images\nnames: [a]\n")
    (folder / "data" / "labels" / "a.txt").write_text("1 0.5 0.5 0.5 0.5\n")
    refused(lambda: read_yolo(folder, "data/data.yaml"), "a.txt:1: its class is 1, and 1 classes have names")


def test_an_image_of_more_pixels_than_are_read(folder: Path) -> None:
    (folder / "data" / "images" / "a.png").unlink()
    (folder / "data" / "images" / "a.pgm").write_bytes(b"P5 60000 60000 255\n")
    refused(lambda: read_yolo(folder), "Image size (3600000000 pixels)")


def test_a_letterbox_of_more_pixels_than_are_read(folder: Path) -> None:
    params = YoloDataParams(path="data", resize=(65_536, 65_536), letterbox="center")
    dataset = yolo.load(params, SIZES, folder, 0)
    refused(lambda: list(dataset.split("train").batches(1)), "resized, is 65536x65536")
