"""Pictures of text: which file has which text, and how a picture becomes an array."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from compressctl.core.errors import UsageError
from compressctl.core.source import SplitSizes
from compressctl.sources.params import TextImagesParams
from compressctl.sources.text_images import fingerprint, load

NONE = SplitSizes(validation=0, calibration=0, test=0)
LISTS = {
    "l.txt": "a.png\tone two\nb.png\tthree\n",
    "l.tsv": "file\ttext\r\na.png\tone two\r\nb.png\tthree\r\n",
    "l.csv": 'text,file\n"one two",a.png\nthree,b.png\n',
    "l.jsonl": '{"file": "a.png", "text": "one two"}\n\n{"image": "b.png", "label": "three"}\n',
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, width, colour in [("a.png", 30, (255, 0, 0)), ("b.png", 60, (0, 0, 255))]:
        Image.new("RGB", (width, 20), colour).save(tmp_path / name)
    for name, content in LISTS.items():
        (tmp_path / name).write_text(content, newline="")
    return tmp_path


def samples(folder: Path, **fields: object) -> dict[str, np.ndarray]:
    """Each picture by its text."""
    dataset = load(TextImagesParams.model_validate({"path": "l.txt", **fields}), NONE, folder, 0)
    found = {}
    for batch in dataset.split("train").batches(8):
        assert batch.labels is not None
        for image, text in zip(batch.inputs["input"], batch.labels, strict=True):
            found[text] = image
    return found


@pytest.mark.parametrize("name", LISTS)
def test_every_form_of_list_says_the_same(folder: Path, name: str) -> None:
    found = samples(folder, path=name)
    assert set(found) == {"one two", "three"}
    assert found["one two"].shape == (3, 20, 30)
    assert found["three"][2].min() == 1


def test_height_keeps_the_ratio_and_widths_stay_their_own(folder: Path) -> None:
    found = samples(folder, height=10)
    assert [found[text].shape for text in ("one two", "three")] == [(3, 10, 15), (3, 10, 30)]


def test_narrow_pictures_are_padded_and_wide_ones_squeezed(folder: Path) -> None:
    found = samples(folder, height=10, width=20, pad=7, mean=[0.5], std=[0.5])
    assert found["one two"].shape == found["three"].shape == (3, 10, 20)
    assert (found["one two"][:, :, 15:] == 7).all()
    np.testing.assert_allclose(found["one two"][0, :, :15], 1)
    np.testing.assert_allclose(found["three"][2], 1)


def test_resize_squeezes_and_letterbox_keeps_the_ratio(folder: Path) -> None:
    assert samples(folder, resize=[8, 8])["one two"].shape == (3, 8, 8)
    boxed = samples(folder, resize=[20, 60], letterbox="corner", fill=0)["one two"]
    assert boxed[0, :, :30].min() == 1
    assert boxed[0, :, 30:].max() == 0


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"resize": [8, 8], "height": 8}, "leave one of them out"),
        ({"letterbox": "center"}, "fits an image into resize"),
        ({"resize": 8, "letterbox": "center"}, "fits an image into resize"),
        ({"resize": [8, 8], "fill": 3}, "fill belongs to letterbox"),
    ],
)
def test_sizes_that_contradict_each_other_are_refused(fields: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        TextImagesParams.model_validate({"path": "l.txt", **fields})


def test_channels_as_opencv_orders_them_or_last_or_one(folder: Path) -> None:
    assert samples(folder, color="bgr")["one two"][2].min() == 1
    assert samples(folder, layout="NHWC")["three"].shape == (20, 60, 3)
    assert samples(folder, color="gray")["three"].shape == (1, 20, 60)


def test_a_second_list_is_the_test_split(folder: Path) -> None:
    Image.new("RGB", (60, 20)).save(folder / "c.png")
    (folder / "t.txt").write_text("c.png\tthree\n")
    dataset = load(
        TextImagesParams(path="l.txt", test_path="t.txt"), SplitSizes(validation=0, calibration=1), folder, 0
    )
    assert [len(dataset.split(name)) for name in ("train", "calibration", "test")] == [1, 1, 1]
    assert next(dataset.split("test").batches(1)).labels.tolist() == ["three"]


def test_text_and_pictures_decide_the_fingerprint(folder: Path) -> None:
    params = TextImagesParams(path="l.txt")
    before = fingerprint(params, folder)
    (folder / "l.txt").write_text("a.png\tone too\nb.png\tthree\n")
    changed = fingerprint(params, folder)
    Image.new("RGB", (30, 20)).save(folder / "a.png")
    assert len({before, changed, fingerprint(params, folder)}) == 3


def test_a_picture_that_is_not_there_is_named_with_its_line(folder: Path) -> None:
    (folder / "l.jsonl").write_text(json.dumps({"file": "c.png", "text": "x"}))
    with pytest.raises(UsageError, match=r"l\.jsonl:1: the picture .*c\.png does not exist"):
        samples(folder, path="l.jsonl")
