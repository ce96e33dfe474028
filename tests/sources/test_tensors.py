from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from compressctl.core.data import Batch  # noqa: E402
from compressctl.core.errors import UsageError  # noqa: E402
from compressctl.core.model import Signature, TensorSpec  # noqa: E402
from compressctl.core.source import SplitSizes  # noqa: E402
from compressctl.sources import digits  # noqa: E402
from compressctl.sources.params import DigitsParams  # noqa: E402
from compressctl.sources.tensors import as_tensors, tensor_batches  # noqa: E402

SIGNATURE = Signature((TensorSpec("image", "float32", ("batch", 1, 8, 8)),), ())


def test_training_reads_the_samples_that_runtimes_read():
    split = digits.load(DigitsParams(), SplitSizes(), Path(), 0).split("train")
    arrays = list(split.batches(100, shuffle_seed=4))
    tensors = list(tensor_batches(split, SIGNATURE, 100, shuffle_seed=4))
    assert len(arrays) == len(tensors)
    for array, tensor in zip(arrays, tensors, strict=True):
        assert np.array_equal(array.inputs["input"], tensor.inputs["image"].numpy())
        assert np.array_equal(array.labels, tensor.labels.numpy())


def test_tensors_may_be_changed_without_touching_the_data():
    images = np.ones((2, 1, 8, 8), np.float32)
    as_tensors(Batch({"x": images}, None, np.arange(2)), SIGNATURE).inputs["image"].zero_()
    assert (images == 1).all()


@pytest.mark.parametrize(("stored", "wanted"), [(np.int32, torch.int64), (np.float64, torch.float32)])
def test_labels_have_the_type_that_losses_take(stored, wanted):
    batch = Batch({"image": np.ones((2, 1, 8, 8), np.float32)}, np.zeros(2, stored), np.arange(2))
    assert as_tensors(batch, SIGNATURE).labels.dtype == wanted


def test_names_that_do_not_fit_are_an_error():
    batch = Batch({"a": np.ones(2), "b": np.ones(2)}, None, np.arange(2))
    with pytest.raises(UsageError, match="the model takes image but the data gives a, b"):
        as_tensors(batch, SIGNATURE)
