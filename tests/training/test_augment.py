import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from compressctl.core.errors import UsageError  # noqa: E402
from compressctl.core.model import Signature, TensorSpec  # noqa: E402
from compressctl.training.augment import augment, augment_batch, mixup  # noqa: E402
from compressctl.training.data import TensorBatch  # noqa: E402
from compressctl.training.params import Augmentation  # noqa: E402


def images(n: int = 6, channels: int = 3, height: int = 9, width: int = 7) -> "torch.Tensor":
    return torch.as_tensor(np.random.default_rng(0).normal(size=(n, channels, height, width)).astype(np.float32))


def test_a_crop_is_a_window_of_the_mirrored_image() -> None:
    batch = images()
    moved = augment(batch, Augmentation(crop_padding=3), np.random.default_rng(1))
    padded = np.pad(batch.numpy(), ((0, 0), (0, 0), (3, 3), (3, 3)), mode="reflect")
    offsets = set()
    for one, wide in zip(moved.numpy(), padded, strict=True):
        found = [(r, c) for r in range(7) for c in range(7) if np.array_equal(one, wide[:, r : r + 9, c : c + 7])]
        assert len(found) == 1
        offsets.add(found[0])
    assert len(offsets) > 1  # each sample is moved in its own way


def test_a_flip_mirrors_about_half_of_the_samples() -> None:
    batch = images(400)
    flipped = augment(batch, Augmentation(horizontal_flip=True), np.random.default_rng(2))
    is_same = (flipped == batch).flatten(1).all(1)
    is_mirror = (flipped == batch.flip(-1)).flatten(1).all(1)
    assert bool((is_same ^ is_mirror).all())
    assert 150 < int(is_mirror.sum()) < 250


def test_cutout_sets_one_square_to_0_and_nothing_else() -> None:
    batch = images(50, 2, 12, 12)
    cut = augment(batch, Augmentation(cutout=4), np.random.default_rng(3))
    for one, before in zip(cut.numpy(), batch.numpy(), strict=True):
        gone = one != before
        assert (one[gone] == 0).all()
        assert (gone[0] == gone[1]).all()
        rows, columns = np.flatnonzero(gone[0].any(1)), np.flatnonzero(gone[0].any(0))
        assert gone[0].sum() == len(rows) * len(columns)
        assert 2 <= len(rows) <= 4
        assert 2 <= len(columns) <= 4


@given(st.integers(0, 2**32), st.integers(0, 6), st.booleans(), st.integers(0, 9))
def test_one_seed_gives_one_result_and_values_come_from_the_image(
    seed: int, crop: int, flip: bool, cutout: int
) -> None:
    wanted, batch = Augmentation(crop_padding=crop, horizontal_flip=flip, cutout=cutout), images(3)
    first, second = (augment(batch, wanted, np.random.default_rng(seed)) for _ in range(2))
    assert torch.equal(first, second)
    for one, before in zip(first.numpy(), batch.numpy(), strict=True):
        for channel in range(3):
            assert np.isin(one[channel], [0, *before[channel].ravel()]).all()


def test_channels_last_images_are_changed_like_channels_first_ones() -> None:
    batch, wanted = images(), Augmentation(crop_padding=2, horizontal_flip=True, cutout=3)
    first = augment(batch, wanted, np.random.default_rng(4))
    last = augment(batch.permute(0, 2, 3, 1), wanted, np.random.default_rng(4))
    assert torch.equal(first, last.permute(0, 3, 1, 2))


def test_a_crop_larger_than_the_image_is_refused() -> None:
    with pytest.raises(UsageError, match=r"augment\.crop_padding is 7, and the images are 9x7"):
        augment(images(), Augmentation(crop_padding=7), np.random.default_rng(0))


def test_augment_without_images_is_refused() -> None:
    with pytest.raises(UsageError, match="no input of the model is one"):
        augment_batch(
            TensorBatch((torch.zeros(2, 5),), None), Augmentation(horizontal_flip=True), np.random.default_rng(0)
        )


SIGNATURE = Signature((TensorSpec("x", "float32", ("batch", 5)),), (TensorSpec("y", "float32", ("batch", 4)),))


def test_mixup_mixes_labels_as_it_mixes_inputs() -> None:
    inputs = torch.eye(4).repeat(3, 1)
    batch = TensorBatch((inputs,), torch.arange(4).repeat(3))
    mixed = mixup(batch, 0.4, "classification", SIGNATURE, np.random.default_rng(5))
    assert torch.allclose(mixed.inputs[0], mixed.labels)
    assert torch.allclose(mixed.labels.sum(1), torch.ones(12))
    assert bool(((mixed.labels > 0).sum(1) == 2).any())


def test_mixup_of_values_is_linear() -> None:
    inputs = torch.arange(6.0)[:, None]
    mixed = mixup(TensorBatch((inputs,), inputs[:, 0] * 3 + 1), 0.4, "regression", SIGNATURE, np.random.default_rng(6))
    assert torch.allclose(mixed.inputs[0][:, 0] * 3 + 1, mixed.labels)


def test_tokens_are_not_mixed() -> None:
    batch = TensorBatch((torch.zeros(2, 5, dtype=torch.int64),), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(UsageError, match="takes integers"):
        mixup(batch, 0.2, "classification", SIGNATURE, np.random.default_rng(0))
