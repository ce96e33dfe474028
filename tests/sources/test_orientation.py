"""Photographs whose EXIF data say how they lie: every source reads them as they are displayed, and boxes and masks with them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from compressctl.core.data import Dataset
from compressctl.core.errors import UsageError
from compressctl.core.source import SplitSizes
from compressctl.sources import coco, image_folder, mask_folder, npz, text_images, yolo
from compressctl.sources.images import Preparation, decode_masks, decode_one
from compressctl.sources.params import (
    CocoDataParams,
    ImageFolderParams,
    MaskFolderParams,
    NpzParams,
    TextImagesParams,
    YoloDataParams,
)

ALL = SplitSizes(validation=0, calibration=0, test=0)
HEIGHT, WIDTH = 30, 50
"""As displayed. The box of white pixels lies in the upper left corner."""
BOX = [5.0, 2.0, 25.0, 12.0]

STORED: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda shown: shown,
    2: lambda shown: shown[:, ::-1],
    3: lambda shown: shown[::-1, ::-1],
    4: lambda shown: shown[::-1],
    5: lambda shown: shown.swapaxes(0, 1),
    6: lambda shown: np.rot90(shown, 1),
    7: lambda shown: shown.swapaxes(0, 1)[::-1, ::-1],
    8: lambda shown: np.rot90(shown, -1),
}
"""By EXIF's number: where the pixels of a displayed image lie in the file (Exif 2.32, 4.6.4: the 0th row is the visual ... side)."""


def displayed() -> np.ndarray:
    pixels = np.zeros((HEIGHT, WIDTH), np.uint8)
    pixels[2:12, 5:25] = 255
    return pixels


def photograph(path: Path, orientation: int, exif: bytes | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    tags = Image.Exif()
    tags[0x0112] = orientation
    stored = np.ascontiguousarray(STORED[orientation](displayed()))
    Image.fromarray(stored).convert("RGB").save(path, exif=tags.tobytes() if exif is None else exif)
    return path


def from_image_folder(folder: Path, **fields: Any) -> Dataset:
    return image_folder.load(ImageFolderParams(path="images", labels=None, **fields), ALL, folder, 0)


def from_coco(folder: Path, size: tuple[int, int] = (HEIGHT, WIDTH), **fields: Any) -> Dataset:
    x1, y1, x2, y2 = BOX
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": size[0], "width": size[1]}],
        "annotations": [{"image_id": 1, "category_id": 1, "bbox": [x1, y1, x2 - x1, y2 - y1]}],
        "categories": [{"id": 1, "name": "bright"}],
    }
    (folder / "boxes.json").write_text(json.dumps(content))
    return coco.load(CocoDataParams(path="images", annotations="boxes.json", **fields), ALL, folder, 0)


def from_yolo(folder: Path, **fields: Any) -> Dataset:
    (folder / "labels").mkdir()
    x1, y1, x2, y2 = BOX
    line = [0, (x1 + x2) / 2 / WIDTH, (y1 + y2) / 2 / HEIGHT, (x2 - x1) / WIDTH, (y2 - y1) / HEIGHT]
    (folder / "labels" / "a.txt").write_text(" ".join(map(str, line)))
    return yolo.load(YoloDataParams(path=".", **fields), ALL, folder, 0)


