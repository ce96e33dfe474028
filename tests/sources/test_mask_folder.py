"""Images with masks: paired by path, prepared alike, refused in words."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from compressctl.core.data import Dataset
from compressctl.core.errors import UsageError
from compressctl.core.source import SplitSizes
from compressctl.sources.mask_folder import fingerprint, load
from compressctl.sources.params import MaskFolderParams, SplitFolders

ALL = SplitSizes(validation=0, calibration=0, test=0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in ("a", "b", "c/d"):
        write(tmp_path / "images" / f"{name}.jpg", rng.integers(0, 256, (8, 6, 3), np.uint8))
        write(tmp_path / "masks" / f"{name}.png", rng.integers(0, 3, (8, 6), np.uint8))
    return tmp_path


def write(path: Path, pixels: np.ndarray, mode: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels, mode).save(path)


def data(folder: Path, sizes: SplitSizes = ALL, **fields: Any) -> Dataset:
    return load(MaskFolderParams(path="images", masks="masks", **fields), sizes, folder, 0)


def labels(dataset: Dataset) -> np.ndarray:
    (batch,) = dataset.split("train").batches(10)
    assert batch.labels is not None
    assert batch.inputs["input"].shape[2:] == batch.labels.shape[1:]
    return batch.labels[np.argsort(batch.indices)]


def test_a_mask_is_that_of_its_image(folder: Path) -> None:
    found = labels(data(folder))
    assert np.array_equal(found[2], np.asarray(Image.open(folder / "masks/c/d.png")))
    assert found.dtype == np.int64


def test_a_mask_is_cropped_and_resized_as_its_image_by_nearest_pixels(folder: Path) -> None:
    found = labels(data(folder, resize=12, center_crop=(10, 11)))
    assert found.shape == (3, 10, 11)
    assert set(np.unique(found)) <= {0, 1, 2}


@pytest.mark.parametrize("values", [None, {"0": 2, "1": 1, "2": 0}], ids=["as stored", "given classes"])
def test_what_lies_beside_a_letterboxed_mask_does_not_count(folder: Path, values: dict[str, int] | None) -> None:
    dataset = data(folder, resize=(16, 16), letterbox="center", interpolation="nearest", values=values)
    (batch,) = dataset.split("train").batches(10)
    assert batch.labels is not None
    stored = np.asarray(Image.open(folder / "masks/a.png")).repeat(2, axis=0).repeat(2, axis=1)
    first = batch.labels[np.argsort(batch.indices)][0]
    assert np.array_equal(first[:, 2:14], stored if values is None else 2 - stored)
    assert (first[:, :2] == -100).all()
    assert (first[:, 14:] == -100).all()
    assert (batch.inputs["input"][:, :, :, :2] == np.float32(114) * np.float32(1 / 255)).all()


def test_colours_of_a_palette_are_their_numbers(folder: Path) -> None:
    mask = Image.fromarray(np.full((8, 6), 2, np.uint8), "P")
    mask.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    mask.save(folder / "masks/a.png")
    assert (labels(data(folder))[0] == 2).all()


def test_255_does_not_count_and_values_have_classes(folder: Path) -> None:
    write(folder / "masks/a.png", np.full((8, 6), 255, np.uint8))
    assert (labels(data(folder))[0] == -100).all()
    assert (labels(data(folder, values={"0": 0, "1": 0, "2": -100, "255": 1}))[0] == 1).all()
    with pytest.raises(UsageError, match=r"a\.png has pixels of 255, which data.values gives no class"):
        labels(data(folder, values={"0": 0, "1": 1, "2": 2}))


def test_masks_of_an_own_test_split(folder: Path) -> None:
    for part in ("train", "test"):
        write(folder / "i" / part / "x.png", np.zeros((4, 4, 3), np.uint8))
        write(folder / "m" / part / "x_mask.png", np.full((4, 4), part == "test", np.uint8))
    params = MaskFolderParams(path="i", masks="m", mask_suffix="_mask")
    dataset = load(params, SplitSizes(validation=0, calibration=0), folder, 0)
    (test,) = dataset.split("test").batches(10)
    assert test.labels is not None
    assert test.labels.all()


def test_names_of_classes(folder: Path) -> None:
    (folder / "names.txt").write_text("sky\nroad\ntree\n")
    assert data(folder, classes="names.txt").classes == ("sky", "road", "tree")
    (folder / "names.txt").write_text("sky\nroad\n")
    with pytest.raises(UsageError, match="pixels of class 2, and 2 classes have names"):
        labels(data(folder, classes="names.txt"))


@pytest.mark.parametrize(
    ("pixels", "words"),
    [
        (np.zeros((8, 6, 3), np.uint8), "holds colours"),
        (np.zeros((8, 5), np.uint8), "8x5 where its image is 8x6"),
        (None, "has no mask"),
    ],
)
def test_what_is_no_mask_is_refused(folder: Path, pixels: np.ndarray | None, words: str) -> None:
    for name in ("a", "b", "c/d"):
        (folder / "masks" / f"{name}.png").unlink()
        if pixels is not None:
            write(folder / "masks" / f"{name}.png", pixels)
    with pytest.raises(UsageError, match=words if pixels is not None else "holds no images"):
        labels(data(folder))
    if pixels is None:
        write(folder / "masks/z.png", np.zeros((8, 6), np.uint8))
        with pytest.raises(UsageError, match=words):
            data(folder)


def test_two_masks_of_one_image_are_refused(folder: Path) -> None:
    write(folder / "masks/a.bmp", np.zeros((8, 6), np.uint8))
    with pytest.raises(UsageError, match="masks of one image"):
        data(folder)


def test_the_fingerprint_covers_masks(folder: Path) -> None:
    params = MaskFolderParams(path="images", masks="masks")
    before = fingerprint(params, folder)
    write(folder / "masks/a.png", np.zeros((8, 6), np.uint8))
    assert fingerprint(params, folder) != before


def test_a_mask_that_lies_across_its_image_is_refused_though_both_are_resized_alike(folder: Path) -> None:
    write(folder / "masks/a.png", np.zeros((6, 8), np.uint8))
    with pytest.raises(UsageError, match=r"a\.png is 6x8 where its image is 8x6"):
        labels(data(folder, resize=(12, 12)))


def test_an_image_in_two_splits_is_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"a\.jpg is in two of the data's own splits"):
        data(folder, folders=SplitFolders(train=".", test="."))
