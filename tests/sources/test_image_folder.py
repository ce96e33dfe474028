from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from compressctl.core.errors import UsageError
from compressctl.core.source import SplitSizes
from compressctl.sources.image_folder import fingerprint, load
from compressctl.sources.params import ImageFolderParams

NO_SPLITS = SplitSizes(validation=0, calibration=0, test=0)
COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


def picture(path: Path, colour: str = "red", size: tuple[int, int] = (6, 4)) -> None:
    """size: (width, height), as Pillow counts."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, COLOURS[colour]).save(path)


def one_folder_per_class(root: Path, each: int = 3) -> None:
    for colour in COLOURS:
        for number in range(each):
            picture(root / colour / f"{number}.png", colour)


def read(folder: Path, sizes: SplitSizes = NO_SPLITS, split: str = "train", **fields):
    dataset = load(ImageFolderParams.model_validate({"path": ".", **fields}), sizes, folder, 0)
    batch = next(dataset.split(split).batches(100))
    return dataset, batch.inputs["input"], batch.labels


def test_each_folder_is_a_class_and_images_have_the_colour_of_theirs(tmp_path):
    one_folder_per_class(tmp_path)
    dataset, images, labels = read(tmp_path)
    assert dataset.classes == ("blue", "green", "red")
    assert images.shape == (9, 3, 4, 6)
    expected = np.array([COLOURS[dataset.classes[label]] for label in labels]) / 255
    np.testing.assert_allclose(images.mean((2, 3)), expected, atol=1e-6)


def test_channels_last_for_models_that_take_it(tmp_path):
    one_folder_per_class(tmp_path)
    assert read(tmp_path, layout="NHWC")[1].shape == (9, 4, 6, 3)


def test_grey_images_have_one_channel(tmp_path):
    one_folder_per_class(tmp_path)
    assert read(tmp_path, color="gray")[1].shape == (9, 1, 4, 6)


def test_mean_and_std_are_per_channel(tmp_path):
    picture(tmp_path / "red" / "0.png", "red")
    _, images, _ = read(tmp_path, mean=[0.5, 0.25, 0.0], std=[0.5, 0.5, 1.0])
    np.testing.assert_allclose(images[0, :, 0, 0], [1.0, -0.5, 0.0], atol=1e-6)


@pytest.mark.parametrize(
    ("fields", "shape"),
    [
        ({"resize": 8}, (8, 12)),
        ({"resize": [5, 7]}, (5, 7)),
        ({"center_crop": 3}, (3, 3)),
        ({"resize": 8, "center_crop": [8, 10]}, (8, 10)),
    ],
)
def test_resize_keeps_the_ratio_for_one_number_and_crop_takes_the_centre(tmp_path, fields, shape):
    picture(tmp_path / "red" / "0.png")
    assert read(tmp_path, **fields)[1].shape[2:] == shape


def test_a_crop_keeps_the_middle_pixels(tmp_path):
    pixels = np.zeros((5, 5, 3), np.uint8)
    pixels[2, 2] = 255
    (tmp_path / "dot").mkdir()
    Image.fromarray(pixels).save(tmp_path / "dot" / "0.png")
    assert read(tmp_path, center_crop=1)[1].ravel().tolist() == [1.0, 1.0, 1.0]


def test_labels_from_the_start_of_file_names(tmp_path):
    picture(tmp_path / "red_1.png", "red")
    picture(tmp_path / "blue_1.png", "blue")
    dataset, _, _ = read(tmp_path, labels="prefix")
    assert dataset.classes == ("blue", "red")


def test_labels_from_a_table(tmp_path):
    picture(tmp_path / "images" / "a.png", "red")
    picture(tmp_path / "images" / "b.png", "blue")
    (tmp_path / "labels.csv").write_text("file,label\na.png,11\nb.png,2\n")
    dataset, images, labels = read(tmp_path, path="images", labels="labels.csv")
    assert sorted(labels) == [2, 11]
    assert dataset.classes[11] == "11"
    assert images[list(labels).index(11), 0].min() == 1.0


def test_a_list_of_classes_decides_their_numbers(tmp_path):
    one_folder_per_class(tmp_path / "data")
    (tmp_path / "classes.txt").write_text("red\nyellow\ngreen\nblue\n")
    dataset, images, labels = read(tmp_path, path="data", classes="classes.txt")
    assert dataset.classes == ("red", "yellow", "green", "blue")
    assert set(labels) == {0, 2, 3}
    assert (images[labels == 0][:, 0] == 1).all()


@pytest.mark.parametrize("held_out", ["test", "val"])
def test_a_held_out_folder_is_the_test_split(tmp_path, held_out):
    one_folder_per_class(tmp_path / "train", 4)
    one_folder_per_class(tmp_path / held_out, 2)
    dataset, _, _ = read(tmp_path, SplitSizes(validation=0, calibration=5))
    assert [len(dataset.split(name)) for name in ("train", "validation", "calibration", "test")] == [7, 0, 5, 6]


def test_train_val_and_test_folders_are_those_splits(tmp_path):
    for name, each in (("train", 4), ("val", 1), ("test", 2)):
        one_folder_per_class(tmp_path / name, each)
    dataset, _, _ = read(tmp_path, SplitSizes(calibration=5))
    assert [len(dataset.split(name)) for name in ("train", "validation", "calibration", "test")] == [7, 3, 5, 6]


def test_split_folders_can_have_any_name(tmp_path):
    one_folder_per_class(tmp_path / "a", 4)
    one_folder_per_class(tmp_path / "b", 2)
    dataset, _, _ = read(tmp_path, SplitSizes(validation=0, calibration=0), folders={"train": "a", "test": "b"})
    assert len(dataset.split("test")) == 6
    assert dataset.classes == ("blue", "green", "red")


def test_a_class_that_happens_to_be_called_train_stays_a_class(tmp_path):
    picture(tmp_path / "train" / "0.png")
    picture(tmp_path / "bus" / "0.png")
    assert read(tmp_path)[0].classes == ("bus", "train")


def broken_image(root: Path) -> None:
    (root / "red").mkdir()
    (root / "red" / "0.png").write_bytes(b"not an image")


@pytest.mark.parametrize(
    ("prepare", "fields", "message"),
    [
        (broken_image, {}, r"0\.png is not an image that Pillow can read"),
        (lambda root: picture(root / "red" / "0.png"), {"center_crop": 50}, "smaller than the crop of 50x50"),
        (lambda root: picture(root / "0.png"), {}, "lies in no class folder"),
        (lambda root: picture(root / "0.png"), {"labels": "prefix"}, "has no class before '_'"),
        (lambda root: None, {}, "holds no images"),
        (lambda root: None, {"path": "nope"}, "does not exist"),
        (lambda root: picture(root / "red" / "0.png"), {"labels": "nope.csv"}, "table of labels .* does not exist"),
        (lambda root: picture(root / "red" / "0.png"), {"folders": {"train": "a"}}, "there is no folder"),
    ],
)
def test_what_cannot_be_read_is_a_clear_error(tmp_path, prepare, fields, message):
    prepare(tmp_path)
    with pytest.raises(UsageError, match=message):
        read(tmp_path, **fields)


def test_a_class_that_the_list_lacks_is_an_error(tmp_path):
    picture(tmp_path / "data" / "red" / "0.png")
    (tmp_path / "classes.txt").write_text("green\n")
    with pytest.raises(UsageError, match="its class 'red' is not among the 1 classes"):
        read(tmp_path, path="data", classes="classes.txt")


def test_the_fingerprint_follows_pixels_and_names(tmp_path):
    picture(tmp_path / "red" / "0.png")
    seen = {fingerprint(ImageFolderParams(path="."), tmp_path)}
    picture(tmp_path / "red" / "0.png", "blue")
    seen.add(fingerprint(ImageFolderParams(path="."), tmp_path))
    (tmp_path / "red").rename(tmp_path / "crimson")
    seen.add(fingerprint(ImageFolderParams(path="."), tmp_path))
    assert len(seen) == 3


def test_images_of_different_sizes_come_one_by_one(tmp_path):
    for number, size in enumerate([(4, 4), (9, 9), (4, 4)]):
        picture(tmp_path / "red" / f"{number}.png", size=size)
    dataset = load(ImageFolderParams(path="."), SplitSizes(validation=0, calibration=0, test=0), tmp_path, 0)
    batches = list(dataset.split("train").batches(8))
    assert sorted(batch.inputs["input"].shape for batch in batches) == [(1, 3, 4, 4), (1, 3, 4, 4), (1, 3, 9, 9)]
    assert sorted(int(batch.indices[0]) for batch in batches) == [0, 1, 2]


def test_images_without_labels(tmp_path: Path) -> None:
    for name in ("one.png", "deep/two.png"):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(path)
    dataset = load(
        ImageFolderParams(path="images", labels=None), SplitSizes(validation=0, calibration=0, test=0), tmp_path, 0
    )
    (batch,) = dataset.split("train").batches(10)
    assert batch.labels is None
    assert dataset.classes is None
    assert batch.inputs["input"].shape == (2, 3, 4, 4)
