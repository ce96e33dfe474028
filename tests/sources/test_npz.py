import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from compressctl.core.errors import UsageError
from compressctl.core.source import SplitSizes
from compressctl.sources.npz import fingerprint, load
from compressctl.sources.params import NpzParams

SIZES = SplitSizes(validation=4, calibration=6, test=5)
RNG = np.random.default_rng(0)


def write(folder: Path, **arrays: np.ndarray) -> Path:
    np.savez(folder / "data.npz", **arrays)
    return folder


def everything(dataset, name="train"):
    batches = list(dataset.split(name).batches(7))
    return (
        np.concatenate([batch.inputs["input"] for batch in batches]),
        np.concatenate([batch.labels for batch in batches]),
        np.concatenate([batch.indices for batch in batches]),
    )


def joined(images: list[np.ndarray], image_format: str = "PNG") -> tuple[np.ndarray, np.ndarray]:
    files = []
    for image in images:
        stream = io.BytesIO()
        Image.fromarray(image).save(stream, image_format)
        files.append(stream.getvalue())
    return np.frombuffer(b"".join(files), np.uint8), np.cumsum([0, *map(len, files)])


def test_floats_are_given_as_stored_with_their_labels_and_positions(tmp_path):
    inputs, labels = RNG.normal(size=(30, 3)), np.arange(30) % 4
    write(tmp_path, inputs=inputs, labels=labels)
    given, given_labels, indices = everything(load(NpzParams(path="data.npz"), SIZES, tmp_path, 0))
    assert given.dtype == np.float32
    assert np.array_equal(given, inputs[indices].astype(np.float32))
    assert np.array_equal(given_labels, labels[indices])


def test_bytes_become_images_from_0_to_1_with_a_channel_axis(tmp_path):
    images = RNG.integers(0, 256, (30, 5, 4), np.uint8)
    write(tmp_path, x=images, y=np.zeros(30, np.int64))
    params = NpzParams(path="data.npz", inputs="x", labels="y", layout="NHW")
    given, _, indices = everything(load(params, SIZES, tmp_path, 0))
    np.testing.assert_allclose(given[:, 0], images[indices] / 255, rtol=1e-6)


def test_mean_and_std_apply_per_channel_after_scaling(tmp_path):
    images = RNG.integers(0, 256, (30, 5, 4, 3), np.uint8)
    write(tmp_path, inputs=images, labels=np.zeros(30, np.int64))
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    given, _, indices = everything(
        load(NpzParams(path="data.npz", layout="NHWC", mean=mean, std=std), SIZES, tmp_path, 0)
    )
    expected = (images[indices] / 255 - np.array(mean)) / np.array(std)
    np.testing.assert_allclose(given, expected.transpose(0, 3, 1, 2), rtol=1e-5, atol=1e-6)


def test_whole_numbers_such_as_tokens_stay_whole(tmp_path):
    write(tmp_path, inputs=RNG.integers(0, 30000, (30, 8)), labels=np.zeros(30, np.int64))
    given, _, _ = everything(load(NpzParams(path="data.npz"), SIZES, tmp_path, 0))
    assert given.dtype == np.int64


def test_own_test_arrays_are_the_test_split_at_positions_after_the_others(tmp_path):
    write(tmp_path, inputs=np.zeros((30, 2)), labels=np.zeros(30, int), tx=np.ones((8, 2)), ty=np.ones(8, int))
    params = NpzParams(path="data.npz", test_inputs="tx", test_labels="ty")
    dataset = load(params, SplitSizes(calibration=5), tmp_path, 0)
    given, labels, indices = everything(dataset, "test")
    assert (given == 1).all()
    assert (labels == 1).all()
    assert indices.tolist() == list(range(30, 38))
    assert (everything(dataset, "calibration")[0] == 0).all()
    assert dataset.classes == ("0", "1")


def test_encoded_images_are_decoded_to_the_pixels_they_were_made_from(tmp_path):
    images = [RNG.integers(0, 256, (6, 5, 3), np.uint8) for _ in range(30)]
    blob, offsets = joined(images)
    test_blob, test_offsets = joined(images[:3])
    write(
        tmp_path,
        blob=blob,
        offsets=offsets,
        labels=np.arange(30) % 3,
        test_blob=test_blob,
        test_offsets=test_offsets,
        test_labels=np.arange(3),
        names=np.array(["red", "green", "blue"]),
    )
    params = NpzParams.model_validate(
        {
            "path": "data.npz",
            "classes": "names",
            "encoded": {
                "train": {"blob": "blob", "offsets": "offsets", "labels": "labels"},
                "test": {"blob": "test_blob", "offsets": "test_offsets", "labels": "test_labels"},
            },
        }
    )
    dataset = load(params, SplitSizes(validation=0, calibration=5), tmp_path, 0)
    given, labels, indices = everything(dataset)
    assert dataset.classes == ("red", "green", "blue")
    assert np.array_equal(labels, indices % 3)
    expected = np.stack([images[index] for index in indices]).transpose(0, 3, 1, 2) / 255
    np.testing.assert_allclose(given, expected, rtol=1e-6)
    np.testing.assert_allclose(
        everything(dataset, "test")[0], np.stack(images[:3]).transpose(0, 3, 1, 2) / 255, rtol=1e-6
    )