def from_mask_folder(folder: Path, **fields: Any) -> Dataset:
    (folder / "masks").mkdir()
    Image.fromarray(displayed() // 255).save(folder / "masks" / "a.png")
    return mask_folder.load(MaskFolderParams(path="images", masks="masks", **fields), ALL, folder, 0)


def from_text_images(folder: Path, **fields: Any) -> Dataset:
    (folder / "list.txt").write_text("images/a.png\tbright\n")
    return text_images.load(TextImagesParams(path="list.txt", **fields), ALL, folder, 0)


def from_npz(folder: Path) -> Dataset:
    content = (folder / "images" / "a.png").read_bytes()
    arrays = {"blob": np.frombuffer(content, np.uint8), "offsets": np.array([0, len(content)])}
    np.savez(folder / "data.npz", **arrays)
    encoded: Any = {"train": {"blob": "blob", "offsets": "offsets", "labels": None}}
    return npz.load(NpzParams(path="data.npz", encoded=encoded), ALL, folder, 0)


SOURCES = [from_image_folder, from_coco, from_yolo, from_mask_folder, from_text_images]


def pixels(dataset: Dataset) -> np.ndarray:
    """(height, width) from 0 to 1, of the only image."""
    (batch,) = dataset.split("train").batches(1)
    return batch.inputs["input"][0, 0]


def label(dataset: Dataset) -> np.ndarray:
    (batch,) = dataset.split("train").batches(1)
    assert batch.labels is not None
    return batch.labels[0]


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("source", SOURCES)
def test_a_photograph_is_read_as_it_is_displayed(tmp_path: Path, source: Any, orientation: int) -> None:
    photograph(tmp_path / "images" / "a.png", orientation)
    np.testing.assert_array_equal(pixels(source(tmp_path)), displayed() / np.float32(255))


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".tif"])
def test_in_every_format_that_holds_exif_data(tmp_path: Path, suffix: str) -> None:
    path = photograph(tmp_path / f"a{suffix}", 6)
    shown = decode_one(path, "a", Preparation(color="gray"))[..., 0]
    assert shown.shape == (HEIGHT, WIDTH)
    assert np.abs(shown.astype(int) - displayed()).mean() < 5


@pytest.mark.parametrize("source", [from_coco, from_yolo])
def test_boxes_are_where_they_were_drawn(tmp_path: Path, source: Any) -> None:
    photograph(tmp_path / "images" / "a.png", 8)
    assert label(source(tmp_path))[0, :4].tolist() == pytest.approx(BOX, abs=1e-3)


def test_a_mask_lies_on_what_was_drawn(tmp_path: Path) -> None:
    photograph(tmp_path / "images" / "a.png", 6)
    dataset = from_mask_folder(tmp_path)
    np.testing.assert_array_equal(label(dataset), pixels(dataset) > 0)


def test_a_mask_is_turned_as_its_own_data_say(tmp_path: Path) -> None:
    mask = np.ascontiguousarray(STORED[6](displayed() // 255))
    tags = Image.Exif()
    tags[0x0112] = 6
    Image.fromarray(mask).save(tmp_path / "mask.png", exif=tags.tobytes())
    np.testing.assert_array_equal(decode_masks([tmp_path / "mask.png"], ["m"], Preparation())[0][0], displayed() // 255)


@pytest.mark.parametrize("source", [from_image_folder, from_text_images])
def test_a_recipe_can_ask_for_pixels_as_they_are_stored(tmp_path: Path, source: Any) -> None:
    photograph(tmp_path / "images" / "a.png", 6)
    np.testing.assert_array_equal(
        pixels(source(tmp_path, orientation="stored")), STORED[6](displayed()) / np.float32(255)
    )


def test_annotations_of_the_stored_size_are_refused_with_the_key_that_takes_them(tmp_path: Path) -> None:
    photograph(tmp_path / "images" / "a.png", 6)
    with pytest.raises(UsageError, match="is 30x50, and the annotations say 50x30") as refused:
        label(from_coco(tmp_path, (WIDTH, HEIGHT)))
    assert "data.orientation" in str(refused.value.hint)
    label(from_coco(tmp_path, (WIDTH, HEIGHT), orientation="stored"))


@pytest.mark.parametrize("exif", [b"Exif\0\0MM\0*\0\0\0\xff", b"Exif\0\0nothing", b"\0" * 40])
@pytest.mark.filterwarnings("error")
def test_exif_data_that_cannot_be_read_turn_nothing(tmp_path: Path, exif: bytes) -> None:
    path = photograph(tmp_path / "a.jpg", 1, exif)
    assert decode_one(path, "a", Preparation()).shape == (HEIGHT, WIDTH, 3)


def test_images_encoded_in_an_array_are_turned_too(tmp_path: Path) -> None:
    photograph(tmp_path / "images" / "a.png", 6)
    assert pixels(from_npz(tmp_path)).shape == (HEIGHT, WIDTH)