def test_encoded_images_are_decoded_only_when_their_batch_is_read(tmp_path):
    blob, offsets = joined([np.zeros((4, 4, 3), np.uint8)] * 30)
    broken = np.zeros_like(blob)
    write(tmp_path, blob=broken, offsets=offsets)
    params = NpzParams.model_validate(
        {"path": "data.npz", "encoded": {"train": {"blob": "blob", "offsets": "offsets"}}}
    )
    dataset = load(params, SIZES, tmp_path, 0)
    with pytest.raises(UsageError, match=r"blob\[\d+\] is not an image"):
        next(dataset.split("train").batches(2))


def test_reading_twice_gives_the_same_and_shuffling_the_same_samples(tmp_path):
    write(tmp_path, inputs=RNG.normal(size=(40, 3)), labels=np.arange(40))
    split = load(NpzParams(path="data.npz"), SIZES, tmp_path, 0).split("train")
    plain, again, shuffled, reshuffled = (
        [index for batch in split.batches(6, shuffle_seed=seed) for index in batch.indices.tolist()]
        for seed in (None, None, 3, 3)
    )
    assert plain == again
    assert shuffled == reshuffled != plain
    assert sorted(shuffled) == sorted(plain)
    assert len(plain) == len(split)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"inputs": "nope"}, "has no array 'nope'"),
        ({"labels": "short"}, "3 labels for 30 samples"),
        ({"inputs": "words"}, "does not hold samples of numbers"),
        ({"inputs": "scalar"}, "does not hold samples of numbers"),
        ({"layout": "NHWC"}, "has 3 axes, layout NHWC has 4"),
        ({"labels": "negative"}, "holds a negative class, -1"),
        ({"path": "nope.npz"}, "does not exist"),
        ({"path": "text.npz"}, "is not an .npz file"),
        ({"path": "one.npy"}, "is a single array"),
        ({"inputs": "objects"}, "cannot be read"),
    ],
)
def test_what_does_not_fit_is_a_clear_error(tmp_path, fields, message):
    write(
        tmp_path,
        inputs=np.zeros((30, 2, 2)),
        labels=np.zeros(30, int),
        short=np.zeros(3, int),
        words=np.array(["a"] * 30),
        scalar=np.array(1.0),
        negative=np.full(30, -1),
        objects=np.array([{}] * 30, object),
    )
    (tmp_path / "text.npz").write_text("hello")
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(UsageError, match=message):
        load(NpzParams.model_validate({"path": "data.npz", **fields}), SIZES, tmp_path, 0)


def test_means_that_do_not_match_the_channels_are_an_error(tmp_path):
    write(tmp_path, inputs=np.zeros((30, 3, 2, 2)), labels=np.zeros(30, int))
    dataset = load(NpzParams(path="data.npz", mean=(0.1, 0.2)), SIZES, tmp_path, 0)
    with pytest.raises(UsageError, match=r"data\.mean has 2 numbers but the inputs have 3 channels"):
        next(dataset.split("train").batches(2))


def test_arrays_and_encoded_images_exclude_each_other():
    encoded = {"train": {"blob": "b", "offsets": "o"}}
    with pytest.raises(ValueError, match="encoded images have no inputs"):
        NpzParams.model_validate({"path": "x.npz", "inputs": "a", "encoded": encoded})


def test_the_fingerprint_follows_the_content(tmp_path):
    write(tmp_path, inputs=np.zeros((3, 2)), labels=np.zeros(3))
    before = fingerprint(NpzParams(path="data.npz"), tmp_path)
    assert fingerprint(NpzParams(path="data.npz"), tmp_path) == before
    write(tmp_path, inputs=np.ones((3, 2)), labels=np.zeros(3))
    assert fingerprint(NpzParams(path="data.npz"), tmp_path) != before


@pytest.mark.skipif(
    "COMPRESSCTL_DATA" not in os.environ, reason="COMPRESSCTL_DATA does not name a folder with mnist.npz"
)
def test_mnist_is_read_as_it_is_published():
    params = NpzParams(
        path="mnist.npz",
        inputs="train_images",
        labels="train_labels",
        test_inputs="test_images",
        test_labels="test_labels",
        layout="NHW",
    )
    dataset = load(params, SplitSizes(), Path(os.environ["COMPRESSCTL_DATA"]), 0)
    batch = next(dataset.split("test").batches(10))
    assert len(dataset.split("test")) == 10_000
    assert batch.inputs["input"].shape == (10, 1, 28, 28)
    assert batch.labels.tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
